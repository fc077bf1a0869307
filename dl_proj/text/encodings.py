"""Texts must be UTF-8: a byte-order mark at their start is skipped, and other encodings are reported."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MARK = "\ufeff"  # written by editors, spreadsheets and shells of Windows at the start of a text
HEAD = 256  # bytes from which an encoding is recognised
_MARKS = {  # UTF-32 first, because its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_COMPRESSED = (  # first bytes of compressed files, and the format
    (b"\x1f\x8b\x08", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
)
_LINE = 2**16  # bytes after which a line is cut, so that a text without line ends can be tokenised in pieces
_ASCII = frozenset(b"\t\r\n" + bytes(range(0x20, 0x7F)))


class OtherEncoding(ValueError):
    """A text in an encoding other than UTF-8, or compressed; the message names it."""


def check_utf8(head: bytes) -> None:
    """Reject compressed data, and text that looks like UTF-16 or UTF-32: a mark, or ASCII alternating with zeros.

    Bytes that are not text at all are accepted, because language models may be trained on any bytes.

    Raises:
        OtherEncoding: it is rejected.
    """
    head = head[:HEAD]
    if compressed := next((name for start, name in _COMPRESSED if head.startswith(start)), None):
        raise OtherEncoding(f"is compressed with {compressed}, must be text; decompress it")
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark) and _decodes(head, name)), None)
    if encoding is None and len(head) >= 4:
        halves = (head[::2], head[1::2])
        if any(_ASCII.issuperset(one) and not any(other) for one, other in (halves, halves[::-1])):
            encoding = "UTF-16"
    if encoding:
        raise OtherEncoding(f"is {encoding}, must be UTF-8; convert it")


def text_start(path: Path) -> int:
    """Return the offset of a file's first byte of text, after a byte-order mark, if any.

    Raises:
        OtherEncoding: see :func:`check_utf8`.
    """
    with path.open("rb") as file:
        return mark_before(file.read(HEAD))


def mark_before(head: bytes) -> int:
    """Return the length of the byte-order mark at the start of a text, given its first ``HEAD`` bytes; 0 without one.

    Raises:
        OtherEncoding: see :func:`check_utf8`.
    """
    check_utf8(head)
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)  # head may end inside a character
    except UnicodeDecodeError:
        return False
    return True


class NotUTF8(ValueError):
    """Bytes that are not UTF-8; ``offset`` is their position."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"byte {offset} is not UTF-8")
        self.offset = offset


def text_lines(file: BinaryIO, size: int) -> Iterator[str]:
    """Yield the next ``size`` bytes of a file as text, line by line with line ends; lines are cut at 64 KiB.

    Raises:
        NotUTF8: the bytes are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    while done < size and (line := file.readline(min(size - done, _LINE))):
        done += len(line)
        try:
            text = decoder.decode(line, final=done == size)
        except UnicodeDecodeError as error:  # its object starts with bytes left over from the previous line
            raise NotUTF8(done - len(error.object) + error.start) from None
        if text:
            yield text
