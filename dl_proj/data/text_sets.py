"""Where text comes from: every source ends as parts of files, for training, validation and test."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dl_proj.configs.load import ConfigError

TextSource = Literal["files", "enwik8", "wikitext2", "wikitext103"]
Split = Literal["train", "val", "test"]

_PIECE = 2**20  # bytes that are held at once


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``end`` (exclusive) of a file."""

    path: Path
    start: int
    end: int

    def __len__(self) -> int:
        """Bytes."""
        return self.end - self.start

    def pieces(self) -> Iterator[bytes]:
        """The bytes, some at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = len(self)
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece


Corpus = dict[Split, list[Span]]


def files_corpus(path: Path, *, val_share: float, test_share: float) -> Corpus:
    """A file, or a folder's ``*.txt`` files by name, the end of each held out: first for validation, then for the test.

    Cuts are at characters of UTF-8, if the files are that: up to three bytes after where the shares would have them.

    Raises:
        ConfigError: no such file or folder, no ``*.txt`` in it, or nothing in the files.
    """
    if path.is_dir():
        files = sorted(file for file in path.glob("*.txt") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise ConfigError(f"data.path: the folder {path} holds no *.txt files")
    elif path.is_file():
        files = [path]
    else:
        raise ConfigError(f"data.path: {path} is not there; must be a text file, or a folder with *.txt files")
    corpus: Corpus = {"train": [], "val": [], "test": []}
    for file in files:
        size = file.stat().st_size
        n_val, n_test = round(val_share * size), round(test_share * size)
        for split, span in zip(corpus, cut(file, size - n_val - n_test, size - n_test), strict=True):
            corpus[split] += [span] if len(span) else []
    if not any(corpus.values()):
        raise ConfigError(f"data.path: {path} is empty")
    return corpus


def cut(path: Path, *places: int) -> list[Span]:
    """A file in parts, each place moved forward to where a character of UTF-8 begins."""
    with path.open("rb") as file:
        inner = [_next_character(file.read(3), place) for place in places if file.seek(place) == place]
    bounds = [0, *inner, path.stat().st_size]
    return [Span(path, start, end) for start, end in itertools.pairwise(bounds)]


def _next_character(ahead: bytes, place: int) -> int:
    """Place of the first byte, from ``place`` on, that continues no character; after three such, which no text has."""
    continuing = [byte & 0b1100_0000 == 0b1000_0000 for byte in ahead]
    return place + (continuing.index(False) if False in continuing else len(ahead))
