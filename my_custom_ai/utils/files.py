"""Files that are whole at any instant: written beside their name, then renamed."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; on success it takes ``path``'s place at once, on failure it is removed.

    A kill in between leaves the old file, or none, and perhaps a ``.part`` beside it, which the next write replaces.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; safetensors would leave a file that only its owner can read
        yield part
        part.chmod(mode)
        with part.open("rb+") as written:  # Windows refuses to sync a file opened for reading
            os.fsync(written.fileno())  # or a power cut could leave a renamed file without its content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_once(path: Path, write: Callable[[Path], None], *, whole: Callable[[Path], bool] = lambda path: True) -> Path:
    """Let ``write`` make a file that is not there: whole or not at all, by one process while others wait.

    Args:
        path: of the file.
        write: writes to the path that it is given.
        whole: whether a file that is there is what was written; if not, it is written again.

    Returns:
        ``path``. A ``.lock`` stays beside it.
    """
    if not (path.exists() and whole(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not (path.exists() and whole(path)):
                with whole_file(path) as part:
                    write(part)
    return path


def content_digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's content in short, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
