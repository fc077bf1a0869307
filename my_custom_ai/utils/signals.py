"""Signals that ask a process to end: the first one is answered in order, a second one ends the process at once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, Self

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
"""Ctrl-C, a scheduler's warning and a lost terminal: those of them that this platform has."""

_ONE_REQUEST = 5.0  # seconds; a scheduler, a terminal and whoever started this process pass on the same request


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; as with Ctrl-C alone, no ``except Exception`` comes in between."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {word(number)}")
        self.number = number


def word(number: int) -> str:
    """A signal as users know it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def restated(error: KeyboardInterrupt, message: str) -> KeyboardInterrupt:
    """The same with another message."""
    return Stopped(error.number, message) if isinstance(error, Stopped) else KeyboardInterrupt(message)


def exit_code(error: KeyboardInterrupt) -> int:
    """What a shell gives a process that the signal ended: 128 and its number."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


class FirstSignal:
    """In its ``with`` block, takes the first of the ``SIGNALS`` that comes; after it, each has its usual effect.

    A signal that a caller handles or ignores, as ``nohup`` does, is left alone, and so are all outside the main thread,
    where Python allows no handlers. Blocks can be nested: the innermost answers.

    Args:
        answer: called with the signal's number; None: the block asks for ``number`` itself.
    """

    def __init__(self, answer: Callable[[int], None] | None = None) -> None:
        self.number: int | None = None
        self._answer = answer
        self._before: dict[int, Any] = {}
        self._outer: FirstSignal | None = None
        self._time = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                owner = getattr(before, "__self__", None)
                if isinstance(owner, FirstSignal):
                    self._outer = owner
                elif before not in (signal.SIG_DFL, signal.default_int_handler):
                    continue
                self._before[number] = before
                signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
        self.number = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self._note(number)
            if self._answer is not None:
                self._answer(number)
        elif not _has_launcher() or time.monotonic() - self._time > _ONE_REQUEST:
            _die(number)

    def _note(self, number: int) -> None:
        self.number, self._time = number, time.monotonic()
        if self._outer is not None:
            self._outer._note(number)


def _has_launcher() -> bool:
    """Whether torchrun, or a process of Python's own, has started this one."""
    return "WORLD_SIZE" in os.environ or multiprocessing.parent_process() is not None


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def raise_stopped(number: int) -> NoReturn:
    """An answer: end what is in work, and clean up."""
    raise Stopped(number)


def exit_at_once(number: int) -> NoReturn:
    """An answer while modules are imported, which an exception would leave half made, and nothing is to be saved."""
    if os.environ.get("RANK", "0") == "0":  # torchrun's
        sys.stderr.write(f"{Stopped(number)}\n")
        sys.stderr.flush()
    os._exit(128 + number)


def leave_to_parent(*_: object) -> None:
    """For a process that loads data: the parent, which a scheduler signals too, ends it when it needs no more.

    Otherwise the parent would find a dead loader in the update that it wants to end.
    """
    for number in SIGNALS:
        signal.signal(number, _die_next_time)


def _die_next_time(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
