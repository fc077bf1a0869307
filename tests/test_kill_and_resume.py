"""Killed with SIGKILL, whenever that is, and resumed: what is left is bit for bit what an uninterrupted run leaves."""

import csv
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from dl_proj.cli import call
from dl_proj.commands import COMMANDS
from my_custom_ai.custom_train import RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors

COSTS = {"seconds", "examples_per_second", "tokens_per_second", "peak_memory_mib"}
pytestmark = pytest.mark.slow

CONFIG = """
experiment_name: kill
runs_dir: runs
data: {vocab_size: 16, length: 24, n_train: 64, n_val: 8, n_test: 8}
model:
  {dim: 16, heads: 2, depth: 2, ffn_dim: 32, dropout: 0.1,
   attention: {kind: lsh, bucket_size: 4, n_rounds: 2, dropout: 0.1}}
schedule: {kind: warmup_cosine, warmup_steps: 5}
train: {max_steps: %d, batch_size: 4, accumulate: 2, save_every: 3, eval_every: 7, log_every: 1, device: cpu}
"""


def train(folder, kill_at):
    """What a user does who finds the training gone: the same command again, with --resume where there is a run."""
    os.chdir(folder)
    torch.set_num_threads(1)
    if kill_at is not None:
        kill_myself_at(*kill_at)
    resume = ["--resume", "last"] if run_in(folder) else []
    call(COMMANDS["synth_train"], ["--config", "config.yaml", *resume])


def kill_myself_at(name, time_of_many, moment):
    """Die when a file takes its name: before it does, with half of the new file written, or after it."""
    replace, count = Path.replace, itertools.count(1)

    def deadly(part, target):
        if target.name != name or next(count) != time_of_many:
            return replace(part, target)
        if moment == "torn":
            os.truncate(part, part.stat().st_size // 2)
        if moment == "after":
            replace(part, target)
        os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = deadly


@pytest.fixture
def start(forkserver):
    """Starts a training, which does not end well if ``kill_at`` says where."""

    def start(folder, kill_at=None):
        process = forkserver.Process(target=train, args=(folder, kill_at))
        process.start()
        return process

    return start


def finish(process, folder):
    process.join(120)
    assert process.exitcode == 0
    return run_in(folder)


def prepared(folder, max_steps):
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG % max_steps)
    return folder


def run_in(folder):
    run = RunDirectory.newest(folder / "runs", "kill")
    return run if run and run.config.is_file() else None


def saved_state(folder):
    """Changes with each save."""
    run = run_in(folder)
    file = os.stat(run.last_state) if run and run.last_state.exists() else None
    return file and (file.st_ino, file.st_mtime_ns)


def saved_step(folder):
    run = run_in(folder)
    return load_tensors(run.last_state)[1]["step"] if run and run.last_state.exists() else 0


def assert_same_run(one, other):
    for a, b in ((one.last_state, other.last_state), (one.best_weights, other.best_weights)):
        (tensors, note), (expected, expected_note) = load_tensors(a), load_tensors(b)
        assert note == expected_note
        assert tensors.keys() == expected.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], expected[name])] == []
    assert history(one) == history(other)
    assert figures(one) == figures(other)
    assert list(one.path.rglob("*.part")) == []


def history(run):
    with run.metrics.open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def figures(run):
    return {k: v for k, v in json.loads((run.path / "metrics.json").read_text()).items() if k not in COSTS}


def steps_of(run, column):
    return [int(row["step"]) for row in history(run) if row[column]]


def let_it_live(process, folder, seconds, *, after_a_save):
    """Wait some seconds, counted from its first save if so wanted; two saves are a full life."""
    saves, until = [saved_state(folder)], time.monotonic() + (60 if after_a_save else seconds)
    while process.is_alive() and len(saves) < 3 and time.monotonic() < until:
        if (state := saved_state(folder)) != saves[-1]:
            saves.append(state)
            until = min(until, time.monotonic() + seconds)
        time.sleep(0.001)


def test_resume_after_eight_random_kills_is_bit_identical(tmp_path, start):
    steps, draw, at = 80, random.Random(0), []
    whole, folder = (prepared(tmp_path / name, steps) for name in ("whole", "killed"))
    whole = finish(start(whole), whole)
    assert steps_of(whole, "train/loss") == list(range(1, steps + 1))
    assert steps_of(whole, "val/loss") == [*range(7, steps, 7), steps]
    for number in range(8):
        process = start(folder)
        if number % 4:
            let_it_live(process, folder, draw.uniform(0, 0.1), after_a_save=True)
        else:  # it may die before it has saved, or trained, at all
            let_it_live(process, folder, draw.uniform(0, 1), after_a_save=False)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        at.append(saved_step(folder))
    assert at == sorted(at) and len(set(at)) > 4, "it did die at many places"
    assert_same_run(finish(start(folder), folder), whole)


def test_resume_after_kills_while_saving_is_bit_identical(tmp_path, start):
    steps = 15
    whole, folder = (prepared(tmp_path / name, steps) for name in ("whole", "killed"))
    whole = finish(start(whole), whole)
    saving = [("config.yaml", 1, "before"), ("config.yaml", 1, "after"), ("metrics.csv", 1, "after")]
    saving += [("state.safetensors", 1, "torn"), ("state.safetensors", 1, "after"), ("model.safetensors", 1, "after")]
    saving += [("state.safetensors", 2, "torn"), ("metrics.json", 1, "torn"), ("metrics.json", 1, "after")]
    for name, time_of_many, moment in [*saving, ("curves.png", 1, "after")]:
        process = start(folder, (name, time_of_many, moment))
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (name, moment)
    assert_same_run(finish(start(folder), folder), whole)
