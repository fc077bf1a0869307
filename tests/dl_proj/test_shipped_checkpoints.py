"""Every checkpoint under dl_proj/checkpoints is whole, says what it is, and is as good as it says."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dl_proj.checkpoint_folder import SHIPPED, find_checkpoint, read_config
from dl_proj.cli import CONFIGS
from dl_proj.configs.load import load_config
from dl_proj.configs.synth import SynthComparisonConfig, SynthTrainConfig
from dl_proj.tasks.copy_training import build_copy_model, copy_dataset
from my_custom_ai.custom_train import load_weights

COPIERS = sorted(path.name for path in SHIPPED.glob("synth*") if path.is_dir())
N_TEST = 64


def loaded(name):
    folder = find_checkpoint(name)
    config = read_config(SynthTrainConfig, folder)
    model = build_copy_model(config)
    load_weights(folder / "model.safetensors", model)
    return config, model.eval()


@torch.no_grad()
def accuracy(config, model):
    """Share of the second words' symbols that are right, in the first N_TEST test sequences."""
    data = copy_dataset(config.data, "test", N_TEST, config.seed)
    second_sos = (config.data.length + 1) // 2
    right = count = 0
    for start in range(0, N_TEST, 8):
        batch = torch.stack([data[i] for i in range(start, start + 8)])
        said = model(batch[:, :-1]).argmax(-1)[:, second_sos:]
        right += (said == batch[:, second_sos + 1 :]).sum().item()
        count += said.numel()
    return right / count


@pytest.mark.parametrize("name", COPIERS)
def test_it_is_complete(name):
    folder = find_checkpoint(name)
    assert folder == SHIPPED / name
    figures = json.loads((folder / "metrics.json").read_text())
    assert 0 <= figures["test/accuracy"] <= 1
    tensors = load_file(folder / "model.safetensors")
    assert figures["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("name", COPIERS)
def test_it_is_as_good_as_it_says(name):
    recorded = json.loads((SHIPPED / name / "metrics.json").read_text())["test/accuracy"]
    torch.manual_seed(1)
    first = accuracy(*loaded(name))
    torch.manual_seed(2)
    assert accuracy(*loaded(name)) == first, "whatever was drawn before"
    assert first == pytest.approx(recorded, abs=0.02)


@pytest.mark.skipif(not COPIERS, reason="none is shipped yet")
def test_the_comparisons_rows_are_shipped():
    assert set(load_config(SynthComparisonConfig, CONFIGS / "synth_comparison.yaml").checkpoints) <= set(COPIERS)
