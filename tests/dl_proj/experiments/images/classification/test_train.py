"""cls_train.py from end to end: what it leaves behind, that its figures are true, and that it learns."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from safetensors.torch import load_file
from tiny_scripts import COSTS, as_yaml, tiny_classifier

import dl_proj.experiments.images.classification.train as classifier_training
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model, classification_experiment
from dl_proj.experiments.images.data import ImageSplits, LabelledImages, load_configured
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.settings.load import load_config

RUN = Path("runs/tiny-cls/version_0")
ABSURD = {  # a rate that grows too high, so that the last weights are not the best
    "optimizer.lr": 3.0,
    "schedule": {"kind": "constant", "warmup_steps": 15},
    "train": {"max_steps": 16, "batch_size": 32, "eval_batch_size": 400, "eval_every": 1, "clip_norm": 0},
}


@pytest.fixture
def blank(monkeypatch):
    """Pictures take longer than these trainings; here they stay empty files."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())


def run_of(script, changes=None, *flags):
    """Train, expect success, and give the final figures."""
    as_yaml("c.yaml", tiny_classifier({**(changes or {}), "train.trackers": []}))
    outcome = script("cls_train", "--config", "c.yaml", *flags)
    assert outcome.code == 0, outcome.lines
    return json.loads((RUN / "metrics.json").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trained_model(run=RUN):
    """The best weights' model, put together by hand."""
    config = load_config(ClassifierTrainConfig, run / "config.yaml")
    model = build_classification_model(config, len(load_configured(config.data).classes)).eval()
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    return config, model


def naive_counts(model, data, n_classes):
    """[true][predicted], and the mean of -ln p of what is true, one image after the other."""
    counts, losses = np.zeros((n_classes, n_classes), dtype=int), []
    with torch.no_grad():
        for i in range(len(data)):
            image, label = data[i]
            probability = model(image[None])[0].double().softmax(-1)
            counts[label.item(), probability.argmax().item()] += 1
            losses.append(-probability[label].log().item())
    return counts, np.mean(losses)


def without_seconds(figures):
    return {name: value for name, value in figures.items() if name not in COSTS}


def test_the_resolved_configuration_loads_as_the_one_that_ran(script, blank):
    run_of(script, None, "--model.attention.kind", "shared_qk", "--seed", "5", "--data.random_shift", "1")
    changes = {"model.attention": {"kind": "shared_qk"}, "seed": 5, "data.random_shift": 1, "train.trackers": []}
    expected = ClassifierTrainConfig.model_validate(tiny_classifier(changes))
    assert load_config(ClassifierTrainConfig, RUN / "config.yaml") == expected
    assert (RUN / "checkpoints/best/config.yaml").read_text() == (RUN / "config.yaml").read_text()


def test_the_figures_are_those_of_the_best_weights_on_the_test_images(script, blank):
    figures = run_of(script, ABSURD | {"data.random_shift": 2, "model.dropout": 0.1})
    config, model = trained_model()
    counts, loss = naive_counts(model, load_configured(config.data).test, 10)
    per_class = {f"test/accuracy/{i}": counts[i, i] / counts[i].sum() for i in range(10)}
    weights = load_file(RUN / "checkpoints/best/model.safetensors")
    assert without_seconds(figures) == pytest.approx(
        {
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "steps": 16,
            "test/loss": loss,
            "test/accuracy": counts.trace() / 360,
            "test/accuracy_low": figures["test/accuracy_low"],
            "test/accuracy_high": figures["test/accuracy_high"],
            **per_class,
        },
        rel=1e-5,
    )
    deviation = (counts.trace() / 360 * (1 - counts.trace() / 360) / 360) ** 0.5
    assert figures["test/accuracy_high"] - figures["test/accuracy_low"] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert json.loads((RUN / "checkpoints/best/metrics.json").read_text()) == figures
    with (RUN / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true", *"0123456789"]
    assert [row[0] for row in rows] == list("0123456789")
    assert (np.array(rows)[:, 1:].astype(int) == counts).all()
    last = load_file(RUN / "checkpoints/last/state.safetensors")
    assert not torch.equal(last["model.to_logits.weight"], weights["to_logits.weight"]), "or the best were the last"


@pytest.mark.parametrize(("metric", "mode"), [("val/loss", "min"), ("val/accuracy", "max")])
def test_the_best_weights_are_those_of_the_best_validation(metric, mode, script, blank):
    run_of(script, ABSURD | {"train.monitor": {"metric": metric, "mode": mode}})
    history = [float(row[metric]) for row in rows_of() if row[metric]]
    best = max(history) if mode == "max" else min(history)
    assert best != history[-1]
    config, model = trained_model()
    counts, loss = naive_counts(model, load_configured(config.data).val, 10)
    found = counts.trace() / counts.sum() if mode == "max" else loss
    assert found == pytest.approx(best, rel=1e-5)


def test_test_images_choose_nothing(script, blank, monkeypatch):
    """Other test images change the test figures and nothing before."""
    kept = run_of(script, ABSURD)
    weights = (RUN / "checkpoints/best/model.safetensors").read_bytes()
    history = [{**row, "seconds": ""} for row in rows_of()]
    Path("runs").rename("before")

    def others(data, num_workers):
        images = load_configured(data, num_workers)
        test = LabelledImages(images.test.levels, (images.test.labels + 1) % 10)
        return ImageSplits(images.train, images.val, test, images.classes)

    monkeypatch.setattr(classifier_training, "load_configured", others)
    assert run_of(script, ABSURD)["test/accuracy"] != kept["test/accuracy"]
    assert (RUN / "checkpoints/best/model.safetensors").read_bytes() == weights
    assert [{**row, "seconds": ""} for row in rows_of()] == history


CONFIGURATIONS = {  # each kind of attention, reversible or not, is trained in test_attention_training.py
    "lookup, a class token": {
        "model.embedding": "lookup",
        "model.pooling": "class_token",
        "data.patch_size": 1,
        "data.image_size": 4,
    },
    "two labels of two levels": {"data.labels": [3, "8"], "data.vocab_size": 2},
    "other sizes": {"data.image_size": 9, "data.patch_size": 3},
    "epochs": {"train.max_steps": None, "train.epochs": 1, "train.batch_size": 400},
}


def test_pictures_are_drawn(script, curves):
    run_of(script)
    for name in ("curves.png", "confusion.png"):
        assert len(np.unique(imread(RUN / name))) > 20, "not blank"


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_configuration_trains(case, script, blank):
    figures = run_of(script, CONFIGURATIONS[case])
    assert figures["steps"] == 3
    assert 0 < figures["test/loss"] < 12


def test_chosen_labels_name_the_classes_in_their_order(script, blank):
    figures = run_of(script, {"data.labels": [8, 3]})
    assert [name for name in figures if name.startswith("test/accuracy/")] == ["test/accuracy/8", "test/accuracy/3"]
    assert (RUN / "confusion.csv").read_text().startswith("true,8,3\n8,")


SETTINGS = {  # another value of each setting of the images and the model's ends, all of which must change something
    "data.labels": [3, 2, 1, 0, 4, 5, 6, 7, 8, 9],
    "data.val_share": 0.2,
    "data.vocab_size": 5,
    "data.image_size": 12,
    "data.patch_size": 2,
    "data.patch_stride": 2,
    "data.random_shift": 2,
    "model.pooling": "class_token",
    "model.dropout": 0.5,
    "model.reversible": True,
    "model.depth": 2,
    "model.attention": {"kind": "shared_qk"},
    "seed": 1,
}


def first_losses(changes=None):
    """Of the first training images, as in training and as in evaluation."""
    config = ClassifierTrainConfig.model_validate(tiny_classifier(changes))
    experiment = classification_experiment(config)
    batch = experiment.train_data.levels[:32], experiment.train_data.labels[:32]
    losses = []
    for training in (True, False):
        torch.manual_seed(0)
        losses.append(experiment.objective.measure(experiment.model.train(training), batch)["loss"].value.item())
    return losses


def test_the_settings_of_the_images_are_all_there():
    others = {
        "dataset",
        "root",
        "greyscale",
        "split_channels",
        "skip_broken",
        "streamed",
        "cache",
    }  # tried on one's own
    fields = {f"data.{name}" for name in ClassifierDataConfig.model_fields.keys() - others}
    assert {key for key in SETTINGS if key.startswith("data.")} == fields


@pytest.mark.parametrize("key", SETTINGS)
def test_no_setting_is_ignored(key):
    training, evaluation = first_losses({key: SETTINGS[key]})
    usual = first_losses()
    assert training != usual[0]
    assert (evaluation == usual[1]) == (key in ("data.random_shift", "model.dropout")), "these are training's alone"


@pytest.mark.slow
def test_it_learns_to_read_digits(script, blank):
    attention = {"kind": "lsh", "bucket_size": 8, "n_rounds": 1}
    changes = {
        "data.patch_size": 2,
        "model": {"dim": 48, "heads": 2, "ffn_dim": 48, "attention": attention},
        "optimizer.lr": 0.005,
        "train": {"max_steps": 250, "batch_size": 32, "eval_every": 25, "device": "cpu"},
        "train.monitor": {"metric": "val/accuracy", "mode": "max", "target": 0.7},
    }
    assert run_of(script, changes)["test/accuracy"] > 0.6, "chance is a tenth"


def coloured_pictures(root, n=8):
    """Red and green pictures, which are the same in grey; ``n`` of each to train on, half as many to test."""
    draw = np.random.default_rng(0)
    for split, count in (("train", n), ("test", n // 2)):
        for number in range(count):
            mask = draw.integers(0, 2, (8, 8, 1))
            for name, colour in (("red", (200, 0, 0)), ("green", (0, 102, 0))):
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((mask * colour).astype(np.uint8)).save(path)


@pytest.mark.parametrize("split_channels", [False, True])
def test_coloured_pictures_of_ones_own(split_channels, script, blank):
    coloured_pictures(Path("pictures"))
    changes = {
        "data": {"dataset": "image_folder", "root": "pictures", "image_size": 8, "patch_size": 4, "val_share": 0.25},
        "data.split_channels": split_channels,
        "train": {"max_steps": 30, "batch_size": 8, "eval_every": 30, "device": "cpu"},
    }
    figures = run_of(script, changes)
    assert figures["test/accuracy/green"] == figures["test/accuracy/red"] == 1
    assert (RUN / "confusion.csv").read_text() == "true,green,red\ngreen,4,0\nred,0,4\n"
    assert trained_model()[1].positions.max_len == (12 if split_channels else 4)
    if not split_channels:
        Path("runs").rename("coloured")
        figures = run_of(script, changes | {"data.greyscale": True})
        assert figures["test/accuracy"] == 0.5, "in grey no picture is red"


def test_a_class_without_test_pictures(script, blank):
    """It has no accuracy, and the file of figures stays JSON that every reader takes."""
    coloured_pictures(Path("pictures"))
    for path in Path("pictures/test/red").iterdir():
        path.unlink()
    Path("pictures/test/red").rmdir()
    changes = {"data": {"dataset": "image_folder", "root": "pictures", "image_size": 4, "val_share": 0.25}}
    figures = run_of(script, changes)
    assert figures["test/accuracy"] == figures["test/accuracy/green"]
    assert "test/accuracy/red" not in figures


def idx(path):
    """The array in an IDX file, read by the letter of its format."""
    content = path.read_bytes()
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def test_real_mnist(real_data):
    changes = {"data": {"dataset": "mnist", "root": str(real_data), "patch_size": 4, "vocab_size": 16}}
    config = ClassifierTrainConfig.model_validate(tiny_classifier(changes))
    experiment = classification_experiment(config)
    train, val, test = experiment.train_data, experiment.val_data, experiment.test_data
    assert (len(train), len(val), len(test)) == (54_000, 6_000, 10_000)
    assert (len(train) // 8) * 2 == config.model_copy(
        update={"train": config.train.model_copy(update={"max_steps": None, "epochs": 2})}
    ).train.steps(config.data.n_train)
    raw = real_data / "MNIST/raw"
    assert (test.levels[:, 0].numpy() == idx(raw / "t10k-images-idx3-ubyte") // 16).all()
    assert test[0][1] == 7
    assert (test.labels.numpy() == idx(raw / "t10k-labels-idx1-ubyte")).all()
    labels, images = idx(raw / "train-labels-idx1-ubyte"), idx(raw / "train-images-idx3-ubyte") // 16
    both = torch.cat((train.labels, val.labels)).numpy()
    assert (np.bincount(both) == np.bincount(labels)).all()
    ink = torch.cat((train.levels, val.levels)).sum((1, 2, 3)).numpy()
    expected = images.sum((1, 2), dtype=np.int64)
    order, wanted = (np.lexsort((what, which)) for what, which in ((ink, both), (expected, labels)))
    assert (ink[order] == expected[wanted]).all(), "each image once, in one of the two"
    assert experiment.model(test.levels[:2]).shape == (2, 10)
