"""generation_train.py from end to end: what it leaves behind, that its figures are true, and that it learns."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from safetensors.torch import load_file
from tiny_scripts import COSTS, as_yaml, files_below, tiny_generator

import dl_proj.experiments.images.generation.train as generator_training
from dl_proj.experiments.images.data import ImageSplits, LabelledImages, load_configured
from dl_proj.experiments.images.generation.draw import draw
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator, generation_experiment
from dl_proj.experiments.images.settings import GeneratorDataConfig
from dl_proj.settings.load import load_config

RUN = Path("runs/tiny-gen/version_0")
ABSURD = {  # a rate that grows too high, so that the last weights are not the best
    "optimizer.lr": 3.0,
    "schedule": {"kind": "constant", "warmup_steps": 15},
    "train": {"max_steps": 16, "batch_size": 32, "eval_batch_size": 400, "eval_every": 1, "clip_norm": 0},
}


@pytest.fixture
def blank(monkeypatch):
    """Pictures take longer than these trainings; here they stay empty files."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())


@pytest.fixture
def grids(monkeypatch):
    """Pictures are not drawn; gives what would have been: (rows, labels, path)."""
    drawn = []
    monkeypatch.setattr(generator_training, "draw_grid", lambda *grid: drawn.append(grid))
    return drawn


def run_of(script, changes=None, *flags):
    """Train, expect success, and give the final figures."""
    as_yaml("c.yaml", tiny_generator({**(changes or {}), "train.trackers": []}))
    outcome = script("generation_train", "--config", "c.yaml", *flags)
    assert outcome.code == 0, outcome.lines
    return json.loads((RUN / "metrics.json").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def trained_model(run=RUN):
    """The best weights' model, put together by hand."""
    config = load_config(GeneratorTrainConfig, run / "config.yaml")
    model = build_generator(config, len(load_configured(config.data).classes)).eval()
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    return config, model


@torch.no_grad()
def naive_log_probabilities(model, data):
    """ln p of each pixel of each image (n, pixels), from a forward over the pixels before it alone."""
    pixels = data.levels.flatten(1).long()
    columns = []
    for t in range(pixels.shape[1]):
        logits = model(pixels[:, :t], labels=data.labels)[:, -1].double()
        columns.append(logits.log_softmax(-1).gather(1, pixels[:, t : t + 1]))
    return pixels, torch.cat(columns, dim=1)


def without_seconds(figures):
    return {name: value for name, value in figures.items() if name not in COSTS}


@pytest.mark.parametrize("loss", [{"kind": "cross_entropy"}, {"kind": "focal", "gamma": 1.5, "frequency_power": 0.5}])
def test_the_figures_are_those_of_the_best_weights_on_the_test_images(loss, script, blank):
    figures = run_of(script, ABSURD | {"loss": loss, "model.dropout": 0.1, "train.monitor.metric": "val/bits_per_dim"})
    config, model = trained_model()
    images = load_configured(config.data)
    pixels, log_p = naive_log_probabilities(model, images.test)
    expected = -log_p
    if loss["kind"] == "focal":
        counts = np.bincount(images.train.levels.numpy().ravel(), minlength=8)
        weights = np.maximum(counts, 1) ** -0.5
        weights *= counts.sum() / (weights * counts).sum()
        expected = -torch.from_numpy(weights)[pixels] * (1 - log_p.exp()) ** 1.5 * log_p
    weights = load_file(RUN / "checkpoints/best/model.safetensors")
    assert without_seconds(figures) == pytest.approx(
        {
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "steps": 16,
            "test/loss": expected.mean().item(),
            "test/bits_per_dim": -log_p.mean().item() / np.log(2),
        },
        rel=1e-5,
    )
    assert json.loads((RUN / "checkpoints/best/metrics.json").read_text()) == figures
    last = load_file(RUN / "checkpoints/last/state.safetensors")
    assert not torch.equal(last["model.to_logits.weight"], weights["to_logits.weight"]), "or the best were the last"
    history = [float(row["val/bits_per_dim"]) for row in rows_of() if row["val/loss"]]
    assert min(history) != history[-1]
    on_validation = -naive_log_probabilities(model, images.val)[1].mean().item() / np.log(2)
    assert on_validation == pytest.approx(min(history), rel=1e-5)


def test_test_images_choose_nothing(script, blank, monkeypatch):
    """Other test images change the test figures and nothing before."""
    kept = run_of(script, ABSURD)
    weights = (RUN / "checkpoints/best/model.safetensors").read_bytes()
    history = [without_seconds(row) for row in rows_of()]
    Path("runs").rename("before")

    def others(data, num_workers):
        images = load_configured(data, num_workers)
        return ImageSplits(
            images.train, images.val, LabelledImages(7 - images.test.levels, images.test.labels), images.classes
        )

    monkeypatch.setattr(generator_training, "load_configured", others)
    assert run_of(script, ABSURD)["test/bits_per_dim"] > kept["test/bits_per_dim"]
    assert (RUN / "checkpoints/best/model.safetensors").read_bytes() == weights
    assert [without_seconds(row) for row in rows_of()] == history


def test_samples_are_drawn_by_the_best_weights_for_each_label(script, blank, grids):
    run_of(script, ABSURD | {"samples_per_label": 3, "data.labels": [4, 1], "seed": 3})
    ((rows, labels, path),) = grids
    assert (labels, path) == (("4", "1"), RUN / "samples.png")
    config, model = trained_model()
    asked = torch.tensor([0, 0, 0, 1, 1, 1])
    expected = draw(model, asked, config.data, seed=3, device=torch.device("cpu"))
    assert torch.equal(rows, expected.view(2, 3, 4, 4))
    assert len(set(map(bytes, rows.numpy().reshape(6, 16)))) > 1, "or all were drawn alike"


def test_no_samples_no_picture(script, blank):
    run_of(script, {"samples_per_label": 0})
    assert "samples.png" not in files_below(RUN)


CONFIGURATIONS = {  # each kind of attention, reversible or not, is trained in test_attention_training.py
    "fewer rounds in evaluation": {
        "model.attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2, "eval_rounds": 1}
    },
    "bf16, focal": {"train.precision": "bf16", "loss": {"kind": "focal", "frequency_power": 1.0}},
    "odd side, axial": {"data.max_len": 9, "model.positions": {"kind": "axial", "shape": [3, 3]}},
}


def test_pictures_are_drawn(script, curves):
    run_of(script)
    for name in ("curves.png", "samples.png"):
        assert len(np.unique(imread(RUN / name))) > 5, "not blank"


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_configuration_trains(case, script, blank):
    figures = run_of(script, CONFIGURATIONS[case])
    assert figures["steps"] == 3
    assert 0 < figures["test/bits_per_dim"] < 5


SETTINGS = {  # another value of each setting of images, loss and model's size, all of which must change something
    "data.labels": [3, 2, 1, 0, 4, 5, 6, 7, 8, 9],
    "data.val_share": 0.2,
    "data.vocab_size": 5,
    "data.max_len": 9,
    "loss": {"kind": "focal"},
    "loss.gamma": 2.0,
    "loss.frequency_power": 0.5,
    "model.depth": 2,
    "model.reversible": True,
    "model.attention": {"kind": "full"},
    "seed": 1,
}


def first_loss(changes):
    """Of the first training images."""
    config = GeneratorTrainConfig.model_validate(tiny_generator(changes))
    experiment = generation_experiment(config)
    batch = experiment.train_data.levels[:32], experiment.train_data.labels[:32]
    return experiment.objective.measure(experiment.model, batch)["loss"].value.item()


def test_the_settings_of_the_images_are_all_there():
    others = {"dataset", "root", "skip_broken", "streamed", "cache"}  # tried on one's own
    fields = {f"data.{name}" for name in GeneratorDataConfig.model_fields.keys() - others}
    assert {key for key in SETTINGS if key.startswith("data.")} == fields


@pytest.mark.parametrize("key", SETTINGS)
def test_no_setting_is_ignored(key):
    usual = {"loss.kind": "focal"} if key.startswith("loss.") else {}
    assert first_loss(usual | {key: SETTINGS[key]}) != first_loss(usual)


@pytest.mark.slow
def test_it_learns_more_than_how_often_each_level_comes(script, blank):
    """The entropy of single pixels is the best that a model can reach which sees nothing."""
    changes = {
        "model": {"dim": 32, "heads": 2, "ffn_dim": 32, "attention": {"kind": "lsh", "bucket_size": 8, "n_rounds": 2}},
        "data.max_len": 25,
        "samples_per_label": 0,
        "train": {"max_steps": 60, "batch_size": 32, "eval_batch_size": 400, "eval_every": 60, "device": "cpu"},
    }
    figures = run_of(script, changes)
    config, _ = trained_model()
    counts = np.bincount(load_configured(config.data).test.levels.numpy().ravel())
    share = counts[counts > 0] / counts.sum()
    assert figures["test/bits_per_dim"] < 0.9 * -(share * np.log2(share)).sum()
