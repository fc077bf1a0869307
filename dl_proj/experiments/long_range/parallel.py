"""Generate data piece by piece on all processor cores, with a progress bar."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

from tqdm import tqdm

Piece = TypeVar("Piece")

_FEW = 4  # for fewer pieces, starting processes is not worth it


def in_order(make: Callable[[int], Piece], numbers: Iterable[int]) -> Iterator[Piece]:
    """Yield ``make(number)`` for each number, in order, computed by several processes.

    Args:
        make: a module-level function, or a partial of one, because it is pickled.
        numbers: the numbers of the pieces.
    """
    todo, cores = list(numbers), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1 or len(todo) < _FEW:
        yield from map(make, todo)
        return
    with multiprocessing.get_context("spawn").Pool(cores, initializer=_leave_interrupts_to_parent) as pool:
        yield from pool.imap(make, todo)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent terminates its processes itself


def bar(what: str, total: int) -> "tqdm[NoReturn]":
    """Return a progress bar of generated examples, for a ``with`` block."""
    return tqdm(desc=what, total=total, unit=" examples", delay=1, dynamic_ncols=True, leave=False)
