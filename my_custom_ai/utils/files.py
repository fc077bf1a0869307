"""Atomic file writes: a file is written under a temporary name, then renamed."""

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

_WRITE_ERRORS = {  # errors of a disk or folder, rather than of a source such as a connection; Windows has no EDQUOT
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
    """Context manager: yield a temporary path to write to; on success it replaces ``path``, on failure it is removed.

    A kill in between leaves the old file, or none, and perhaps a ``.part`` file beside it, which the next write
    removes. Each process has its own ``.part`` file, so if two processes write the same file, the later one wins, and
    the file is complete.

    Raises:
        OSError: it cannot be written, whichever library reported that; the error names ``path``.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{_machine()}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_parts(path)
        part.touch()
        mode = part.stat().st_mode  # set by the umask; safetensors makes files that only the owner can read
        yield part
        part.chmod(mode)
        with part.open("rb+") as written:  # Windows refuses to sync a file opened for reading
            os.fsync(written.fileno())  # otherwise a power cut could leave the renamed file without its content
        part.replace(path)
    except Exception as error:
        number = _write_error_number(error, part)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone or read-only
            part.unlink(missing_ok=True)


def _machine() -> str:
    """Short name of this machine: in a shared folder, process ids of other machines must not be confused with ours."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_stale_parts(path: Path) -> None:
    """Remove ``.part`` files of the same path that killed processes of this machine left behind."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.{_machine()}-*.part"):
        number = part.name.removesuffix(".part").rpartition("-")[2]
        if number.isdecimal() and int(number) != os.getpid() and not _is_running(int(number)):
            with contextlib.suppress(OSError):
                part.unlink()


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill(pid, 0) would terminate the process; assume that it runs
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs under another user
        return True
    return True


def _write_error_number(error: Exception, part: Path) -> int | None:
    """The errno if ``error`` was raised by writing ``part``, otherwise None."""
    if isinstance(error, OSError) and error.errno is not None:
        is_of_another_file = error.filename is not None and not part.is_relative_to(os.fsdecode(error.filename))
        return None if is_of_another_file or error.errno not in _WRITE_ERRORS else error.errno
    rust_error = re.search(r"\(os error (\d+)\)", str(error))  # safetensors and tokenizers do not raise OSError
    return int(rust_error[1]) if rust_error else None


def check_writable(folder: Path) -> None:
    """Check that files can be written in a folder or, if it does not exist, in its closest existing parent.

    Raises:
        OSError: they cannot.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
        file.write(b".")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_once(path: Path, write: Callable[[Path], None], *, whole: Callable[[Path], bool] = lambda path: True) -> Path:
    """Write a file with ``write`` unless it exists: atomically, and by one process while others wait.

    Args:
        path: path of the file.
        write: called with a temporary path to write to.
        whole: whether an existing file is intact; if not, it is written again.

    Returns:
        ``path``. A ``.lock`` file stays beside it.
    """
    if not (path.exists() and whole(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not (path.exists() and whole(path)):
                with whole_file(path) as part:
                    write(part)
    return path


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """:func:`write_once` for a file that can be regenerated: if its content does not match its checksum, it is.

    The SHA-256 is in a file beside it whose name ends with ``.sha256``.
    """
    digest_file = path.with_name(f"{path.name}.sha256")

    def make_with_digest(part: Path) -> None:
        make(part)
        write_text(digest_file, content_digest(part) + "\n")

    def whole(path: Path) -> bool:
        return digest_file.is_file() and digest_file.read_bytes().strip() == content_digest(path).encode()

    return write_once(path, make_with_digest, whole=whole)


def content_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
