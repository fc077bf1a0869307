"""No room: each training ends in one line with the path, and what was finished goes on where there is room again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_scripts import TEXT, as_yaml, tiny, tiny_classifier, tiny_language

from my_custom_ai.custom_train.checkpoint import load_tensors

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]
OFTEN = {"train.save_every": 1, "train.eval_every": 2, "train.log_every": 1, "train.max_steps": 12}
TRAININGS = {"synth_train": tiny(OFTEN), "cls_train": tiny_classifier(OFTEN), "lm_train": tiny_language(OFTEN)}


def run(folder, name, *flags, kib=None):
    """A script in a process of its own that may write no file of more than ``kib``."""
    words = [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)]
    if kib is not None:
        words = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "bash", *words]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)


def assert_ended_well(done, folder):
    """Finished, or one line that names a file; no traceback, nothing half, each file that is there is whole."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1, 2), done
    if done.returncode:
        complaints = [line for line in done.stderr.split("\n") if line and not re.search(r"\d+%|warning", line)]
        assert len(complaints) == 1, done.stderr
        assert any(word in complaints[0] for word in ("runs", "tokens", str(folder))), complaints
    assert list(folder.rglob("*.part")) == []
    for path in folder.rglob("*.safetensors"):
        load_tensors(path)


def prepared(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return as_yaml(folder / "c.yaml", TRAININGS[name])


@pytest.mark.parametrize("kib", [0, 8, 60])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_limit_of_the_file_size(tmp_path, name, kib, report):
    config = prepared(tmp_path / "here", name)
    done = run(config.parent, name, "--config", config, kib=kib)
    assert_ended_well(done, config.parent)
    saved = list(config.parent.rglob("state.safetensors"))
    again = run(config.parent, name, "--config", config, *(["--resume", "last"] if saved else []))
    assert again.returncode == 0, again.stderr
    report(
        "limits of a file's size", {"trainings": 1, "stopped": bool(done.returncode), "ended after it was lifted": 1}
    )
    assert len(list(config.parent.rglob("metrics.json"))) == 2  # the run's, and that beside its best weights


@pytest.mark.parametrize("kib", [24, 128])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_disk_that_fills_up(tmp_path, name, kib, report):
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        done = run(disk, name, "--config", prepared(disk, name))
        assert_ended_well(done, disk)
        report("full disks", {"trainings": 1, "stopped": bool(done.returncode)})
    finally:
        subprocess.run(["umount", disk], check=True)
