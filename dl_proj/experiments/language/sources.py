"""Sources of text: each becomes parts of files, for training, validation and test."""

import hashlib
import itertools
import os
import shutil
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.request import urlopen

from tqdm import tqdm

from dl_proj.experiments.language.hub_rows import streamed
from dl_proj.settings.errors import ConfigError
from dl_proj.text.encodings import NotUTF8, OtherEncoding, text_lines, text_start
from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import content_digest, write_once

TextSource = Literal["files", "enwik8", "wikitext2", "wikitext103", "hub"]
Split = Literal["train", "val", "test"]
_SPLITS: tuple[Split, ...] = get_args(Split)

_PIECE = 2**20  # bytes held in memory at once

_ENWIK8 = "https://mattmahoney.net/dc/enwik8.zip"
_ENWIK8_BYTES = 100_000_000
_ENWIK8_SHA1 = "57b8363b814821dc9d47aa4d41f58733519076b2"  # of the text, as published by its author

_WIKITEXT = "Salesforce/wikitext"
_WIKITEXT_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_WIKITEXT_NAMES = {"wikitext2": "wikitext-2-raw-v1", "wikitext103": "wikitext-103-raw-v1"}
_WIKITEXT_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``end`` (exclusive) of a file."""

    path: Path
    start: int
    end: int

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.end - self.start

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes, piece by piece."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = len(self)
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece

    def lines(self) -> Iterator[str]:
        """Yield the text line by line, for tokenizers of subwords.

        Raises:
            ConfigError: it is not UTF-8.
        """
        with self.path.open("rb") as file:
            file.seek(self.start)
            try:
                yield from text_lines(file, len(self))
            except NotUTF8 as error:
                raise ConfigError(
                    f"data.tokenizer: {self.path} is not UTF-8 at byte {self.start + error.offset}; subwords need "
                    "text: convert the file, or use data.tokenizer.kind: bytes"
                ) from None


Corpus = dict[Split, list[Span]]


def files_corpus(path: Path, *, val_share: float, test_share: float) -> Corpus:
    """Split a file, or a folder's ``*.txt`` files: the end of each is held out for validation, then test.

    A byte-order mark at the start of a file is skipped. Other files in the folder are counted on standard error.

    Raises:
        ConfigError: no such file or folder, no ``*.txt`` in it, empty files, or compressed or UTF-16 ones.
    """
    if path.is_dir():
        files, others = _texts_in(path)
        if not files:
            advice = f"; it contains {others}: rename texts to .txt, or set data.path to one" if others else ""
            raise ConfigError(f"data.path: the folder {path} has no *.txt files{advice}")
        if others and os.environ.get("RANK", "0") == "0":  # set by torchrun; the accelerator does not exist yet
            print(f"data.path: {path}: skipped {others}; texts end in .txt", file=sys.stderr)
    elif path.is_file():
        files = [path]
    elif path.exists():  # a text is read several times, and opening a pipe would block
        raise ConfigError(f"data.path: {path} is a pipe or a device; must be a file, or a folder with *.txt files")
    else:
        raise ConfigError(f"data.path: {path} does not exist; must be a file, or a folder with *.txt files")
    corpus: Corpus = {split: [] for split in _SPLITS}
    for file in files:
        try:
            start, end = text_start(file), file.stat().st_size
        except OtherEncoding as error:
            raise ConfigError(f"data.path: {file} {error}") from None
        n_val, n_test = (round(share * (end - start)) for share in (val_share, test_share))
        for split, span in zip(_SPLITS, cut(file, end - n_val - n_test, end - n_test, start=start), strict=True):
            corpus[split] += [span] if len(span) else []
    if not any(corpus.values()):
        raise ConfigError(f"data.path: {path} is empty")
    return corpus


def _texts_in(folder: Path) -> tuple[list[Path], str]:
    """Return the sorted ``*.txt`` files, and a description of the other entries, such as ``2 .md, 1 folder``."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in visible if path.is_file() and path.suffix.lower() == ".txt"]
    kinds = Counter(
        "folder" if path.is_dir() else path.suffix.lower() or "without a suffix"
        for path in visible
        if path not in files
    )
    return files, ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def enwik8_corpus(root: Path) -> Corpus:
    """Return the first 100 MB of an English Wikipedia (Mahoney 2006), downloaded to ``root/enwik8`` if missing.

    The usual splits: 90 MB for training, 5 MB for validation, 5 MB for test.

    Raises:
        ConfigError: it cannot be downloaded, or has the wrong size or checksum.
    """
    file = root / "enwik8" / "enwik8"
    archive = file.with_name("enwik8.zip")
    if not file.exists():
        write_once(archive, lambda part: _download(_ENWIK8, part, f"copy {_ENWIK8} to {archive}"))
        write_once(file, lambda part: _unpack_enwik8(archive, part))
    size = file.stat().st_size
    if size != _ENWIK8_BYTES:
        raise ConfigError(f"data.root: {file} has {size} bytes, must have {_ENWIK8_BYTES}; remove it, or copy it again")
    if (sha1 := content_digest(file, "sha1")) != _ENWIK8_SHA1:
        raise ConfigError(f"data.root: {file} is damaged: its SHA-1 is {sha1}, must be {_ENWIK8_SHA1}; remove it")
    parts = cut(file, size * 90 // 100, size * 95 // 100)
    return {split: [part] for split, part in zip(_SPLITS, parts, strict=True)}


def wikitext_corpus(source: TextSource, root: Path) -> Corpus:
    """Return raw WikiText-2 or WikiText-103 (Merity et al. 2017), from the datasets library, with its own splits.

    It is written as text to ``root/<source>/{train,val,test}.txt`` if missing; SHA256SUMS beside records the checksums
    at the first use.

    Raises:
        ConfigError: it cannot be downloaded, or was changed since its first use.
    """
    corpus: Corpus = {}
    for split in _SPLITS:
        file = root / source / f"{split}.txt"
        write_once(file, partial(_write_wikitext, source=source, split=split, file=file))
        corpus[split] = [Span(file, 0, file.stat().st_size)]
    unchanged(root / source, [f"{split}.txt" for split in _SPLITS])
    return corpus


def unchanged(folder: Path, names: list[str]) -> None:
    """Record the checksums of files at their first use; later, check them.

    Raises:
        ConfigError: a file was changed since.
    """
    from my_custom_ai.custom_train.checksums import SUMS, agrees_with_sums, write_sums  # imports torch

    sums = write_once(folder / SUMS, lambda part: write_sums(folder, names, to=part))
    try:
        for name in names:
            agrees_with_sums(sums.with_name(name))
    except CheckpointError as error:
        raise ConfigError(f"data.root: {error}, or remove {sums} if you changed it yourself") from None


def cut(path: Path, *places: int, start: int = 0) -> list[Span]:
    """Cut a file, from ``start`` on, at ``places``, moved by up to three bytes to the start of a UTF-8 character."""
    with path.open("rb") as file:
        inner = [_next_character(file.read(3), place) for place in places if file.seek(place) == place]
    bounds = [start, *inner, path.stat().st_size]
    return [Span(path, start, end) for start, end in itertools.pairwise(bounds)]


def _next_character(following: bytes, place: int) -> int:
    """Return the offset, from ``place`` on, of the first byte that starts a character."""
    continuing = [byte & 0b1100_0000 == 0b1000_0000 for byte in following]
    return place + (continuing.index(False) if False in continuing else len(following))


def _download(url: str, part: Path, instead: str) -> None:
    try:
        with urlopen(url, timeout=60) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0)) or None
            with tqdm.wrapattr(response, "read", total=size, desc=url, dynamic_ncols=True, leave=False) as body:
                shutil.copyfileobj(body, file)
    except OSError as error:
        raise _no_network(url, error, instead) from None


def _unpack_enwik8(archive: Path, part: Path) -> None:
    digest = hashlib.sha1()
    try:
        with zipfile.ZipFile(archive) as members, members.open("enwik8") as text, part.open("wb") as file:
            # stop there: a manipulated archive must not fill the disk
            while file.tell() <= _ENWIK8_BYTES and (piece := text.read(_PIECE)):
                digest.update(piece)
                file.write(piece)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ConfigError(f"data.root: {archive} is not a complete archive of enwik8 ({error}); remove it") from None
    if digest.hexdigest() != _ENWIK8_SHA1:
        raise ConfigError(
            f"data.root: {archive} is not enwik8: its text's SHA-1 is {digest.hexdigest()}, must be {_ENWIK8_SHA1}; "
            "remove it"
        )


def _write_wikitext(part: Path, source: TextSource, split: Split, file: Path) -> None:
    rows = streamed(_WIKITEXT, _WIKITEXT_NAMES[source], split=_WIKITEXT_SPLITS[split], revision=_WIKITEXT_REVISION)
    with part.open("w", encoding="utf-8", newline="\n") as text:
        while row := _next(rows, source, file):  # the original has " " for an empty line, which is returned as ""
            text.write((row["text"].removesuffix("\n") or " ") + "\n")


def _next(rows: Iterator[dict[str, Any]], source: TextSource, file: Path) -> dict[str, Any] | None:
    try:
        return next(rows, None)
    except Exception as error:  # of that library or any of its dependencies
        raise _no_network(source, error, f"write its raw text to {file}") from None


def _no_network(what: str, error: Exception, instead: str) -> ConfigError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ConfigError(
        f"data.source: {what} cannot be downloaded ({reason})",
        f"data.source: without a network, use source: files with your own path; or {instead}",
    )
