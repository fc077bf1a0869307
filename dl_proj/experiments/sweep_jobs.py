"""Several trainings at a time: each in a new process, with a log in its run's folder."""

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

Work = TypeVar("Work")

_PATIENCE = 30.0  # seconds that an interrupted training may take to end


def run_side_by_side(
    train: Callable[[Work], None], waiting: dict[str, Work], jobs: int, log_of: Callable[[str], Path]
) -> Iterator[tuple[str, str | None]]:
    """Call ``train`` on each piece of work, ``jobs`` at a time, each in a fresh process that computes on its share.

    Args:
        train: a function of a module, as it travels by pickle.
        waiting: the pieces by their names.
        jobs: processes at a time.
        log_of: a name's file, which gets what its process prints.

    Yields:
        As soon as one has ended: its name, and None or what went wrong.
    """
    todo, free, devices = list(waiting), list(range(jobs)), shares_of_devices(jobs)
    running: dict[int, tuple[SpawnProcess, str, int]] = {}  # by what tells that it has ended
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
                process, name, place = running.pop(sentinel)  # type: ignore[arg-type]  # a sentinel is what came in
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
    """In the new process."""
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    use_share(device, jobs)
    exit_on_mistake(lambda: train(work))


def _end_with_the_sweep() -> None:
    """However it dies; what a training has saved is whole at any instant."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    sweep.join()
    os._exit(1)


def _last_line(log: Path, code: int | None) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"exit code {code}: {last.removeprefix('stopped: ')} (see {log})"
