"""The stages in order of importance, and their runner: each stage is a process group with a time limit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import torch

from benchmarks.gpu.results import fail_running_case, is_complete
from benchmarks.gpu.stage import Deadline
from my_custom_ai.utils.files import write_text

ROOT = Path(__file__).parents[2]
GRACE = 5.0  # seconds between asking a stage to end and killing it
START = 15.0  # a stage is not started with fewer seconds left, which would be spent on imports


class Stage(NamedTuple):
    """A module of this package that is run as a program."""

    name: str
    module: str
    words: tuple[str, ...]  # additional arguments
    seconds: float  # expected time on an H100 (an estimate)
    least: float  # seconds reserved for it while earlier stages run
    limit: float  # seconds after which it is ended
    about: str
    shares: bool = False  # whether it is one of the stages that divide the remaining time in proportion to ``seconds``

    def command(self, device: torch.device, output: Path, seconds: float, *, tiny: bool) -> list[str]:
        """The command line of the stage's process."""
        words = ["--device", str(device), "--output", str(output), "--seconds", f"{seconds:.1f}", "--end_with_stdin"]
        return [sys.executable, "-m", f"benchmarks.gpu.{self.module}", *words, *self.words, *["--tiny"] * tiny]


def _training(experiment: str, seconds: float, about: str) -> Stage:
    return Stage(experiment, "trainings", ("--experiment", experiment), seconds, 300, 4 * seconds, about, shares=True)


PLAN = (
    Stage("sanity", "sanity", (), 20, 20, 90, "the device, and how fast it multiplies and copies"),
    Stage("tests", "tests", (), 150, 60, 420, "the tests that take a CUDA device"),
    Stage("layers", "layers", (), 720, 120, 1700, "attention layers by length beside other libraries'"),
    Stage("models", "models", (), 220, 60, 700, "training steps of 12-layer models by length"),
    _training("copy", 1140, "Reformer's copy task at length 1,024: table 2"),
    _training("multi30k", 3180, "translation to convergence"),
    _training("listops", 3780, "ListOps of the Long Range Arena, up to 2,000 tokens, seven mechanisms"),
    _training("recall", 2520, "associative recall at 64 tokens, by the state that decoding keeps"),
    _training("books", 5790, "language models of bytes, 6 layers of width 512, windows of 2,048"),
    _training("mnist", 2760, "Horn et al.'s MNIST, absolute and relative, with the shift test"),
    _training("pathfinder", 5760, "Pathfinder of the Long Range Arena, 32 x 32 pixels, four mechanisms"),
)
NAMES = tuple(stage.name for stage in PLAN)


def run_plan(
    stages: Iterable[Stage], folder: Path, device: torch.device, minutes: float, *, tiny: bool
) -> dict[str, str]:
    """Run stages in order within ``minutes``; their files are ``folder/<stage>.json`` and ``.log``.

    Returns:
        The final state of each stage, which is also written to ``folder/plan.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    budget = Deadline(60 * minutes)
    became: dict[str, str] = {}
    waiting = [*stages]
    while waiting:
        stage, *waiting = waiting
        missing = [one for one in waiting if not is_complete(folder / f"{one.name}.json")]
        if is_complete(folder / f"{stage.name}.json"):
            became[stage.name] = "complete before"
        elif not budget.allows(START + GRACE):
            became[stage.name] = "skipped, no time left"
        else:
            print(f"{stage.name}: {stage.about} ...", flush=True)
            limit = Deadline(allotted(stage, missing, budget.left() - GRACE))
            became[stage.name] = _run_stage(stage, folder, device, limit, tiny=tiny)
        print(f"{stage.name}: {became[stage.name]}", flush=True)
        write_text(folder / "plan.json", json.dumps(became, indent=1) + "\n")
    return became


def allotted(stage: Stage, later: list[Stage], left: float) -> float:
    """Seconds that a stage may take of those ``left``, given the ``later`` stages.

    Stages that share divide the time in proportion to their expected seconds, but each gets at least its ``least``. A
    stage that does not share leaves the ``least`` of all later stages that do not share.
    """
    if stage.shares:
        needed = stage.seconds + sum(one.seconds for one in later if one.shares)
        return min(stage.limit, left, max(left * stage.seconds / needed, stage.least))
    kept = sum(one.least for one in later if not one.shares)
    return min(stage.limit, left, max(left - kept, stage.least))


def _run_stage(stage: Stage, folder: Path, device: torch.device, limit: Deadline, *, tiny: bool) -> str:
    """Run a stage, and restart it after a crash as long as each attempt completes further cases."""
    output = folder / f"{stage.name}.json"
    start = time.monotonic()
    crashes = []
    while limit.left() > 0:
        before = _n_done(output)
        command = stage.command(device, output, max(1.0, limit.left() - GRACE), tiny=tiny)
        code = _run(command, folder / f"{stage.name}.log", limit)
        if code is None:
            return f"cut after {time.monotonic() - start:.0f} s, {_n_done(output)} cases done"
        if code == 0 or is_complete(output):
            break
        reason = f"the process ended with {word(code)}"
        case = fail_running_case(output, reason)
        crashes.append(f"{reason}{f' in {case}' if case else ''}")
        if _n_done(output) == before:
            return f"failed: {'; '.join(crashes)}; see {output.with_suffix('.log')}"
    state = "complete" if is_complete(output) else f"incomplete, {_n_done(output)} cases done"
    return "; ".join([f"{state} after {time.monotonic() - start:.0f} s", *crashes])


def _run(command: list[str], log: Path, limit: Deadline) -> int | None:
    """The exit code of a process, or None if its time was over; all processes that it started are ended."""
    with log.open("a", encoding="utf-8") as out, _group(command, out) as process:
        try:
            return process.wait(limit.left())
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def _group(command: list[str], out: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process group; if this process dies, the group notices it by its closed standard input."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _n_done(output: Path) -> int:
    return len(json.loads(output.read_text(encoding="utf-8"))["cases"]) if output.exists() else 0


def word(code: int) -> str:
    """An exit code, or the name of the signal that ended the process."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
