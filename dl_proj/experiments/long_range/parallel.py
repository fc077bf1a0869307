"""Generated data: pieces of it made by all processor cores, with a bar."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

from tqdm import tqdm

Piece = TypeVar("Piece")

_FEW = 4  # pieces that are made sooner than processes start


def in_order(make: Callable[[int], Piece], numbers: Iterable[int]) -> Iterator[Piece]:
    """``make`` of each number, in their order, however many processes make them.

    Args:
        make: a function of a module, or a partial of one, as it travels by pickle.
        numbers: of the pieces.
    """
    todo, cores = list(numbers), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1 or len(todo) < _FEW:
        yield from map(make, todo)
        return
    with multiprocessing.get_context("spawn").Pool(cores, initializer=_leave_interrupts_to_parent) as pool:
        yield from pool.imap(make, todo)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends its processes by another signal


def bar(what: str, total: int) -> "tqdm[NoReturn]":
    """How many examples are made; to be updated, in a ``with`` block."""
    return tqdm(desc=what, total=total, unit=" examples", delay=1, dynamic_ncols=True, leave=False)
