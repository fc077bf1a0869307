"""The GPU's plan, rehearsed on a CPU and killed at moments that nobody chose, goes on with what is missing."""

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.report import report
from benchmarks.gpu.results import is_complete

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]


def rehearse(folder):
    words = ["--device", "cpu", "--tiny", "--output_dir", str(folder)]
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cases_of_plan(folder):
    files = [folder / f"{stage.name}.json" for stage in PLAN]
    return {
        (path.stem, key): case
        for path in files
        if path.exists()
        for key, case in json.loads(path.read_text())["cases"].items()
    }


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def processes_with(word):
    """Numbers of the processes that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def kill_in(stage, process, folder, wait):
    """SIGKILL to the plan's process, ``wait`` seconds after a stage has begun; its children must end by themselves."""
    with process:
        wait_until((folder / f"{stage.name}.log").exists, 300.0)
        time.sleep(wait)
        process.kill()
    wait_until(lambda: not processes_with(str(folder)), 20.0)


def test_a_killed_rehearsal_of_the_whole_plan_resumes(tmp_path):
    """In two stages: what was done before is kept as it was."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done = {}
    for stages in (PLAN[:4], PLAN[4:]):
        kill_in(chance.choice(stages), rehearse(tmp_path), tmp_path, chance.uniform(0.0, 6.0))
        assert {key: cases_of_plan(tmp_path)[key] for key in done} == done
        done = cases_of_plan(tmp_path)
    process = rehearse(tmp_path)
    shown = process.communicate(timeout=600)[0]
    assert process.returncode == 0, shown
    cases = cases_of_plan(tmp_path)
    assert done
    assert {key: cases[key] for key in done} == done
    assert all(is_complete(tmp_path / f"{stage.name}.json") for stage in PLAN)
    errors = [case["error"] for case in cases.values() if "error" in case]
    assert [error for error in errors if not error.startswith("ModuleNotFoundError")] == []
    assert report(tmp_path) in shown
    for stage in PLAN:
        section = shown.partition(f"## {stage.name}: {stage.about}")[2].partition("\n## ")[0]
        assert section.count("\n| ") > 2, f"{stage.name} shows no table"
