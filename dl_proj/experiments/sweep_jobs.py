"""Several trainings at a time, each in a new process, with a log file."""

import contextlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple, TypeVar

import dl_proj
from dl_proj.cli import exit_on_mistake
from my_custom_ai.custom_train.devices import shares_of_devices, use_share
from my_custom_ai.utils.signals import SIGNALS, FirstSignal, raise_stopped

Work = TypeVar("Work")

PROJECT = str(Path(dl_proj.__file__).parents[1])
"""The folder from which new processes import this project."""
PATIENCE = 30.0  # seconds that an interrupted training may take to end


class End(NamedTuple):
    """How a training ended."""

    name: str
    error: str | None = None  # None: it is complete
    failed: bool = False  # False beside an error: it was only stopped, and can continue


def run_side_by_side(
    train: Callable[[Work], None], waiting: dict[str, Work], jobs: int, log_of: Callable[[str], Path]
) -> Iterator[End]:
    """Call ``train`` on each item, ``jobs`` at a time, each in a new process with its share of the devices.

    Args:
        train: a module-level function, because it is pickled.
        waiting: the items by name.
        jobs: number of processes at a time.
        log_of: returns the file for the output of a name's process.

    Yields:
        The end of each item, as it comes.
    """
    todo, free, devices = list(waiting), list(range(jobs)), shares_of_devices(jobs)
    running: dict[int, tuple[SpawnProcess, str, int]] = {}  # by the sentinel that signals the end of a process
    try:
        while todo or running:
            while todo and free:
                name, place = todo.pop(0), free.pop(0)
                process = multiprocessing.get_context("spawn").Process(
                    target=_work, args=(train, waiting[name], devices[place], jobs, log_of(name))
                )
                process.start()
                running[process.sentinel] = (process, name, place)
            for sentinel in wait([*running]):
                process, name, place = running.pop(sentinel)  # type: ignore[arg-type]  # wait returns the sentinels it was given
                process.join()
                free.append(place)
                yield end_of(name, process.exitcode or 0, log_of(name))
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join(PATIENCE)
            process.kill()


def _work(train: Callable[[Work], None], work: Work, device: str | None, jobs: int, log: Path) -> None:
    """Run ``train`` in the new process, with its output redirected to the log."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    use_share(device, jobs)
    raise SystemExit(train_logged(train, work, log))


def train_logged(train: Callable[[Work], None], work: Work, log: Path) -> int:
    """Run ``train`` in this process, with all of its output in ``log``.

    Returns:
        An exit code: 0 if it is complete, 128 plus its number if a signal stopped it.
    """

    def train_until_signal() -> None:
        with FirstSignal(raise_stopped):
            train(work)

    with _output_to(log):
        try:
            exit_on_mistake(train_until_signal)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        except Exception:
            traceback.print_exc()
            return 1
    return 0


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append to the log what this process and those that it starts print."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with log.open("a", encoding="utf-8") as file:
            _flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        _flush()
        for number, former in zip((1, 2), kept, strict=True):
            os.dup2(former, number)
            os.close(former)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _end_with_the_sweep() -> None:
    """Exit when the sweep's process ends for any reason; saved states are valid at any instant."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os._exit(1)


def end_of(name: str, code: int, log: Path) -> End:
    """Describe the end of a process by its exit code (negative: a signal killed it) and the last line of its log."""
    if code == 0:
        return End(name)
    stopped = code - 128 in [*SIGNALS] or -code in [*SIGNALS]
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return End(name, f"exit code {code}: {last.removeprefix('stopped: ')} (see {log})", failed=not stopped)
