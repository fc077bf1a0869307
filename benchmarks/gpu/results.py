"""The results of a stage: a JSON file, written atomically after every case, so a kill loses only the running case."""

import json
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import machine


class Results:
    """Results of a stage so far; an existing file is continued.

    A case is a dictionary of values. A failed case has "error" and "lasting", and possibly values. The file also names
    the running case, so that it is known after a crash.

    Raises:
        ValueError: the existing file was written for another stage, card, torch version or size.
    """

    def __init__(self, path: Path, *, stage: str, device: torch.device, tiny: bool) -> None:
        self.path = path
        self.found: dict[str, Any] = {
            "stage": stage,
            "machine": describe(device),
            "date": _today(),
            "tiny": tiny,
            "complete": False,
            "running": None,
            "cases": {},
        }
        if path.exists():
            self._go_on(json.loads(path.read_text(encoding="utf-8")))

    def _go_on(self, before: dict[str, Any]) -> None:
        for name, then, now in [
            ("stage", before["stage"], self.found["stage"]),
            ("device", before["machine"]["device"], self.found["machine"]["device"]),
            ("torch", before["machine"]["torch"], self.found["machine"]["torch"]),
            ("tiny", before["tiny"], self.found["tiny"]),
        ]:
            if then != now:
                raise ValueError(f"{self.path} has {name} {then!r}, but now it is {now!r}; use another output folder")
        self.found["cases"] = before["cases"]
        self.found["complete"] = before["complete"]

    def has(self, key: str) -> bool:
        """Whether a case is done: measured, or failed for a lasting reason."""
        return key in self.found["cases"] and not _to_retry(self.found["cases"][key])

    def begin(self, key: str) -> None:
        """Record the running case, until the next ``add``, ``fail`` or ``begin``."""
        self.found["running"] = key
        self.found["complete"] = False
        self._write()

    def add(self, key: str, values: dict[str, Any]) -> None:
        """Record the values of a case."""
        self.found["cases"][key] = values
        self.found["running"] = None
        self.found["date"] = _today()
        self._write()

    def fail(self, key: str, error: str, *, lasting: bool, values: dict[str, Any] | None = None) -> None:
        """Record why a case failed, and the values that it measured nevertheless.

        ``lasting``: it would fail again (out of memory, a library that is not installed). Other failed cases are run
        again by the next call.
        """
        self.add(key, {**(values or {}), "error": error, "lasting": lasting})

    def finish(self) -> None:
        """Mark the stage as complete, unless a case is to be run again."""
        self.found["running"] = None
        self.found["complete"] = not any(_to_retry(case) for case in self.found["cases"].values())
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self.found, indent=1) + "\n")


def _to_retry(case: dict[str, Any]) -> bool:
    return "error" in case and not case["lasting"]


def check(path: Path, device: torch.device, *, tiny: bool) -> None:
    """Check that a stage can continue an existing file.

    Raises:
        ValueError: the file was written on another card, with another torch version, or for another size.
    """
    if path.exists():
        Results(path, stage=json.loads(path.read_text(encoding="utf-8"))["stage"], device=device, tiny=tiny)


def is_complete(path: Path) -> bool:
    """Whether a stage's file exists and is marked as complete."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["complete"]


def fail_running_case(path: Path, error: str) -> str | None:
    """After a crash, record the running case as failed for good, so that the next start does not crash in it again.

    Returns:
        The key of the case, or None if no case was running.
    """
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    key: str | None = found["running"]
    if key is not None:
        found["cases"][key] = {"error": error, "lasting": True}
        found["running"] = None
        write_text(path, json.dumps(found, indent=1) + "\n")
    return key


def forget_failures(path: Path) -> int:
    """Remove failed cases, including lasting ones, so that they are run again; return their number."""
    if not path.exists():
        return 0
    found = json.loads(path.read_text(encoding="utf-8"))
    failed = [key for key, case in found["cases"].items() if "error" in case]
    if failed:
        found["cases"] = {key: case for key, case in found["cases"].items() if "error" not in case}
        found["complete"] = False
        write_text(path, json.dumps(found, indent=1) + "\n")
    return len(failed)


def describe(device: torch.device) -> dict[str, Any]:
    """The machine: device, Python and torch versions; on CUDA also driver, CUDA, cuDNN, Triton and device memory."""
    found: dict[str, Any] = machine(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": _version("triton"),
            "capability": f"{properties.major}.{properties.minor}",
            "GiB": round(properties.total_memory / 2**30, 1),
        }
    return found


def _driver() -> str | None:
    """Version of the driver, as reported by nvidia-smi; None if that fails."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.splitlines()[0].strip() if answer.strip() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _today() -> str:
    return time.strftime("%Y-%m-%d")
