"""What a training that does not come to its end says, and that the command in it works."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_scripts import assert_states, tiny, tiny_yaml

from dl_proj.experiments.copy.objective import CopyObjective
from my_custom_ai.custom_train.checkpoint import load_note

ROOT = Path(__file__).parents[3]


def command_in(line):
    """The script and the flags that a line tells to start."""
    script, flags = re.search(r"python (\w+)\.py ((?:--[\w.]+ \S+ ?)+)", line).groups()
    return script, shlex.split(flags)


def test_after_nan_the_advised_command_works(script):
    tiny_yaml("c.yaml", {"optimizer.lr": 1e6, "train.save_every": 1, "train.eval_every": 1, "train.max_steps": 8})
    outcome = script("synth_train", "--config", "c.yaml")
    assert outcome.code == 1
    assert load_note("runs/tiny/version_0/checkpoints/last/state.safetensors")["step"] == 0, "the state before"
    name, flags = command_in(outcome.lines[-1])
    assert name == "synth_train" and "--optimizer.lr" in flags
    assert script(name, *flags).code == 0


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 1 GiB\nmore")])
@pytest.mark.parametrize(("training", "facts"), [(True, ["--train.accumulate"]), (False, ["--resume"])])
def test_out_of_memory_is_a_line_with_the_sizes_and_the_last_state(error, training, facts, script, monkeypatch):
    measure, calls = CopyObjective.measure, []

    def too_large(self, model, batch):
        calls.append(model.training)
        if calls.count(True) == 2 and model.training == training:
            raise error
        return measure(self, model, batch)

    monkeypatch.setattr(CopyObjective, "measure", too_large)
    tiny_yaml("c.yaml")
    outcome = script("synth_train", "--config", "c.yaml")
    assert outcome.code == 1
    state = Path("runs/tiny/version_0/checkpoints/last/state.safetensors")
    sizes = ["train.batch_size", 8, "train.accumulate", 1, "train.eval_batch_size", 64, state]
    assert_states(outcome.lines[-1], "stopped", *sizes, *facts)


def test_out_of_memory_while_building_is_a_line(script, monkeypatch):
    def too_large(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    monkeypatch.setattr("dl_proj.experiments.copy.train.copy_experiment", too_large)
    tiny_yaml("c.yaml", tiny())
    outcome = script("synth_train", "--config", "c.yaml")
    assert outcome.code == 1
    assert_states(outcome.lines[-1], "stopped", "train.batch_size", "train.accumulate", "train.eval_batch_size")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "launcher"),
    [(signal.SIGINT, []), (signal.SIGTERM, ["-m", "torch.distributed.run", "--nproc_per_node", "2"])],
    ids=["a process", "torchrun"],
)
def test_a_signal_to_a_script_as_users_start_it(number, launcher):
    tiny_yaml("c.yaml", {"train.max_steps": 100_000, "train.save_every": 100_000, "train.eval_every": 100_000})
    command = [sys.executable, *launcher, str(ROOT / "synth_train.py"), "--config", "c.yaml"]
    with Path("err").open("w") as err:
        process = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL)
    state, until = Path("runs/tiny/version_0/checkpoints/last/state.safetensors"), time.monotonic() + 100
    while not (state.exists() and "3/100000" in Path("err").read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    code = process.wait(60)
    said = Path("err").read_text()
    told = re.findall(r"saved after step ([\d,]+) of 100,000; python synth_train.py --resume runs/tiny/version_0", said)
    assert len(told) == 1, said
    assert int(told[0].replace(",", "")) == load_note(state)["step"] > 0
    assert launcher or (code == 128 + number and "Traceback" not in said), said
