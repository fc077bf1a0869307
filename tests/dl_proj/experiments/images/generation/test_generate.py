"""mnist_generator.py: what it draws, what it completes, what it writes, and what a judge says of it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file
from tiny_scripts import as_yaml, assert_states, call, files_below, one_thread, over, tiny_classifier, tiny_generator

import dl_proj.checkpoint_folder
import dl_proj.experiments.images.generation.generate as digit_drawing
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.data import load_configured
from dl_proj.experiments.images.generation.generator import Generator
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.models.classification import ClassificationModel
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.settings.load import load_config

OUT = Path("runs/mnist_generator")
GENERATORS = {
    "gen": {"loss": {"kind": "cross_entropy"}},
    "odd": {"data.max_len": 25, "data.vocab_size": 5},
    "two": {"data.labels": [7, 3]},
}
CLASSIFIERS = {
    "judge": {"data.vocab_size": 16, "model.dropout": 0.5},
    "resizing": {
        "data": {"dataset": "digits", "image_size": 3, "patch_size": 1, "labels": [9, 7, 3, 1]},
    },
    "ignorant": {"data": {"dataset": "digits", "labels": [7, 1], "patch_size": 4}},
}


@pytest.fixture(scope="module")
def models_once(tmp_path_factory):
    """Generators and classifiers that have seen little and therefore say different things."""
    folder = tmp_path_factory.mktemp("models")
    usual = {"runs_dir": str(folder), "train.trackers": [], "train.max_steps": 12, "train.eval_every": 12}
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
        for name, changes in GENERATORS.items():
            config = tiny_generator({**usual, "experiment_name": name, "samples_per_label": 0, **changes})
            assert call("generation_train", "--config", as_yaml(folder / "c.yaml", config)).code == 0
        for name, changes in CLASSIFIERS.items():
            config = tiny_classifier({**usual, "experiment_name": name, **changes})
            assert call("cls_train", "--config", as_yaml(folder / "c.yaml", config)).code == 0
    return folder


@pytest.fixture
def models(models_once, tmp_path):
    """Their runs, by name, as paths in this test's own folder."""
    shutil.copytree(models_once, tmp_path / "models")
    return {name: f"models/{name}/version_0" for name in GENERATORS | CLASSIFIERS}


@pytest.fixture
def grids(monkeypatch):
    """Pictures are not drawn; gives what would have been: (rows, labels, path, columns)."""
    drawn = []
    monkeypatch.setattr(digit_drawing, "draw_grid", lambda *grid: drawn.append(grid))
    return drawn


def draw(script, checkpoint, *flags):
    """Call the script, expect success."""
    own = ["--checkpoint", checkpoint, "--device", "cpu", "--per_label", "2"]
    outcome = script("mnist_generator", *over(own, flags))
    assert outcome.code == 0, outcome.lines
    return outcome


def single_files(folder=OUT):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*_*.png"))}


def test_a_grid_and_nothing_else(models, script):
    outcome = draw(script, models["gen"])
    assert {file for file in files_below(".") if not file.startswith("models")} == {str(OUT / "grid.png")}
    assert outcome.out == f"written: {OUT / 'grid.png'}\n"
    assert len(np.unique(imread(OUT / "grid.png"))) > 5, "not blank"


def test_single_files_are_the_images_of_the_grid(models, script, grids):
    """Named after label and number, in the generator's size, on the levels that it knows."""
    outcome = draw(script, models["odd"], "--single_files", "--labels", "6,2")
    ((rows, labels, path, columns),) = grids
    assert (labels, path, columns) == (("6", "2"), OUT / "grid.png", ())
    files = single_files()
    assert list(files) == ["2_0.png", "2_1.png", "6_0.png", "6_1.png"]
    for i, label in enumerate(labels):
        for number in range(2):
            assert (files[f"{label}_{number}.png"] == rows[i, number].numpy()).all()
    assert {image.shape for image in files.values()} == {(5, 5)}
    assert set(np.unique(list(files.values()))) <= {0, 64, 128, 191, 255}, "five levels"
    assert outcome.out.splitlines()[-1] == f"written: 4 files {OUT / '<label>_<number>.png'}"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_seed_decides_every_byte_whatever_the_batch(models, script, grids):
    for name, flags in {
        "first": (),
        "again": (),
        "ones": ("--batch_size", "1"),
        "threes": ("--batch_size", "3"),
        "other": ("--seed", "1"),
    }.items():
        draw(script, models["gen"], "--single_files", "--output_dir", name, *flags)
    first = contents(Path("first"))
    assert len(first) == 20
    assert contents(Path("again")) == contents(Path("ones")) == contents(Path("threes")) == first
    assert contents(Path("other")) != first


def test_the_first_of_many_labels_is_drawn_as_the_only_one(models, script, grids):
    draw(script, models["gen"], "--single_files", "--output_dir", "all", "--labels", "3,4")
    draw(script, models["gen"], "--single_files", "--output_dir", "one", "--labels", "3")
    assert contents(Path("one")).items() <= contents(Path("all")).items()


@pytest.mark.parametrize("flags", [("--top_k", "1"), ("--top_p", "1e-9"), ("--temperature", "1e-9")])
def test_the_most_probable_image(flags, models, script, grids):
    """Three ways to it, none of which depends on the seed, all as a naive loop over the pixels finds it."""
    draw(script, models["gen"], *flags, "--seed", "5", "--labels", "8")
    config, model = trained(GeneratorTrainConfig, build_generator, models["gen"])
    pixels, label = torch.empty(1, 0, dtype=torch.int64), torch.tensor([8])
    with torch.no_grad():
        for _ in range(config.data.max_len):
            said = model(pixels, labels=label)[:, -1].argmax(-1, keepdim=True)
            pixels = torch.cat((pixels, said), dim=1)
    expected = np.rint(pixels.numpy().reshape(4, 4) * (255 / 7))
    for image in grids[0][0][0]:
        assert (image.numpy() == expected).all()


def trained(schema, build, run):
    config = load_config(schema, Path(run) / "config.yaml")
    model = build(config, len(load_configured(config.data).classes)).eval()
    model.load_state_dict(load_file(Path(run) / "checkpoints/best/model.safetensors"))
    return config, model


def test_labels_are_what_the_model_knows(models, script, grids):
    draw(script, models["two"])
    assert grids[-1][1] == ("7", "3")
    draw(script, models["two"], "--labels", "3")
    assert grids[-1][1] == ("3",)
    outcome = script("mnist_generator", "--checkpoint", models["two"], "--labels", "3,8")
    assert outcome.code == 2
    assert len(outcome.lines) == 1
    assert outcome.lines[0].startswith("labels: ")
    assert outcome.lines[0].endswith("8' is no class; there are: 7, 3")


def test_a_model_is_asked_for_its_own_numbers_of_the_labels(models, script, grids, monkeypatch):
    asked = []
    generate = AutoregressiveModel.generate

    def watch(self, prompt, length, *, labels, **others):
        asked.append(labels.tolist())
        return generate(self, prompt, length, labels=labels, **others)

    monkeypatch.setattr(AutoregressiveModel, "generate", watch)
    draw(script, models["two"], "--labels", "3,7", "--batch_size", "3")
    assert asked == [[1, 1, 0], [0]], "3 is this model's label 1; three are drawn together"


@pytest.mark.parametrize(("name", "side", "kept"), [("gen", 4, 2), ("odd", 5, 3)])
def test_completing_keeps_the_upper_half_of_test_images(name, side, kept, models, script, grids):
    """The first of each label, as the model's levels show them; the lower half is drawn, and is not the real one's."""
    draw(script, models[name], "--complete", "--single_files", "--labels", "5,0", "--batch_size", "3")
    ((rows, labels, _, columns),) = grids
    assert labels == ("5", "0")
    assert columns == ("real", "finished") * 2
    config = load_config(GeneratorTrainConfig, Path(models[name]) / "config.yaml")
    test = load_configured(config.data).test
    files, lower = single_files(), []
    for row, label in zip(rows, labels, strict=True):
        numbers = [i for i, known in enumerate(test.labels.tolist()) if known == int(label)][:2]
        for number, image in enumerate(numbers):
            real = np.rint(test.levels[image, 0].numpy() * (255 / (config.data.vocab_size - 1)))
            finished = files[f"{label}_{number}.png"]
            assert (row[2 * number].numpy() == real).all()
            assert (row[2 * number + 1].numpy() == finished).all()
            assert (finished[:kept] == real[:kept]).all()
            lower.append((finished[kept:] == real[kept:]).all())
    assert finished.shape == (side, side)
    assert not any(lower)


def test_a_completion_continues_the_given_half(models, script, grids):
    """At the most probable, a naive loop over the pixels finds the same."""
    draw(script, models["odd"], "--complete", "--top_k", "1", "--labels", "4", "--per_label", "3")
    config, model = trained(GeneratorTrainConfig, build_generator, models["odd"])
    test = load_configured(config.data).test
    real = test.levels[test.labels == 4][:3].flatten(1).long()
    pixels = real[:, :15]
    with torch.no_grad():
        while pixels.shape[1] < 25:
            said = model(pixels, labels=torch.full((3,), 4))[:, -1].argmax(-1, keepdim=True)
            pixels = torch.cat((pixels, said), dim=1)
    finished = grids[0][0][0, 1::2]
    assert (finished.numpy() == np.rint(pixels.view(3, 5, 5).numpy() * (255 / 4))).all()


def test_more_than_there_are(models, script, grids):
    config = load_config(GeneratorTrainConfig, Path(models["gen"]) / "config.yaml")
    counts = np.bincount(load_configured(config.data).test.labels.numpy())
    flags = ("--checkpoint", models["gen"], "--device", "cpu", "--complete", "--labels", "6", "--per_label")
    assert script("mnist_generator", *flags, counts[6]).code == 0
    outcome = script("mnist_generator", *flags, counts[6] + 1)
    assert outcome.code == 2
    assert outcome.lines == [f"per_label: {counts[6] + 1} is more than the {counts[6]} test images of 6"]
    assert files_below("runs") == set()


def verdict(outcome):
    (line,) = [line for line in outcome.out.splitlines() if " recognises " in line]
    found = re.fullmatch(r"(.*) recognises (\d+) of (\d+) images \((.*)%\)", line)
    right, count = int(found[2]), int(found[3])
    assert float(found[4]) == pytest.approx(100 * right / count, abs=0.051)
    return found[1], right, count


@pytest.mark.parametrize("judge", ["judge", "resizing"])
def test_a_judge_counts_what_it_reads_right(judge, models, script, grids, monkeypatch):
    """Each single file, read again, made as large or small as the judge's images, and shown to it by itself."""
    shown, look = [], ClassificationModel.forward

    def watch(model, images):
        shown.extend(images.int())
        return look(model, images)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationModel, "forward", watch)
        flags = ("--judge", models[judge], "--single_files", "--per_label", "12", "--labels", "1,3,7,9")
        outcome = draw(script, models["gen"], *flags)
    config, model = trained(ClassifierTrainConfig, build_classification_model, models[judge])
    classes = [str(label) for label in config.data.labels or range(10)]
    said = []
    for i, (label, number) in enumerate((label, number) for label in "1379" for number in range(12)):
        picture = Image.open(OUT / f"{label}_{number}.png")
        levels = (resized(picture, config.data.side) * config.data.vocab_size // 256).int()
        assert (levels - shown[i][0]).abs().max() <= 1, "one by rounding"
        with torch.no_grad():
            answer = classes[model(levels[None, None]).argmax().item()]
        said.append((answer, label))
    right = sum(answer == label for answer, label in said)
    assert 0 < right < 48
    assert verdict(outcome) == (models[judge], right, 48)


def resized(picture, side):
    """With torch's own antialiased filter, from the pixels as floating-point numbers."""
    pixels = torch.from_numpy(np.asarray(picture).copy())[None, None].float()
    larger = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return larger[0, 0].round().clamp(0, 255)


@pytest.mark.parametrize(("answer", "right"), [("right", 8), ("always 3", 2)])
def test_a_perfect_and_a_blind_judge(answer, right, models, script, grids, monkeypatch):
    """One whose own numbers of the labels are others: it was trained on 9, 7, 3, 1."""
    numbers = [3, 3, 2, 2, 1, 1, 0, 0] if answer == "right" else [2] * 8

    def say(model, images):
        assert len(images) == 8
        return torch.nn.functional.one_hot(torch.tensor(numbers), 4).float()

    monkeypatch.setattr(ClassificationModel, "forward", say)
    outcome = draw(script, models["gen"], "--judge", models["resizing"], "--labels", "1,3,7,9")
    assert verdict(outcome) == (models["resizing"], right, 8)


def test_a_judge_that_lacks_a_class_is_refused_before_anything_is_drawn(models, script, monkeypatch):
    monkeypatch.setattr(Generator, "generate", None)
    flags = ("--judge", models["ignorant"], "--labels", "7,3,9")
    outcome = script("mnist_generator", "--checkpoint", models["gen"], "--device", "cpu", *flags)
    assert outcome.code == 2
    assert outcome.lines == [f"judge: {models['ignorant']} knows no 3, 9; it knows 7, 1"]


def test_checkpoints_by_the_names_that_they_ship_under(models, script, grids, monkeypatch):
    for name in ("gen", "judge"):
        shutil.copytree(Path(models[name]) / "checkpoints/best", f"shipped/tiny-{name}")
    monkeypatch.setattr(dl_proj.checkpoint_folder, "SHIPPED", Path("shipped").resolve())
    outcome = draw(script, "tiny-gen", "--judge", "tiny-judge")
    by_path = draw(script, models["gen"], "--judge", models["judge"])
    assert torch.equal(grids[0][0], grids[1][0])
    assert verdict(outcome)[1:] == verdict(by_path)[1:]
    outcome = script("mnist_generator", "--checkpoint", "tiny-other")
    assert outcome.code == 2
    assert outcome.lines[0].endswith("shipped checkpoints: tiny-gen, tiny-judge")


def test_a_classifier_does_not_draw_nor_a_generator_judge(models, script):
    for flags in (("--checkpoint", models["judge"]), ("--checkpoint", models["gen"], "--judge", models["gen"])):
        outcome = script("mnist_generator", *flags, "--device", "cpu")
        assert outcome.code == 2
        assert any("task: must be" in line for line in outcome.lines)


def test_a_folder_of_pictures_names_the_labels(script, grids):
    """And each label's images are drawn as its pictures are, dark or light."""
    for name, grey in (("dark", 0), ("light", 255)):
        for split in ("train", "test"):
            Path("pictures", split, name).mkdir(parents=True)
            for number in range(10):
                picture = np.full((6, 6), grey, dtype=np.uint8)
                Image.fromarray(picture).save(Path("pictures", split, name, f"{number}.png"))
    data = {"dataset": "image_folder", "root": "pictures", "max_len": 16, "vocab_size": 2}
    changes = {"data": data, "samples_per_label": 0, "train.trackers": [], "train.max_steps": 40}
    config = tiny_generator({**changes, "train.eval_every": 40, "optimizer.lr": 0.05})
    assert script("generation_train", "--config", as_yaml("c.yaml", config)).code == 0
    own_pictures = "runs/tiny-gen/version_0"
    draw(script, own_pictures, "--labels", "light,dark")
    ((rows, labels, *_),) = grids
    assert labels == ("light", "dark")
    assert rows[0].float().mean() > 200
    assert rows[1].float().mean() < 55
    Path("pictures").rename("moved")
    draw(script, own_pictures, "--labels", "light,dark")
    assert grids.pop()[1] == ("light", "dark"), "the model's folder has the names, too"
    (Path(own_pictures) / "checkpoints/best/classes.json").unlink()
    outcome = script("mnist_generator", "--checkpoint", own_pictures, "--device", "cpu")
    assert outcome.code == 2
    assert_states(outcome.lines[0], "data.root: pictures/train", "classes")
    draw(script, own_pictures, "--data.root", "moved")
    draw(script, own_pictures, "--complete", "--data.root", "moved")
    assert [row[0].float().mean().item() for row in grids[-1][0]] == [0, 255]
