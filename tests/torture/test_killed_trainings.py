"""Killed or told to stop at random moments, and resumed: bit for bit what a run leaves that was never stopped."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_scripts import (
    TEXT,
    as_yaml,
    saved_tensors,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_translation,
    write_pairs,
)

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]
OFTEN = {"train.save_every": 1, "train.eval_every": 7, "train.log_every": 1, "train.max_steps": 250}
TRAININGS = {
    "synth_train": tiny(OFTEN),
    "cls_train": tiny_classifier(OFTEN),
    "generation_train": tiny_generator(OFTEN),
    "lm_train": tiny_language(OFTEN),
    "translation_train": tiny_translation(OFTEN),
}


def start(folder, name):
    resume = ["--resume", "last"] if states(folder) else []
    words = [sys.executable, str(ROOT / f"{name}.py"), "--config", "c.yaml", *resume]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def prepared(folder, name):
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs(folder / "pairs")
    as_yaml(folder / "c.yaml", TRAININGS[name])
    return folder


def finished(folder, name):
    """The folder of the run, which trains to its end."""
    process = start(folder, name)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return next(path.parent for path in folder.rglob("metrics.csv") if (path.parent / "metrics.json").exists())


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def states(folder):
    """When states were saved; changes with each save."""
    return {path.stat().st_mtime_ns for path in folder.rglob("state.safetensors")}


def stop_while_it_saves(folder, name, number, draw):
    """Send a signal a random moment after a new state was saved; returns the exit code and what was said."""
    before, process = states(folder), start(folder, name)
    until = time.monotonic() + 120
    while states(folder) == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.15))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", TRAININGS)
def test_the_run_is_the_same(tmp_path, name, number, report):
    draw, folder = random.Random(f"{name}{number}"), prepared(tmp_path / "stopped", name)
    stopped = 0
    for _ in range(5):
        code, said = stop_while_it_saves(folder, name, number, draw)
        assert "Traceback" not in said
        if code == 0:
            break  # it was done
        assert code == (-number if number == signal.SIGKILL else 128 + number), said
        stopped += 1
    assert stopped > 1
    run, whole = finished(folder, name), finished(prepared(tmp_path / "whole", name), name)
    found, expected = saved_tensors(run), saved_tensors(whole)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert rows(run) == rows(whole)
    assert {row["step"] for row in rows(run)} == {str(step) for step in range(1, 251)}
    report("killed trainings", {"signals": stopped, "runs, bit for bit those that nobody stopped": 1})
