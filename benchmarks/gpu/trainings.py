"""Trainings that would take too long on a CPU, each variant of each experiment with several seeds: see experiments.py.

A case is one training and its follow-up test, run by this project's scripts in a separate process. A training that is
interrupted, by --seconds or a kill, is resumed from its last saved state by the next call with the same --output.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.experiments import EXPERIMENTS, Experiment, Settings
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Deadline, arguments
from benchmarks.gpu.training_tables import tables
from dl_proj.experiments.history import read_history, seconds_in_all, seconds_per_update
from dl_proj.tables import markdown
from my_custom_ai.custom_train import RunDirectory

__all__ = ["main", "tables"]

_SEEDS = (1, 2, 3)
_ROOT = Path(__file__).parents[2]  # where the scripts are
_WORTH_STARTING = 15.0  # seconds; a process would spend less on imports only
_TINY_SECONDS = 10.0  # expected time of a case of the rehearsal
_LASTING = re.compile(r"OutOfMemoryError|became -?(nan|inf) at step")  # errors that would occur again
_PATIENCE = 3.0  # seconds that a process gets to end before it is killed


class Case(NamedTuple):
    """One training and its test."""

    experiment: Experiment
    variant: str
    seed: int

    @property
    def key(self) -> str:
        """The case's key in the results."""
        return f"{self.experiment.name}/{self.variant}/seed-{self.seed}"

    @property
    def run_name(self) -> str:
        """Name of the run, as sweep.py makes it."""
        return f"{self.variant}-seed{self.seed}"


class Place(NamedTuple):
    """Where and how cases run: device "cuda" or "cpu", folder of the data, folder for all output, and size."""

    device: str
    data_root: Path
    folder: Path
    tiny: bool


def main() -> None:
    """Run the missing cases, as far as time allows."""
    args = arguments(__doc__, extend=_add_options)
    try:
        results = Results(args.output, stage="trainings", device=args.device, tiny=args.tiny)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    folder = args.output.with_suffix("").absolute()
    place = Place(args.device.type, args.data_root.absolute(), folder, args.tiny)
    cases = [c for c in all_cases(args.tiny) if not args.experiment or c.experiment.name in args.experiment]
    train_missing(cases, results, place, Deadline(args.seconds))
    if all(results.has(case.key) for case in cases):
        results.finish()
    for title, rows in tables(results.found).items():
        print(f"\n{title}\n\n{markdown(rows)}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", action="append", choices=[*EXPERIMENTS], help="run only this one; repeatable")
    parser.add_argument(
        "--data_root",
        type=Path,
        default=Path(os.environ.get("DL_PROJ_TEST_DATA") or "data"),
        metavar="FOLDER",
        help="folder with MNIST/raw, books and multi30k (default: $DL_PROJ_TEST_DATA, or data)",
    )


def all_cases(tiny: bool) -> list[Case]:
    """All cases in order of importance: every variant once before any is repeated with another seed."""
    if tiny:
        return [Case(experiment, experiment.tiny_variant, _SEEDS[0]) for experiment in EXPERIMENTS.values()]
    return [
        Case(experiment, variant, seed)
        for seed in _SEEDS
        for experiment in EXPERIMENTS.values()
        for variant in experiment.seconds
    ]


def train_missing(cases: Iterable[Case], results: Results, place: Place, deadline: Deadline) -> None:
    """Run the cases without a result until the deadline, which may interrupt the last one."""
    waiting = [case for case in cases if not results.has(case.key)]
    while waiting and deadline.allows(_WORTH_STARTING):
        case = _next(waiting, results, place, deadline)
        waiting.remove(case)
        print(f"{case.key} ...", flush=True)
        start = time.monotonic()
        word = run_case(case, results, place, deadline)
        print(f"{case.key}: {word} after {time.monotonic() - start:.1f} s", flush=True)
    if waiting:
        print(f"no time left for: {', '.join(case.key for case in waiting)}", flush=True)


def _next(waiting: list[Case], results: Results, place: Place, deadline: Deadline) -> Case:
    """The first case that can end in time, with cases already begun first, then in order of importance.

    If none can, the first one is started nevertheless: the next call continues it.
    """
    in_order = sorted(waiting, key=lambda case: not _spent(_run_folder(case, place)))
    fitting = (case for case in in_order if deadline.allows(expected_seconds(case, results, place)))
    return next(fitting, in_order[0])


def expected_seconds(case: Case, results: Results, place: Place) -> float:
    """Expected remaining seconds of a case: from other seeds on this card if any are done, otherwise an estimate."""
    if place.tiny:
        return _TINY_SECONDS
    found = [
        values["figures"]["seconds"]
        for values in results.found["cases"].values()
        if "figures" in values and (values["experiment"], values["variant"]) == (case.experiment.name, case.variant)
    ]
    whole = 1.1 * statistics.fmean(found) + 20 if found else case.experiment.seconds[case.variant]
    return max(whole - _spent(_run_folder(case, place)), _WORTH_STARTING)


def run_case(case: Case, results: Results, place: Place, deadline: Deadline) -> str:
    """Run or resume a training and its test, and record the result, unless the deadline comes first.

    Returns:
        "done", "failed" or "cut".
    """
    run, output = _run_folder(case, place), _case_folder(case, place) / "test"
    follow_up = case.experiment.follow_up
    commands = [_training_command(case, place)]
    if follow_up is not None:
        commands.append(follow_up.command(run, output, device=place.device, tiny=place.tiny))
    log = _case_folder(case, place) / "log.txt"
    code = _call(commands, log, deadline)
    if code is None:
        return "cut"
    if code != 0:
        _note_failure(case, code, log, results)
        return "failed"
    tested = {} if follow_up is None else follow_up.read(output)
    results.add(case.key, _values(case, RunDirectory(run)) | {"test": tested})
    return "done"


def _training_command(case: Case, place: Place) -> list[str]:
    """Command of sweep.py for one variant and seed; it resumes an existing run."""
    made = place.folder / "data"
    experiment = case.experiment
    settings: Settings = {"train.device": place.device, "train.trackers": []}
    settings |= experiment.tiny | experiment.tiny_data(made) if place.tiny else experiment.data(place.data_root, made)
    return [
        "sweep",
        *("--config", str(experiment.sweep)),
        *("--seeds", json.dumps(_SEEDS)),
        *("--only", json.dumps([case.run_name])),
        *("--common", json.dumps(settings)),
        *("--output_dir", str(_case_folder(case, place).parent)),
    ]


def _case_folder(case: Case, place: Place) -> Path:
    """The folder in which sweep.py puts the runs of a variant."""
    return place.folder / case.experiment.name / case.run_name


def _run_folder(case: Case, place: Place) -> Path:
    """The run folder that sweep.py resumes or creates; a kill may have left version folders without a configuration."""
    folder = _case_folder(case, place)
    run = RunDirectory.newest(folder.parent, case.run_name)
    return run.path if run else folder / f"version_{len([*folder.glob('version_*')])}"


def _call(commands: list[list[str]], log: Path, deadline: Deadline) -> int | None:
    """Call scripts in one new process; return its exit code, or None if the deadline came first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.call_scripts", json.dumps(commands)]
    own = os.environ | {"TQDM_MININTERVAL": "5"}  # seconds; more frequent progress bars would fill the log
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, cwd=_ROOT, env=own
        )
    try:
        while process.poll() is None and deadline.left() > 0:
            time.sleep(0.1)
        return process.poll()
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process if it still runs; a training can be killed at any instant, since it writes files atomically."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _note_failure(case: Case, code: int, log: Path, results: Results) -> None:
    """Record the log line that gives a lasting reason, otherwise the log's last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    lasting = [line for line in lines if _LASTING.search(line)]
    error = [f"exit code {code}", *lines, *lasting][-1][:2000]
    results.fail(case.key, error, lasting=bool(lasting), values=_names(case))
    print(f"{case.key}: {error}", flush=True)


def _names(case: Case) -> Settings:
    return {"experiment": case.experiment.name, "variant": case.variant, "seed": case.seed}


def _values(case: Case, run: RunDirectory) -> Settings:
    """A finished run's figures, and its speed without evaluations; tokens per second only for equal-length examples."""
    figures = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    speed = {
        "seconds_per_update": seconds_per_update(read_history(run.metrics)),
        "tokens_per_second": figures.get("tokens_per_second"),
    }
    return _names(case) | {"figures": figures} | speed


def _spent(run: Path) -> float:
    """Seconds of training according to the run's saved history; 0 if it has not begun."""
    history = RunDirectory(run).metrics
    return seconds_in_all(read_history(history)) if history.is_file() else 0.0


if __name__ == "__main__":
    main()
