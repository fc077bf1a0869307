"""A bit of a file is not what it was: the file is refused."""

import random

import pytest
import torch
from tiny_scripts import call, tiny_yaml

from my_custom_ai.custom_train import CheckpointError
from my_custom_ai.custom_train.checkpoint import load_tensors

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert call("synth_train", "--config", tiny_yaml(folder / "c.yaml", {"runs_dir": str(folder)})).code == 0
    return folder / "tiny" / "version_0" / "checkpoints"


@pytest.mark.parametrize("name", ["best/model.safetensors", "last/state.safetensors"])
def test_250_flipped_bits_are_refused(run, tmp_path, name):
    content, draw, accepted, damaged = (run / name).read_bytes(), random.Random(name), [], tmp_path / "x.safetensors"
    for _ in range(250):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        damaged.write_bytes(flipped)
        try:
            tensors, _ = load_tensors(damaged)
        except CheckpointError:
            continue
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        accepted.append((place, bit))
    assert accepted == []
