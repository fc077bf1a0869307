"""Texts are UTF-8: a byte-order mark before them is no part of them, and their start shows what is something else."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MARK = "\ufeff"  # which editors, spreadsheets and shells of Windows put before a text
HEAD = 256  # bytes that show an encoding
_MARKS = {  # UTF-32's begins with UTF-16's, so it comes first
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_PACKED = (  # how compressed files begin, and what by
    (b"\x1f\x8b\x08", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
)
_LINE = 2**16  # bytes after which a line is cut: what a text without line ends is tokenised by
_ASCII = frozenset(b"\t\r\n" + bytes(range(0x20, 0x7F)))


class OtherEncoding(ValueError):
    """A text that is not UTF-8 but another encoding, or compressed, which the message says."""


def check_utf8(head: bytes) -> None:
    """Refuse what begins like UTF-16 or UTF-32, with its mark, or with Latin letters between zeros, or is compressed.

    Bytes that are no text at all pass: a language model may be one of any bytes.

    Raises:
        OtherEncoding: it does.
    """
    head = head[:HEAD]
    if packed := next((name for start, name in _PACKED if head.startswith(start)), None):
        raise OtherEncoding(f"is compressed by {packed}, must be text; unpack it")
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark) and _decodes(head, name)), None)
    if encoding is None and len(head) >= 4:
        halves = (head[::2], head[1::2])
        if any(_ASCII.issuperset(one) and not any(other) for one, other in (halves, halves[::-1])):
            encoding = "UTF-16"
    if encoding:
        raise OtherEncoding(f"is {encoding}, must be UTF-8; convert it")


def text_start(path: Path) -> int:
    """The place of a file's first byte of text: after the mark, if there is one.

    Raises:
        OtherEncoding: see :func:`check_utf8`.
    """
    with path.open("rb") as file:
        return mark_before(file.read(HEAD))


def mark_before(head: bytes) -> int:
    """Bytes of the mark, if there is one, at the start of a text, of which ``head`` are the first ``HEAD`` bytes.

    Raises:
        OtherEncoding: see :func:`check_utf8`.
    """
    check_utf8(head)
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)  # which may end inside of a character
    except UnicodeDecodeError:
        return False
    return True


class NotUTF8(ValueError):
    """Bytes that are no text; ``offset`` counts the bytes before them."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"byte {offset} is not UTF-8")
        self.offset = offset


def text_lines(file: BinaryIO, size: int) -> Iterator[str]:
    """The next ``size`` bytes of a file as text, a line at a time, each with its end; lines of 64 KiB are cut.

    Raises:
        NotUTF8: they are no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    while done < size and (line := file.readline(min(size - done, _LINE))):
        done += len(line)
        try:
            text = decoder.decode(line, final=done == size)
        except UnicodeDecodeError as error:  # which starts with what was left of the line before
            raise NotUTF8(done - len(error.object) + error.start) from None
        if text:
            yield text
