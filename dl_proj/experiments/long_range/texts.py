"""Texts of two classes, and pairs of documents, as bytes."""

import csv
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from dl_proj.experiments.long_range.parallel import bar
from dl_proj.experiments.long_range.sequences import Example
from dl_proj.settings.errors import ConfigError

_IMDB = "stanfordnlp/imdb"
_CLASSES = ("neg", "pos")  # folders; a label is a place in this list
_ALWAYS_THE_SAME = 0  # seed of what is held out
_TSV = {"train": "new_aan_pairs.train.tsv", "val": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}

Texts = Callable[[str], list[tuple[bytes, int]]]
"""From "train" or "test" to texts and their labels."""


def held_out(read: Texts, val_share: float) -> Iterator[list[Example]]:
    """The test's texts, a share of the training texts, always the same, and the others, in drawn order.

    Raises:
        ConfigError: no text is left for a part.
    """
    yield [((text,), label) for text, label in read("test")]
    texts = read("train")
    Random(_ALWAYS_THE_SAME).shuffle(texts)
    n_val = round(len(texts) * val_share)
    if not 0 < n_val < len(texts):
        raise ConfigError(f"data.val_share: {val_share} of {len(texts)} training texts leaves a part without any")
    for some in (texts[:n_val], texts[n_val:]):
        yield [((text,), label) for text, label in some]


def imdb_texts(part: str) -> list[tuple[bytes, int]]:
    """Reviews of films (Maas et al. 2011), 25,000 in each part, downloaded by the datasets library.

    Raises:
        ConfigError: they cannot be downloaded.
    """
    import datasets  # takes seconds to import

    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # or it tells of each attempt without a network
    try:
        rows = datasets.load_dataset(_IMDB, split=part)
        return [(row["text"].encode(), int(row["label"])) for row in rows]
    except Exception as error:  # that library's, or any of those below it
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"data.source: imdb cannot be downloaded ({why})",
            "data.source: without a network take source: folder, with data.path a folder that has train/ and test/, "
            "each with pos/ and neg/, as the original's archive aclImdb",
        ) from None
    finally:
        hub.setLevel(level)


def folder_texts(folder: Path, part: str) -> list[tuple[bytes, int]]:
    """The ``*.txt`` files below ``part/pos`` and ``part/neg``, by name, those that are empty left out.

    Raises:
        ConfigError: one of these folders is missing or holds none.
    """
    found: list[tuple[bytes, int]] = []
    for label, name in enumerate(_CLASSES):
        texts = [text for path in _files(folder / part / name) if (text := path.read_bytes())]
        if not texts:
            raise ConfigError(f"data.path: {folder / part / name} must be a folder with *.txt files that are not empty")
        found += [(text, label) for text in texts]
    return found


def text_files_digest(folder: Path) -> str:
    """Another one as soon as a file is added, removed or changed, as far as size and time tell."""
    digest = hashlib.sha256()
    for part in ("train", "test"):
        for name in _CLASSES:
            for path in _files(folder / part / name):
                there = path.stat()
                digest.update(f"{path.relative_to(folder)} {there.st_size} {there.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))


def pair_files(folder: Path) -> dict[str, Path]:
    """The three files of the benchmark.

    Raises:
        ConfigError: one is missing.
    """
    files = {split: folder / name for split, name in _TSV.items()}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise ConfigError(
            f"data.path: {folder} lacks {', '.join(missing)}, which are in the benchmark's archive lra_release.gz "
            "(lra_release/tsv_data)"
        )
    return files


def document_pairs(path: Path) -> Iterator[Example]:
    """Pairs in a file of the benchmark: label, two numbers and two texts a line, between tabs, without a head.

    Raises:
        ConfigError: a line with another label or other columns, or an empty text; the line's number is said.
    """
    csv.field_size_limit(2**30)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file, bar(path.name, 0) as progress:
        reader = csv.reader(file, delimiter="\t")
        for row in reader:
            if len(row) != 5 or not (row[3] and row[4]):
                raise ConfigError(
                    f"data.path: {path}:{reader.line_num}: must be label, two numbers and two texts, between tabs "
                    f"(got {len(row)} columns{', an empty text' if len(row) == 5 else ''})"
                )
            if row[0].strip() not in ("0", "1", "0.0", "1.0"):
                raise ConfigError(f"data.path: {path}:{reader.line_num}: label must be 0 or 1 (got {row[0]!r})")
            progress.update()
            yield (row[3].encode(errors="surrogateescape"), row[4].encode(errors="surrogateescape")), int(float(row[0]))
