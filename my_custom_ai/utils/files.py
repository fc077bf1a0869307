"""Files that are whole at any instant: written beside their name, then renamed."""

import contextlib
import errno
import glob
import hashlib
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

_WRITING = {  # errors of a disk or folder, not of what is read, such as a connection; Windows has no quotas
    getattr(errno, name, errno.EIO)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "EIO",
        "EROFS",
        "EACCES",
        "EPERM",
        "ENOENT",
        "EISDIR",
        "ENOTDIR",
        "EEXIST",
    )
}


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; on success it takes ``path``'s place at once, on failure it is removed.

    A kill in between leaves the old file, or none, and perhaps a ``.part`` beside it, which the next write removes.
    Each process has a ``.part`` of its own, so that of two that write the same file the later one stays, whole.

    Raises:
        OSError: it cannot be written, whichever library found that out; the error names ``path``.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{_machine()}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        part.touch()
        mode = part.stat().st_mode  # as the umask has it; safetensors would leave a file that only its owner can read
        yield part
        part.chmod(mode)
        with part.open("rb+") as written:  # Windows refuses to sync a file opened for reading
            os.fsync(written.fileno())  # or a power cut could leave a renamed file without its content
        part.replace(path)
    except Exception as error:
        number = _why_not_written(error, part)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # in a folder that is gone or read-only there is nothing to remove
            part.unlink(missing_ok=True)


def _machine() -> str:
    """A short word for this one: of a folder that several share, no other's processes are known."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_left(path: Path) -> None:
    """Remove what killed processes of this machine have left of the same file."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.{_machine()}-*.part"):
        number = part.name.removesuffix(".part").rpartition("-")[2]
        if number.isdecimal() and int(number) != os.getpid() and not _runs(int(number)):
            with contextlib.suppress(OSError):
                part.unlink()


def _runs(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _why_not_written(error: Exception, part: Path) -> int | None:
    """The system's error number; None: the error is not of writing ``part``."""
    if isinstance(error, OSError) and error.errno is not None:
        names_another = error.filename is not None and not part.is_relative_to(os.fsdecode(error.filename))
        return None if names_another or error.errno not in _WRITING else error.errno
    by_rust = re.search(r"\(os error (\d+)\)", str(error))  # safetensors and tokenizers have no OSError
    return int(by_rust[1]) if by_rust else None


def check_writable(folder: Path) -> None:
    """Make a nameless file in a folder, or where the folder would be made, to see whether that can be done.

    Raises:
        OSError: it cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b".")


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


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """As :func:`write_once`, for what can be made again: a file that is not what was written is.

    Its SHA-256 stands beside it, in a file whose name ends with ``.sha256``.
    """
    beside = path.with_name(f"{path.name}.sha256")

    def make_with_digest(part: Path) -> None:
        make(part)
        write_text(beside, content_digest(part) + "\n")

    def whole(path: Path) -> bool:
        return beside.is_file() and beside.read_bytes().strip() == content_digest(path).encode()

    return write_once(path, make_with_digest, whole=whole)


def content_digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's content in short, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
