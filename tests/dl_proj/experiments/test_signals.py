"""Signals to scripts that have processes of their own: all of them end, what is finished stays."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_scripts import as_yaml, tiny, tiny_yaml

from my_custom_ai.custom_train.checkpoint import load_note

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ENDLESS = {"train.max_steps": 10**6, "train.save_every": 10**6, "train.eval_every": 10**6, "train.trackers": []}


def started(name, *flags):
    """A script as a user starts it in a terminal, with its output in files."""
    with Path("out").open("w") as out, Path("err").open("w") as err:
        command = [sys.executable, str(ROOT / f"{name}.py"), *flags]
        return subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)


def wait_until(condition, seconds=300.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, Path("err").read_text() + Path("out").read_text()
        time.sleep(0.1)


def end(process, number):
    """Send the signal as it comes, Ctrl-C to all processes in the terminal; gives the exit code when none is left."""
    children = []

    def has_children():  # that load data has none between two epochs
        children.extend(psutil.Process(process.pid).children(recursive=True))
        return children

    try:
        wait_until(has_children, 30)
        return _ended(process, number, children)
    finally:
        if process.poll() is None:  # what has failed should not slow down the other tests
            os.killpg(process.pid, signal.SIGKILL)


def _ended(process, number, children):
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    code = process.wait(60)
    _, left = psutil.wait_procs(children, timeout=20)
    assert left == []
    assert "Traceback" not in Path("err").read_text(), Path("err").read_text()
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_side_by_side_ends_with_its_trainings(number):
    as_yaml("base.yaml", tiny({"task": "copy", "train.trackers": []}))
    variants = {"long": ENDLESS, "longer": ENDLESS | {"model.dim": 24}}
    as_yaml("sweep.yaml", {"base": "base.yaml", "output_dir": "out_dir", "variants": variants, "jobs": 2})
    process = started("sweep", "--config", "sweep.yaml")
    logs = [Path("out_dir", name, "log.txt") for name in ("long", "longer")]
    wait_until(lambda: all(log.exists() and re.search(r" [1-9]\d*/1000000 ", log.read_text()) for log in logs))
    assert end(process, number) == 128 + number
    (line,) = Path("err").read_text().splitlines()
    assert "the same command continues the sweep" in line
    for log in logs:
        step = re.findall(r"saved after step ([\d,]+) of", log.read_text())[0]
        state = log.parent / "version_0/checkpoints/last/state.safetensors"
        assert int(step.replace(",", "")) == load_note(state)["step"] > 0
        assert not (log.parent / "version_0/.pid").exists()


def test_no_process_that_loads_data_is_left():
    tiny_yaml("c.yaml", ENDLESS | {"train.num_workers": 2})
    process = started("synth_train", "--config", "c.yaml")
    wait_until(lambda: re.search(r" [1-9]\d*/1000000 ", Path("err").read_text()))
    assert end(process, signal.SIGINT) == 128 + signal.SIGINT
    assert len(re.findall("saved after step", Path("err").read_text())) == 1
    assert load_note("runs/tiny/version_0/checkpoints/last/state.safetensors")["step"] > 0


def test_no_process_that_loads_data_outlives_a_killed_training():
    tiny_yaml("c.yaml", ENDLESS | {"train.num_workers": 2})
    process = started("synth_train", "--config", "c.yaml")
    wait_until(lambda: re.search(r" [1-9]\d*/1000000 ", Path("err").read_text()))
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
