"""shift_test.py: which images take part, how they move, and that its accuracies are those of a naive loop."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file
from tiny_scripts import files_below, tiny_classifier
from torchvision.transforms.v2 import functional as pictures

import dl_proj.experiments.images.classification.shift as shift_testing
import dl_proj.experiments.images.data
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.shift import empty_columns, shifted
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.sources import IMAGE_SETS
from dl_proj.settings.load import load_config
from my_custom_ai.custom_train.checkpoint import save_weights

CSV, PNG = Path("runs/shift_test/shifts.csv"), Path("runs/shift_test/shifts.png")


def naive_margin(image):
    """Of (c, h, w): columns from either side until the first that is not black."""
    width = image.shape[-1]
    for margin in range(width):
        if image[..., margin].any() or image[..., width - 1 - margin].any():
            return margin
    return width


def naive_shift(image, by):
    moved = np.zeros_like(image)
    width = image.shape[-1]
    for x in range(width):
        if 0 <= x - by < width:
            moved[..., x] = image[..., x - by]
    return moved


def with_margins(margins, channels=1, side=28, seed=0):
    """Random images (n, c, side, side) whose outermost ink is so many columns from a border, on one side or both."""
    random = np.random.default_rng(seed)
    images = np.zeros((len(margins), channels, side, side), dtype=np.uint8)
    for i, (image, margin) in enumerate(zip(images, margins, strict=True)):
        left, right = margin + (2 if i % 3 == 0 else 0), margin + (1 if i % 3 == 1 else 0)
        shape = (channels, side, side - left - right)
        image[:, :, left : side - right] = random.integers(256, size=shape) * random.integers(2, size=shape)
        image[random.integers(channels), random.integers(side), [left, side - 1 - right]] = 1  # however faint
    return images


@pytest.fixture
def test_images(monkeypatch):
    """60 made-up test images for mnist and for fashion_mnist, with margins of 0 to 9: (pixels, labels)."""
    pixels, labels = with_margins(np.arange(60) % 10), np.arange(60) // 2 * 7 % 10
    part = torch.from_numpy(pixels), torch.from_numpy(labels)
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setitem(dl_proj.experiments.images.data._READERS, name, lambda root: {"train": part, "test": part})
    return pixels, labels


def checkpoint(name, changes=None, n_classes=10, seed=0):
    """A folder with a model of wild weights, which is of another opinion on every image; gives its name."""
    changes = {"data.dataset": "mnist", "data.patch_size": 7, "seed": seed, **(changes or {})}
    config = ClassifierTrainConfig.model_validate(tiny_classifier(changes))
    model = build_classification_model(config, n_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(2 * torch.randn_like(parameter))
    Path(name).mkdir(parents=True)
    save_weights(Path(name) / "model.safetensors", model)
    Path(name, "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return name


def naive_rows(name, pixels, labels, wanted, most):
    """(shift, images, accuracy), one image after the other; ``labels`` are numbers among the model's classes."""
    config = load_config(ClassifierTrainConfig, Path(name) / "config.yaml")
    weights = load_file(Path(name) / "model.safetensors")
    model = build_classification_model(config, len(weights["to_logits.bias"])).eval()
    model.load_state_dict(weights)
    data = config.data
    part = [i for i in range(len(labels)) if labels[i] in wanted and naive_margin(pixels[i]) >= most]
    found = []
    for shift in range(-most, most + 1):
        right = 0
        for i in part:
            image = torch.from_numpy(naive_shift(pixels[i], shift))[None]
            image = pictures.rgb_to_grayscale(image) if data.greyscale and image.shape[1] == 3 else image
            image = pictures.resize(image, [data.side, data.side], antialias=True)
            levels = (image.double() * data.vocab_size / 256).floor().to(torch.uint8)
            with torch.no_grad():
                right += int(model(levels).argmax(-1).item() == labels[i])
        found.append((shift, len(part), right / len(part)))
    return found


def measured(script, *flags):
    """Run the script; {checkpoint: rows of the CSV as (shift, images, accuracy)}."""
    outcome = script("shift_test", "--device", "cpu", *flags)
    assert outcome.code == 0, outcome.lines
    found = {}
    with CSV.open(newline="") as file:
        for row in csv.DictReader(file):
            assert set(row) == {"checkpoint", "attention", "shift", "images", "accuracy"}
            point = int(row["shift"]), int(row["images"]), float(row["accuracy"])
            found.setdefault(row["checkpoint"], []).append(point)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_empty_columns_are_those_on_the_narrower_side(channels):
    images = with_margins([0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5], channels, side=14)
    images[7] = 0
    found = empty_columns(torch.from_numpy(images))
    assert found.tolist() == [naive_margin(image) for image in images]
    assert set(found.tolist()) == {0, 1, 2, 4, 5, 14}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("by", range(-5, 6))
def test_images_move_sideways_and_black_comes_in(by, channels):
    """Also what stands at the border, which is lost."""
    images = np.random.default_rng(0).integers(1, 256, size=(4, channels, 3, 5), dtype=np.uint8)
    given = torch.from_numpy(images.copy())
    moved = shifted(given, by)
    assert moved.dtype == torch.uint8
    np.testing.assert_array_equal(moved, naive_shift(images, by))
    np.testing.assert_array_equal(given, images)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_accuracies_are_those_of_a_naive_loop(batch_size, test_images, script):
    pixels, labels = test_images
    models = {
        "as-it-comes": {"model.dropout": 0.5},
        "half/as/large": {"data.image_size": 14, "data.vocab_size": 7, "model.attention.kind": "shared_qk"},
        "shifted in training": {"data.random_shift": 3, "data.image_size": 14, "data.patch_stride": 7},
    }
    names = [checkpoint(name, changes, seed=seed) for seed, (name, changes) in enumerate(models.items())]
    flags = ("--labels", "null", "--max_shift", 3, "--batch_size", batch_size)
    found = measured(script, "--checkpoints", ",".join(names), *flags)
    assert list(found) == names
    for name in names:
        assert found[name] == naive_rows(name, pixels, labels, range(10), 3), name
        assert len({accuracy for *_, accuracy in found[name]}) > 1, "or a model that sees nothing would do"


@pytest.mark.parametrize("most", [1, 4, 9])
def test_only_images_with_room_for_all_shifts_take_part(most, test_images, script):
    pixels, labels = test_images
    name = checkpoint("m")
    found = measured(script, "--checkpoints", name, "--labels", "null", "--max_shift", most)[name]
    assert found == naive_rows(name, pixels, labels, range(10), most)
    assert [images for _, images, _ in found] == [60 - 6 * most] * (2 * most + 1)


@pytest.mark.parametrize(("flag", "wanted"), [("1", [1]), ("trouser", [1]), ("8,coat,2", [2, 4, 8])])
def test_labels_by_name_or_number(flag, wanted, test_images, script):
    pixels, labels = test_images
    name = checkpoint("m", {"data.dataset": "fashion_mnist"})
    found = measured(script, "--checkpoints", name, "--labels", flag, "--max_shift", 1)[name]
    assert found == naive_rows(name, pixels, labels, wanted, 1)


def test_ones_are_moved_unless_something_else_is_said(test_images, script):
    pixels, labels = test_images
    name = checkpoint("m")
    assert measured(script, "--checkpoints", name, "--max_shift", 2)[name] == naive_rows(name, pixels, labels, [1], 2)


def test_models_that_know_other_classes_are_asked_for_the_same_ones(test_images, script):
    """A number is the dataset's, not a model's."""
    pixels, labels = test_images
    models = {"all": list(range(10)), "some": [7, 0, 1], "others": [4, 1, 9, 0]}
    for name, own in models.items():
        checkpoint(name, {"data.labels": own}, n_classes=len(own))
    found = measured(script, "--checkpoints", ",".join(models), "--labels", "0,1", "--max_shift", 1)
    for name, own in models.items():
        renumbered = np.array([own.index(label) if label in own else -1 for label in labels])
        assert found[name] == naive_rows(name, pixels, renumbered, [own.index(0), own.index(1)], 1), name
    assert len({rows[0][1] for rows in found.values()}) == 1, "the same images"


@pytest.mark.parametrize("greyscale", [False, True])
def test_a_folder_of_pictures_that_was_moved(greyscale, script):
    images = with_margins(np.arange(40) % 4, channels=3, side=8)
    for i, image in enumerate(images):
        for part in ("train", "test"):
            path = Path("before", part, "ab"[i // 20], f"{i:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    if greyscale:  # they are grey before anything else, and what is faint is black then
        images = pictures.rgb_to_grayscale(torch.from_numpy(images)).numpy()
    data = {"dataset": "image_folder", "root": "before", "image_size": 8, "patch_size": 4, "greyscale": greyscale}
    name = checkpoint("m", {"data": data, "data.dataset": "image_folder", "data.patch_size": 4}, n_classes=2)
    Path("before").rename("after")
    flags = ("--checkpoints", name, "--labels", "b,a", "--max_shift", 2)
    assert script("shift_test", *flags).lines[0].startswith("data.root: before/train")
    found = measured(script, *flags, "--data.root", "after")[name]
    close = [np.abs(np.subtract(a, b)).max() for a, b in zip(found, naive_folder_rows(name, images), strict=True)]
    assert max(close) < 1e-12


def naive_folder_rows(name, images):
    return naive_rows(name, images, np.arange(40) // 20, [0, 1], 2)


def test_what_is_written_and_shown(test_images, script, monkeypatch):
    figures = []
    save = shift_testing.save_for_print
    monkeypatch.setattr(shift_testing, "save_for_print", lambda *given: (figures.append(given[0]), save(*given)))
    names = [checkpoint("m"), checkpoint("n", {"model.attention.kind": "shared_qk"}, seed=1)]
    before = files_below(".")
    outcome = script("shift_test", "--checkpoints", ",".join(names), "--max_shift", 2, "--device", "cpu")
    assert files_below(".") - before == {str(CSV), str(PNG), str(PNG.with_suffix(".pdf"))}
    with CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["checkpoint"], row["attention"], row["shift"]) for row in rows] == [
        (name, kind, str(shift))
        for name, kind in zip("mn", ("full", "shared_qk"), strict=True)
        for shift in range(-2, 3)
    ]
    (panel,) = figures[0].axes
    for name, line in zip(names, panel.get_lines(), strict=True):
        points = [(int(row["shift"]), 100 * float(row["accuracy"])) for row in rows if row["checkpoint"] == name]
        assert (line.get_label(), list(map(tuple, line.get_xydata()))) == (name, points)
    assert len(np.unique(imread(PNG))) > 20, "not blank"
    heads, _, *lines = (list(map(str.strip, line.strip("|").split("|"))) for line in outcome.out.splitlines()[:4])
    assert heads == ["checkpoint", "images", "-2", "-1", "+0", "+1", "+2"]
    for name, line in zip(names, lines, strict=True):
        accuracies = [f"{100 * float(row['accuracy']):.1f}" for row in rows if row["checkpoint"] == name]
        assert line == [name, rows[0]["images"], *accuracies]


def test_real_digits_move(script):
    """Without a reader that is made up."""
    test = dl_proj.experiments.images.data._READERS["digits"](Path())["test"]
    name = checkpoint("m", {"data.dataset": "digits", "data.patch_size": 4})
    found = measured(script, "--checkpoints", name, "--labels", "1,7", "--max_shift", 1)[name]
    assert found == naive_rows(name, test[0].numpy(), test[1].numpy(), [1, 7], 1)
    assert IMAGE_SETS["digits"].side == test[0].shape[-1]


def test_other_images_by_the_trainings_flags(test_images, script):
    """A model of some digits, on clothes."""
    pixels, labels = test_images
    name = checkpoint("digits", {"data.labels": [1, 7]}, n_classes=2)
    flags = ("--checkpoints", name, "--labels", "null", "--max_shift", 2)
    found = measured(script, *flags, "--data.dataset", "fashion_mnist", "--data.labels", "coat,bag")
    of_clothes = np.select([labels == 4, labels == 8], [0, 1], -1)
    assert found[name] == naive_rows(name, pixels, of_clothes, {0, 1}, 2)
