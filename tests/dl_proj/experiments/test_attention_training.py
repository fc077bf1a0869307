"""Every kind of attention trains by its flag in every script where it can; what was trained decodes step by step."""

import csv
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from tiny_scripts import as_yaml, tiny, tiny_classifier, tiny_generator, tiny_long_range

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.experiments.long_range.train import build_sequence_classifier
from dl_proj.settings.load import load_config
from my_custom_ai.custom_train import load_weights
from my_transformers.registry import SETTINGS

# script: (tiny configuration, schema, its model as it is before the training)
TRAININGS = {
    "cls_train": (tiny_classifier, ClassifierTrainConfig, lambda config: build_classification_model(config, 10)),
    "generation_train": (tiny_generator, GeneratorTrainConfig, lambda config: build_generator(config, 10)),
    "lra_train": (tiny_long_range, LongRangeTrainConfig, lambda config: build_sequence_classifier(config, 10)),
    "synth_train": (tiny, SynthTrainConfig, build_copy_model),
}
FEATURES = ("--model.attention.n_features", "16")
FLAGS = {  # of kinds whose defaults do not fit tiny models, or would make them slow
    "lsh": ("--model.attention.bucket_size", "2"),
    "transformers_lsh": ("--model.attention.chunk_size", "2"),
    "performer": FEATURES,
    "relative": FEATURES,
    "clipped_relative": (*FEATURES, "--model.attention.distance", "2"),
    "linformer": ("--model.attention.rank", "3,2"),
    "causal_linformer": ("--model.attention.rank", "3,2", "--model.attention.block_size", "4"),
}
# As many kinds in a reversible stack as in a plain one, in either direction: which script trains it does not matter.
REVERSIBLE = {"cls_train": "true", "lra_train": "false", "generation_train": "false", "synth_train": "true"}
CASES = [("cls_train", one.kind) for one in SETTINGS if False in one.directions]
CASES += [("lra_train", one.kind) for one in SETTINGS if False in one.directions and one().sees_padding is None]
CASES += [
    (name, one.kind)
    for name in ("generation_train", "synth_train")
    for one in SETTINGS
    if True in one.directions and one.steps
]


@pytest.fixture(autouse=True)
def blank(monkeypatch):
    """Pictures take longer than these trainings; here they stay empty files."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())


def run_of(script, name, *flags):
    """Train two layers, expect success, and give the run's folder, and the model before and after."""
    config_of, schema, build = TRAININGS[name]
    changes = {"train.trackers": [], "train.log_every": 1, "model.depth": 2, "model.dropout": 0.1}
    as_yaml("c.yaml", config_of(changes))
    outcome = script(name, "--config", "c.yaml", *flags)
    assert outcome.code == 0, outcome.lines
    (run,) = Path("runs").glob("*/version_0")
    config = load_config(schema, run / "config.yaml")
    before, after = build(config), build(config)
    load_weights(run / "checkpoints/best/model.safetensors", after)
    return run, before, after.eval()


@torch.no_grad()
def assert_decodes_step_by_step(model, prompt, length, **labels):
    """As running the whole prefix again for each token does."""
    tokens = prompt
    for _ in range(length):
        tokens = torch.cat((tokens, model(tokens, **labels)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(model.generate(prompt, length, **labels), tokens[:, prompt.shape[1] :])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_kind_trains_by_its_flag(name, kind, script):
    flags = ["--model.attention.kind", kind, *FLAGS.get(kind, ()), "--model.attention.dropout", "0.1"]
    run, before, after = run_of(script, name, *flags, "--model.reversible", REVERSIBLE[name])
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    figures = json.loads((run / "metrics.json").read_text())
    assert len(losses) == figures["steps"] == 3
    assert all(0 < loss < 12 for loss in [*losses, figures["test/loss"]])
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    untrained = {key.split(".")[-1] for (key, old), new in pairs if torch.equal(old, new)}
    nothing_off_the_grid = kind == "clipped_relative" and name != "generation_train"
    assert untrained == ({"nowhere"} if nothing_off_the_grid else set())
    if name == "synth_train":
        assert "test/generated_accuracy" in figures
        assert_decodes_step_by_step(after, torch.randint(8, (4, 3)), 8)
    if name == "generation_train":
        assert_decodes_step_by_step(after, torch.randint(8, (10, 2)), 14, labels=torch.arange(10))


@pytest.mark.parametrize("sharing", ["none", "key_value", "layerwise"])
def test_what_is_shared_stays_shared_in_training(sharing, script):
    flags = ["--model.attention.kind", "linformer", "--model.attention.sharing", sharing]
    run, before, after = run_of(script, "cls_train", *flags, "--model.attention.rank", "2,2")
    assert json.loads((run / "metrics.json").read_text())["parameters"] == sum(p.numel() for p in before.parameters())
    weights = {key: p for key, p in after.state_dict().items() if "project_" in key}
    assert (
        len({tuple(p.flatten().tolist()) for p in weights.values()})
        == {"none": 4, "key_value": 2, "layerwise": 1}[sharing]
    )


def test_directions_are_redrawn_in_training(script):
    flags = ["--model.attention.kind", "performer", *FEATURES, "--model.attention.redraw_every", "1"]
    _, before, after = run_of(script, "synth_train", *flags)
    old, new = ([layer.attention.mechanism.projection for layer in model.stack.layers] for model in (before, after))
    assert not any(torch.equal(*pair) for pair in zip(old, new, strict=True))
    assert not torch.equal(*new)
