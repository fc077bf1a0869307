"""Drawn images: what they depend on and what not, and that a grid shows each in its place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dl_proj.experiments.images.generation.draw as drawing
from dl_proj.experiments.images.generation.draw import draw, draw_grid
from dl_proj.experiments.images.settings import GeneratorDataConfig
from dl_proj.models.build import build_autoregressive
from dl_proj.models.settings import StackConfig

CPU = torch.device("cpu")
VOCAB, PIXELS, LABELS = 7, 16, 3
DATA = GeneratorDataConfig(dataset="digits", max_len=PIXELS, vocab_size=VOCAB)
MODELS = {
    "full": {"attention": {"kind": "full"}},
    "shared_qk": {"attention": {"kind": "shared_qk"}, "reversible": True},
    "lsh": {"attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2}},
    "lsh, larger grid": {
        "attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 1},
        "positions": {"kind": "axial", "shape": (6, 6)},
    },
}
ORDER = torch.tensor([0, 2, 1, 1, 0])


def generator(kind="full"):
    """With weights large enough that a pixel depends on those before it; several levels are probable."""
    torch.manual_seed(1)
    config = StackConfig.model_validate(
        {"dim": 12, "heads": 2, "depth": 2, "ffn_dim": 16, "dropout": 0.3} | MODELS[kind]
    )
    model = build_autoregressive(config, vocab_size=VOCAB, max_len=PIXELS, n_labels=LABELS, seed=2).double()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.6)
    return model


def paint(levels):
    """0 is black and the last level white."""
    return np.array([round(level * 255 / (VOCAB - 1)) for level in levels.flatten().tolist()]).reshape(-1, 4, 4)


@torch.no_grad()
def most_probable_images(model, labels, given):
    """The whole image again for each pixel, as in training; what stands behind it is noise that nothing can see."""
    model.eval()
    levels = given
    while levels.shape[1] < PIXELS:
        noise = torch.randint(VOCAB, (len(levels), PIXELS - 1 - levels.shape[1]))
        logits = model(torch.cat((levels, noise), dim=1), labels=labels)[:, levels.shape[1]]
        levels = torch.cat((levels, logits.argmax(-1, keepdim=True)), dim=1)
    return levels


@pytest.mark.parametrize("given", [0, 6, PIXELS])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("setting", [{"top_k": 1}, {"temperature": 1e-4}, {"top_p": 1e-6}])
def test_greedy_images_are_the_models_as_it_was_trained(kind, given, setting):
    model = generator(kind)
    first = torch.randint(VOCAB, (5, given))
    images = draw(model, ORDER, DATA, seed=0, device=CPU, given=first, **setting)
    assert (images.dtype, images.shape) == (torch.uint8, (5, 4, 4))
    assert (images.numpy() == paint(most_probable_images(model, ORDER, first))).all()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("given", [0, 6])
def test_an_image_does_not_depend_on_those_beside_it(kind, given):
    model = generator(kind)
    first = torch.randint(VOCAB, (5, given))
    images = draw(model, ORDER, DATA, seed=4, device=CPU, given=first)
    for batch_size in (1, 2, 5):
        again = draw(model, ORDER, DATA, seed=4, device=CPU, given=first, batch_size=batch_size)
        assert torch.equal(again, images)
    fewer = draw(model, ORDER[:3], DATA, seed=4, device=CPU, given=first[:3])
    assert torch.equal(fewer, images[:3])


def test_another_seed_draws_other_images_and_each_image_is_its_own():
    model = generator()
    labels = torch.zeros(12, dtype=torch.int64)
    one, two = (draw(model, labels, DATA, seed=seed, device=CPU) for seed in (1, 2))
    assert len({image.numpy().tobytes() for image in torch.cat((one, two))}) == 24


def test_the_global_generator_is_neither_asked_nor_moved():
    model = generator()
    torch.manual_seed(5)
    one, drawn = draw(model, ORDER, DATA, seed=1, device=CPU), torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(one, draw(model, ORDER, DATA, seed=1, device=CPU))


def test_given_pixels_are_kept_and_the_others_are_of_any_level():
    model = generator()
    first = torch.randint(VOCAB, (40, 6))
    images = draw(model, torch.arange(40) % LABELS, DATA, seed=0, device=CPU, given=first).flatten(1)
    expected = [[round(level * 255 / 6) for level in row] for row in first.tolist()]
    assert images[:, :6].tolist() == expected
    assert set(images[:, 6:].flatten().tolist()) == {round(level * 255 / 6) for level in range(VOCAB)}


def test_images_are_drawn_with_the_models_probabilities():
    """A model of which each pixel's distribution is known, by its label alone."""

    model = generator()
    for parameter in model.to_logits.parameters():
        nn.init.zeros_(parameter)
    shares = torch.tensor([0.4, 0.05, 0.05, 0.1, 0.2, 0.15, 0.05], dtype=torch.float64)
    model.to_logits.bias.data = shares.log()
    images = draw(model, torch.zeros(200, dtype=torch.int64), DATA, seed=0, device=CPU)
    levels = (images.double() * 6 / 255).round().long().flatten()
    found = torch.bincount(levels, minlength=VOCAB) / len(levels)
    torch.testing.assert_close(found.double(), shares, rtol=0, atol=0.03)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_left_as_it_was_and_dropout_is_off(training):
    model = generator()
    quiet = draw(model.eval(), ORDER, DATA, seed=1, device=CPU)
    assert torch.equal(draw(model.train(training), ORDER, DATA, seed=1, device=CPU), quiet)
    assert model.training is training
    assert all(part.training is training for part in model.modules())


def test_progress_wraps_each_batchs_pixels():
    seen = []
    draw(generator(), ORDER, DATA, seed=1, device=CPU, batch_size=2, progress=lambda steps: seen.append(steps) or steps)
    assert [len(steps) for steps in seen] == [PIXELS] * 3


def content(path):
    """The picture without its white margin, grey."""
    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("L"))
    rows, columns = (grey < 250).any(1).nonzero()[0], (grey < 250).any(0).nonzero()[0]
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize(("height", "width", "side"), [(2, 3, 4), (3, 2, 5), (1, 4, 8), (4, 1, 3), (1, 1, 6)])
def test_the_grid_shows_every_pixel_of_every_image_in_its_place(height, width, side):
    rows = torch.randint(0, 240, (height, width, side, side)).to(torch.uint8)
    draw_grid(rows, ("",) * height, Path("new/grid.png"))
    picture = content("new/grid.png")
    pixel = picture.shape[0] / (height * (side + 1) - 1), picture.shape[1] / (width * (side + 1) - 1)
    assert pixel[0] == pytest.approx(pixel[1], rel=0.05)

    def seen(row, column):
        """At the middle of a place, one place being a pixel of an image or of the gaps of one pixel between them."""
        return int(picture[int((row + 0.5) * pixel[0]), int((column + 0.5) * pixel[1])])

    for i in range(height):
        for j in range(width):
            for y in range(side):
                for x in range(side):
                    shown = seen(i * (side + 1) + y, j * (side + 1) + x)
                    assert abs(shown - rows[i, j, y, x].item()) <= 1, (i, j, y, x)
    gaps = [(side, x) for x in range(side) if height > 1] + [(y, side) for y in range(side) if width > 1]
    assert all(80 < seen(*place) < 120 for place in gaps)


def test_a_white_image_is_where_it_belongs():
    rows = torch.zeros(3, 4, 6, 6, dtype=torch.uint8)
    rows[1, 2] = 255
    draw_grid(rows, ("",) * 3, Path("grid.png"))
    picture = content("grid.png")
    cells = [np.array_split(band, 4, axis=1) for band in np.array_split(picture, 3, axis=0)]
    means = np.array([[cell.mean() for cell in band] for band in cells])
    assert means[1, 2] > 200
    assert np.delete(means.flatten(), 1 * 4 + 2).max() < 60


@pytest.mark.parametrize("columns", [(), ("real", "mine"), ("real", "mine", "more")])
def test_labels_stand_at_their_rows_and_titles_at_their_columns(columns, monkeypatch):
    figures = []
    save = drawing.save_figure
    monkeypatch.setattr(drawing, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    draw_grid(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ("zero", "one"), Path("grid.png"), columns)
    panel = figures[0].axes[0]
    labels = {tick.get_text(): place for tick, place in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True)}
    titles = {tick.get_text(): place for tick, place in zip(panel.get_xticklabels(), panel.get_xticks(), strict=True)}
    assert labels == {"zero": 1.5, "one": 6.5}  # rows 0 to 3, a gap, rows 5 to 8
    assert titles == dict(zip(columns, (1.5, 6.5, 11.5), strict=False))


def test_the_pictures_own_tensor_is_left_as_it_is():
    rows = torch.randint(0, 255, (2, 2, 4, 4)).to(torch.uint8)
    before = rows.clone()
    draw_grid(rows, ("a", "b"), Path("grid.png"))
    assert torch.equal(rows, before)
    assert [path.name for path in Path().iterdir()] == ["grid.png"]
