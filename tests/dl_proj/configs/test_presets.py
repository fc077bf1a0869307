"""Every file under configs/ is valid for its script and builds the model that its numbers say."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_scripts import tiny

from dl_proj.cli import CONFIGS
from dl_proj.configs.load import load_config
from dl_proj.configs.synth import SynthComparisonConfig, SynthTrainConfig
from dl_proj.tasks.copy_training import build_copy_model, copy_dataset

PRESETS = sorted(CONFIGS.rglob("*.yaml"))
COMPARISONS = [path for path in PRESETS if path.stem == "synth_comparison"]
COPY_TRAININGS = [path for path in PRESETS if path not in COMPARISONS]


def name_of(path):
    return str(path.relative_to(CONFIGS))


def expected_parameters(config):
    """Counted from the numbers of the configuration alone."""
    vocab, length, model = config.data.vocab_size, config.data.length - 1, config.model
    dim, hidden = model.dim, model.ffn_dim
    inner = model.heads * (model.head_dim or dim // model.heads)
    projections = 3 if model.attention.kind == "full" else 2
    positions = {
        "learned": length * dim,
        "sinusoidal": 0,
        "axial": sum(getattr(model.positions, "shape", (0, 0))) * dim // 2,
    }[model.positions.kind]
    attention = projections * inner * (dim + 1) + (inner + 1) * dim
    feed_forward = (dim + 1) * hidden + (hidden + 1) * dim
    norms = 2 * 2 * dim
    final_norm = 2 * dim if model.norm == "pre" else 0
    layers = model.depth * (attention + feed_forward + norms) + final_norm
    return vocab * dim + positions + layers + (dim + 1) * vocab


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_file_is_known_to_some_script():
    for path in COPY_TRAININGS:
        assert path.stem.startswith(("synth", "demo")) or path.parent.name == "paper", path
    assert CONFIGS / "synth_train.yaml" in COPY_TRAININGS
    assert CONFIGS / "synth_comparison.yaml" in COMPARISONS


@pytest.mark.parametrize("path", COPY_TRAININGS, ids=name_of)
def test_a_training_is_valid_and_builds_its_model(path):
    config = load_config(SynthTrainConfig, path)
    model = build_copy_model(config)
    assert count(model) == expected_parameters(config)
    assert len(model.stack.layers) == config.model.depth
    with torch.no_grad():
        batch = torch.stack([copy_dataset(config.data, "test", 1, config.seed)[0]])
        assert model.eval()(batch[:, :-1]).shape == (1, config.data.length - 1, config.data.vocab_size)


@pytest.mark.parametrize("path", COPY_TRAININGS, ids=name_of)
def test_a_training_survives_being_dumped(path):
    config = load_config(SynthTrainConfig, path)
    Path("dumped.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(SynthTrainConfig, Path("dumped.yaml")) == config


def test_no_two_trainings_share_a_folder():
    names = [load_config(SynthTrainConfig, path).experiment_name for path in COPY_TRAININGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", COMPARISONS, ids=name_of)
def test_a_comparison_is_valid(path):
    config = load_config(SynthComparisonConfig, path)
    assert config.eval_rounds == (8, 4, 2, 1), "the paper's columns"
    Path("dumped.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(SynthComparisonConfig, Path("dumped.yaml")) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"model.attention": {"kind": "full"}},
        {"model.attention": {"kind": "full"}, "model.head_dim": 3},
        {"model.norm": "post", "model.depth": 2},
        {"model.reversible": True, "model.depth": 3},
        {"model.positions": {"kind": "sinusoidal"}, "model.ffn_dim": 7},
        {"model.positions": {"kind": "axial", "shape": [3, 5]}},
    ],
    ids=str,
)
def test_the_formula_holds_for_other_models(changes):
    """Or it might fit the presets by what they have in common."""
    config = SynthTrainConfig.model_validate(tiny(changes))
    assert count(build_copy_model(config)) == expected_parameters(config)


def test_positions_of_odd_width():
    config = SynthTrainConfig.model_validate(
        tiny({"model.dim": 7, "model.heads": 1, "model.positions": {"kind": "axial", "shape": [4, 4]}})
    )
    model = build_copy_model(config)
    assert count(model.positions) == 4 * 4 + 4 * 3
