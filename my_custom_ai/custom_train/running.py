"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from my_custom_ai.custom_train.errors import SetupError
from my_custom_ai.utils.files import write_text


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder; the lock of a killed one is gone with it.

    ``.lock`` stays in the folder, ``.pid`` says who is in it.

    Raises:
        SetupError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, who = FileLock(folder / ".lock", timeout=0), folder / ".pid"
    try:
        lock.acquire()
    except Timeout:
        pid = who.read_text(encoding="utf-8").strip() if who.is_file() else "unknown"
        raise SetupError(f"{folder}: still running, pid {pid}; wait for its end, or stop it") from None
    try:
        write_text(who, f"{os.getpid()}\n")
        yield
    finally:
        who.unlink(missing_ok=True)
        lock.release()
