"""Lines and tables in text files, compressed or not; anything but text is refused with its file and line."""

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from dl_proj.settings.errors import ConfigError
from dl_proj.text.encodings import HEAD, OtherEncoding, mark_before

LONGEST = 2**20  # bytes of a line: a longer one is not a sentence but, say, a file without line ends
_RETURN = "\udc0d"  # replaces \r, which the csv module would take as the end of a row; cannot occur in UTF-8 text
_BROKEN_ARCHIVE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError)


def count_lines(where: str, path: Path) -> int:
    """Count the lines of a file; the last one may lack its end.

    Args:
        where: setting of the file, for messages.
        path: the file.

    Raises:
        ConfigError: as :func:`text_lines`, except for bytes that are not UTF-8.
    """
    return sum(1 for _ in _byte_lines(where, path))


def text_lines(where: str, path: Path) -> Iterator[str]:
    r"""Yield lines, separated by \n or \r\n but by no other line separator of Unicode.

    Raises:
        ConfigError: UTF-16, bytes that are not UTF-8, a null character, or a line of more than ``LONGEST`` bytes.
    """
    for line in _decoded_lines(where, path):
        yield line.removesuffix("\r\n").removesuffix("\n")


def table_rows(where: str, path: Path) -> Iterator[list[str]]:
    r"""Yield the rows of a CSV file, header first, all with equally many fields; blank lines are skipped.

        Rows end with \n, or with \r\n if the header does.

    Raises:
        ConfigError: as :func:`text_lines`, and for rows with more or fewer fields than the header, or broken quotes.
    """
    reader = csv.reader(_without_returns(_decoded_lines(where, path)), strict=True)
    first_line, width = 1, 0  # of the current row, which may span lines; fields of the header
    try:
        for row in reader:
            place, first_line = f"{where}: {path} line {first_line}", reader.line_num + 1
            if len(row) < 2 and not "".join(row).strip():
                continue
            width = width or len(row)
            if len(row) != width:
                fields = f"{len(row)} field{'s' * (len(row) > 1)}"
                advice = "texts with commas need quotes" if len(row) > width else "an empty field needs its comma"
                raise ConfigError(f"{place}: {fields}, must be {width}; {advice}")
            yield [text.replace(_RETURN, "\r") for text in row]
    except csv.Error as error:
        reason = "its quotes do not end" if str(error) == "unexpected end of data" else error
        raise ConfigError(f"{where}: {path} line {first_line}: cannot be read as CSV ({reason})") from None


def _without_returns(lines: Iterator[str]) -> Iterator[str]:
    r"""Replace each \r, except in line ends \r\n if the first line ends with \r\n."""
    end = None
    for line in lines:
        end = end or ("\r\n" if line.endswith("\r\n") else "\n")
        kept = end if line.endswith(end) else ""
        yield line.removesuffix(kept).replace("\r", _RETURN) + kept


def check_texts(where: str, path: Path, column: pa.ChunkedArray, name: str) -> None:
    """Refuse a column with a text that is not UTF-8, has a null character, or is longer than ``LONGEST`` bytes.

    Raises:
        ConfigError: names the first such row, counted from 1.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where}: {path}: column {name!r} is damaged, or not UTF-8 ({reason})") from None
    for bad, what in (
        (pc.match_substring(column, "\0"), "contains a null character"),
        (pc.greater(pc.binary_length(column), LONGEST), f"is longer than {LONGEST:,} bytes"),
    ):
        row = pc.index(bad, True).as_py()
        if row >= 0:
            raise ConfigError(f"{where}: {path}: row {row + 1} of column {name!r} {what}: must be a sentence")


def _decoded_lines(where: str, path: Path) -> Iterator[str]:
    """Yield lines with their ends."""
    offset = _start(where, path)
    for number, line in enumerate(_byte_lines(where, path), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{where}: {path} is not UTF-8 at byte {offset + error.start} (line {number}); convert the file"
            ) from None
        offset += len(line)
        yield text


def _byte_lines(where: str, path: Path) -> Iterator[bytes]:
    start = _start(where, path)
    with _opened(where, path) as file:
        file.read(start)
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise ConfigError(
                    f"{where}: {path} line {number} is longer than {LONGEST:,} bytes; must be one sentence per line"
                )
            if b"\0" in line:
                raise ConfigError(f"{where}: {path} line {number} contains a null character; must be text")
            yield line


def _start(where: str, path: Path) -> int:
    """Return the offset of the first byte of text, after a byte-order mark."""
    with _opened(where, path) as file:
        head = file.read(HEAD)
    try:
        return mark_before(head)
    except OtherEncoding as error:
        raise ConfigError(f"{where}: {path} {error}") from None


@contextlib.contextmanager
def _opened(where: str, path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressing it according to its suffix."""
    if path.suffix not in _UNPACK:
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with _UNPACK[path.suffix](path) as file:
            yield file
    except _BROKEN_ARCHIVE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{where}: {path} cannot be decompressed ({reason})") from None


@contextlib.contextmanager
def _unzipped(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        if len(names) != 1:
            raise ValueError(f"it contains {len(names)} files, must contain one")
        with archive.open(names[0]) as file:
            yield file


def _unzstandard(path: Path) -> IO[bytes]:
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


_UNPACK: dict[str, Any] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _unzipped,
    ".zst": _unzstandard,
}
