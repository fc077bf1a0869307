"""Shared by all stages: command-line arguments, deadlines, and the loop over cases."""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.results import Results


def arguments(
    doc: str, extend: Callable[[argparse.ArgumentParser], None] | None = None, words: list[str] | None = None
) -> argparse.Namespace:
    """A stage's command line: device (torch.device), output (Path), tiny (bool), seconds (float).

    ``extend`` adds the stage's own options to the parser. Exits with 2 if this machine lacks the device.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="cuda (default) or cpu")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file; continued if it exists")
    parser.add_argument("--tiny", action="store_true", help="rehearsal: the same cases, as small as possible")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="do not start cases that would end later")
    parser.add_argument("--end_with_stdin", action="store_true", help="end when standard input closes (for the plan)")
    if extend is not None:
        extend(parser)
    found = parser.parse_args(words)
    if found.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --tiny rehearses without one")
    if found.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    return found


def _end_with_stdin() -> None:
    """When the plan dies, kill this stage and all its processes, so that they do not disturb the next plan."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock would block the exit of this process
    os.killpg(0, signal.SIGKILL)


class Deadline:
    """A number of seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline, 0 after it."""
        return max(0.0, self.end - time.monotonic())

    def allows(self, seconds: float) -> bool:
        """Whether work that takes this many seconds would end before the deadline."""
        return seconds < self.left()


class Case(NamedTuple):
    """One measurement: ``call`` returns its values, and takes about ``seconds``."""

    key: str
    call: Callable[[], dict[str, Any]]
    seconds: float


def go_through(cases: Iterable[Case], results: Results, deadline: Deadline) -> bool:
    """Run the missing cases in order, as far as time allows; mark ``results`` as finished if none was left out.

    An exception is recorded as the case's result, and the next case follows. The failure is lasting if memory or a
    library was missing. After an error that leaves the CUDA context unusable, the process exits with 1, and the plan
    restarts the stage.

    Returns:
        Whether every case is done.
    """
    left_out = []
    for case in cases:
        if results.has(case.key):
            continue
        if not deadline.allows(case.seconds):
            left_out.append(case.key)
            continue
        results.begin(case.key)
        print(f"{case.key} ...", flush=True)
        start = time.monotonic()
        try:
            results.add(case.key, case.call())
        except Exception as error:
            _record_failure(case.key, error, results)
        print(f"{case.key}: {time.monotonic() - start:.1f} s", flush=True)
    if left_out:
        print(f"no time left for: {', '.join(left_out)}", flush=True)
        return False
    results.finish()
    return results.found["complete"]


def _record_failure(key: str, error: Exception, results: Results) -> None:
    traceback.print_exc()
    line = f"{type(error).__name__}: {str(error).strip()}"[:2000]
    broken = "CUDA error" in str(error) and not isinstance(error, torch.OutOfMemoryError)
    results.fail(key, line, lasting=broken or isinstance(error, torch.OutOfMemoryError | MemoryError | ImportError))
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if broken:
        raise SystemExit(1)
