"""Several trainings at a time, each in a new process, with a log file."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeVar

from dl_proj.cli import exit_on_mistake
from my_custom_ai.custom_train.devices import shares_of_devices, use_share
from my_custom_ai.utils.signals import FirstSignal, raise_stopped

Work = TypeVar("Work")

_PATIENCE = 30.0  # seconds that an interrupted training may take to end


def run_side_by_side(
    train: Callable[[Work], None], waiting: dict[str, Work], jobs: int, log_of: Callable[[str], Path]
) -> Iterator[tuple[str, str | None]]:
    """Call ``train`` on each item, ``jobs`` at a time, each in a new process with its share of the devices.

    Args:
        train: a module-level function, because it is pickled.
        waiting: the items by name.
        jobs: number of processes at a time.
        log_of: returns the file for the output of a name's process.

    Yields:
        As each item ends: its name, and None or an error message.
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
                yield name, None if process.exitcode == 0 else _last_line(log_of(name), process.exitcode)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join(_PATIENCE)
            process.kill()


def _work(train: Callable[[Work], None], work: Work, device: str | None, jobs: int, log: Path) -> None:
    """Run ``train`` in the new process, with its output redirected to the log."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    use_share(device, jobs)

    def train_until_signal() -> None:
        with FirstSignal(raise_stopped):
            train(work)

    exit_on_mistake(train_until_signal)


def _end_with_the_sweep() -> None:
    """Exit when the sweep's process ends for any reason; saved states are valid at any instant."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os._exit(1)


def _last_line(log: Path, code: int | None) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"exit code {code}: {last.removeprefix('stopped: ')} (see {log})"
