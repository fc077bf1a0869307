"""Which settings a command with too little memory names."""

import pytest
from tiny_scripts import TINY, tiny, tiny_yaml

from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.settings.sizes import sizes_in

BATCHES = ["train.eval_batch_size 64", "train.accumulate 1", "train.batch_size 8"]


@pytest.mark.parametrize(
    ("changes", "largest"),
    [
        ({"model.dim": 4096}, "model.dim 4096"),
        ({"data.n_train": 4096}, "data.n_train 4096"),
        ({"seed": 4096, "train.max_steps": 5000}, "data.n_train 64"),
    ],
)
def test_the_largest_and_what_batches_are_made_of(changes, largest):
    first, _, _, *batches = sizes_in(SynthTrainConfig(**tiny(changes))).split(", ")
    assert first == largest
    assert batches == BATCHES


def test_of_a_command_that_trains_nothing():
    found = sizes_in(SynthComparisonConfig(checkpoints=("a",), n_test=7777, batch_size=5))
    assert found.startswith("n_test 7777") and found.endswith("batch_size 5")


@pytest.mark.parametrize("key", ["dim", "ffn_dim"])
@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_a_model_that_no_machine_holds_is_one_line_with_its_size(script, key, flags):
    """With 2^39 numbers per row, the size of one tensor in bytes overflows 64 bits."""
    largest = 2**39
    outcome = script("synth_train", "--config", tiny_yaml("c.yaml", {f"model.{key}": largest}), *flags)
    assert outcome.code == 1
    (line,) = outcome.lines
    assert line.startswith("stopped: out of memory")
    for size in (f"model.{key} {largest}", f"train.batch_size {TINY['train']['batch_size']}", "train.accumulate 1"):
        assert size in line
