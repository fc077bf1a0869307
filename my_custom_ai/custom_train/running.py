"""A lock that allows one process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from my_custom_ai.custom_train.errors import SetupError
from my_custom_ai.utils.files import write_text


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context manager: hold the lock of a folder. The system releases the lock of a killed process.

    The file ``.lock`` stays in the folder; ``.pid`` contains the id of the process that holds the lock.

    Raises:
        SetupError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, pid_file = FileLock(folder / ".lock", timeout=0), folder / ".pid"
    try:
        lock.acquire()
    except Timeout:
        pid = pid_file.read_text(encoding="utf-8").strip() if pid_file.is_file() else "unknown"
        raise SetupError(f"{folder}: still running, pid {pid}; wait until it ends, or stop it") from None
    try:
        write_text(pid_file, f"{os.getpid()}\n")
        yield
    finally:
        pid_file.unlink(missing_ok=True)
        lock.release()
