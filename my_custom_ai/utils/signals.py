"""Signals that ask a process to end: the first one ends it gracefully, a second one at once."""

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
"""Ctrl-C, a scheduler's warning and a lost terminal, as far as this platform has them."""

# Seconds within which further signals count as the same request: a scheduler or terminal may signal this process and
# its launcher, which passes the signal on.
_ONE_REQUEST = 5.0


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. Like KeyboardInterrupt, it is not caught by ``except Exception``."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or f"stopped by {word(number)}")
        self.number = number


def word(number: int) -> str:
    """A signal's name as users know it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def restated(error: KeyboardInterrupt, message: str) -> KeyboardInterrupt:
    """The same exception with another message."""
    return Stopped(error.number, message) if isinstance(error, Stopped) else KeyboardInterrupt(message)


def exit_code(error: KeyboardInterrupt) -> int:
    """The exit code that shells report for a process ended by the signal: 128 plus its number."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


class FirstSignal:
    """Context manager that handles the first of ``SIGNALS``; a second one has its default effect.

    Signals that the caller handles or ignores (as ``nohup`` does) are left alone. Outside the main thread, where Python
    allows no handlers, it does nothing. Blocks can be nested; the innermost handles the signal.

    Args:
        answer: handler, called with the signal's number; None: the code in the block checks ``number``.
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
    """Whether torchrun, SLURM's srun or Python's multiprocessing started this process."""
    return bool({"WORLD_SIZE", "SLURM_STEP_ID"} & os.environ.keys()) or multiprocessing.parent_process() is not None


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def raise_stopped(number: int) -> NoReturn:
    """Handler that raises, so that work in progress is unwound and cleaned up."""
    raise Stopped(number)


def exit_at_once(number: int) -> NoReturn:
    """Handler while modules are imported: an exception would leave them half imported, and there is nothing to save."""
    if os.environ.get("RANK", "0") == "0":  # under torchrun, only the first process reports
        sys.stderr.write(f"{Stopped(number)}\n")
        sys.stderr.flush()
    os._exit(128 + number)


def leave_to_parent(*_: object) -> None:
    """Make a data-loading worker ignore the first signal: its parent, which gets the signal too, ends it in time.

    If the worker died at once, the parent could not finish the update in progress.
    """
    for number in SIGNALS:
        signal.signal(number, _die_next_time)


def _die_next_time(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
