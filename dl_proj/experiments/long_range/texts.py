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
_CLASSES = ("neg", "pos")  # folders; a label is an index into this list
_SPLIT_SEED = 0  # of the held-out texts: the same in every run
_TSV = {"train": "new_aan_pairs.train.tsv", "val": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}

Texts = Callable[[str], list[tuple[bytes, int]]]
"""A function from "train" or "test" to texts and their labels."""


def held_out(read: Texts, val_share: float) -> Iterator[list[Example]]:
    """Yield the test texts, a fixed fraction of the training texts for validation, and the others, shuffled.

    Raises:
        ConfigError: a split is left without texts.
    """
    yield [((text,), label) for text, label in read("test")]
    texts = read("train")
    Random(_SPLIT_SEED).shuffle(texts)
    n_val = round(len(texts) * val_share)
    if not 0 < n_val < len(texts):
        raise ConfigError(f"data.val_share: {val_share} of {len(texts)} texts leaves training or validation empty")
    for some in (texts[:n_val], texts[n_val:]):
        yield [((text,), label) for text, label in some]


def imdb_texts(part: str) -> list[tuple[bytes, int]]:
    """Return film reviews (Maas et al. 2011), 25,000 per part, downloaded by the datasets library.

    Raises:
        ConfigError: they cannot be downloaded.
    """
    import datasets  # slow to import

    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it would report each attempt without a network
    try:
        rows = datasets.load_dataset(_IMDB, split=part)
        return [(row["text"].encode(), int(row["label"])) for row in rows]
    except Exception as error:  # of that library or any of its dependencies
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"data.source: imdb cannot be downloaded ({reason})",
            "data.source: without a network, use source: folder, and set data.path to a folder with train/ and test/, "
            "each with pos/ and neg/, such as the unpacked original archive aclImdb",
        ) from None
    finally:
        hub.setLevel(level)


def folder_texts(folder: Path, part: str) -> list[tuple[bytes, int]]:
    """Return the non-empty ``*.txt`` files in ``part/pos`` and ``part/neg``, sorted by name.

    Raises:
        ConfigError: one of these folders is missing or has no such files.
    """
    found: list[tuple[bytes, int]] = []
    for label, name in enumerate(_CLASSES):
        texts = [text for path in _files(folder / part / name) if (text := path.read_bytes())]
        if not texts:
            raise ConfigError(f"data.path: {folder / part / name} must be a folder with non-empty *.txt files")
        found += [(text, label) for text in texts]
    return found


def text_files_digest(folder: Path) -> str:
    """Return a digest of the files' names, sizes and modification times."""
    digest = hashlib.sha256()
    for part in ("train", "test"):
        for name in _CLASSES:
            for path in _files(folder / part / name):
                stat = path.stat()
                digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.txt"))


def pair_files(folder: Path) -> dict[str, Path]:
    """Return the three files of the benchmark.

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
    """Yield the pairs in a file of the benchmark: per line a label, two numbers and two texts, separated by tabs.

    Raises:
        ConfigError: an invalid label, a wrong number of columns or an empty text; the message has the line number.
    """
    csv.field_size_limit(2**30)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file, bar(path.name, 0) as progress:
        reader = csv.reader(file, delimiter="\t")
        for row in reader:
            if len(row) != 5 or not (row[3] and row[4]):
                raise ConfigError(
                    f"data.path: {path}:{reader.line_num}: must be a label, two numbers and two texts, tab-separated "
                    f"(got {len(row)} columns{', an empty text' if len(row) == 5 else ''})"
                )
            if row[0].strip() not in ("0", "1", "0.0", "1.0"):
                raise ConfigError(f"data.path: {path}:{reader.line_num}: label must be 0 or 1 (got {row[0]!r})")
            progress.update()
            yield (row[3].encode(errors="surrogateescape"), row[4].encode(errors="surrogateescape")), int(float(row[0]))
