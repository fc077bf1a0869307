"""Sweeps of the tiny copy task, and what is compared when other executors have trained them."""

import csv
import time
from pathlib import Path

from tiny_scripts import COSTS, as_yaml, tiny

PACE = {"batch_size": 8, "eval_every": 50, "save_every": 10, "log_every": 10, "device": "cpu", "trackers": []}
BROKEN = {"optimizer.lr": 1e30, "train.clip_norm": 0}
LONG = {"train.max_steps": 200}  # seconds, so that a signal comes in the middle


def write_sweep(variants, **more):
    """base.yaml, and sweep.yaml with these variants."""
    as_yaml("base.yaml", tiny({"task": "copy", "model.dropout": 0.1, "train": PACE | {"max_steps": 20}}))
    as_yaml("sweep.yaml", {"base": "base.yaml", "output_dir": "out", "variants": variants} | more)


def rows_of(folder):
    """The rows of sweep.csv by variant, without what depends on the time."""
    with (Path(folder) / "sweep.csv").open(newline="") as file:
        return {
            row["variant"]: {k: v for k, v in row.items() if k not in COSTS and not k.endswith(" at equal time")}
            for row in csv.DictReader(file)
        }


def history_of(run):
    """A run's metrics.csv without the times."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def wait_for(condition, seconds=120.0):
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def is_training(run):
    """Whether the run has a state from which it can go on."""
    return (run / "checkpoints/last/state.safetensors").is_file()
