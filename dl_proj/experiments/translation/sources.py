"""Sources of sentence pairs: each becomes rows of two texts, mapped from a file, in the original order."""

import contextlib
import glob
import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dl_proj.experiments.language.sources import Split
from dl_proj.experiments.translation.data_settings import HubPairsConfig
from dl_proj.experiments.translation.text_files import check_texts, count_lines, table_rows, text_lines
from dl_proj.settings.errors import ConfigError
from dl_proj.text.encodings import OtherEncoding, text_start
from my_custom_ai.utils.files import content_digest, made_once

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 1000  # held in memory at once
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class RawPairs:
    """All pairs of a source, including empty and long ones, in the original order.

    Args:
        rows: a dataset of the datasets library, mapped from a file.
        columns: the names of the source and target columns.
        name: used in messages and file names.
        key: identifies the origin and the selection of the pairs.
    """

    rows: "Dataset"
    columns: tuple[str, str]
    name: str
    key: str

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield source and target of each pair; missing ones are empty."""
        for sources, targets in self.batches():
            yield from zip(sources, targets, strict=True)

    def batches(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield batches of sources and their targets."""
        for start in range(0, len(self), _ROWS):
            rows = self.rows[start : start + _ROWS]
            sources, targets = ([text or "" for text in rows[column]] for column in self.columns)
            yield sources, targets


def line_pairs(where: str, files: tuple[Path, Path], languages: tuple[str, str], folder: Path) -> RawPairs:
    """Read two text files line by line, converted into ``folder``; ``where`` is the setting to name in messages.

    A byte-order mark at the start of a file is skipped.

    Raises:
        ConfigError: a file is missing or not text, or the numbers of lines differ.
    """
    for file in files:
        _must_be_there(where, file)
    starts = [_text_start(where, file) for file in files]
    name, key = files[0].stem, file_key(files, *(["without marks"] if any(starts) else []))
    path = folder / f"{name}-{'-'.join(languages)}-{key}.arrow"
    schema = pa.schema([(language, pa.string()) for language in languages])
    made_once(path, lambda part: write_arrow(part, schema, _line_batches(where, *files)))
    return RawPairs(open_arrow(path), languages, name, key)


def _line_batches(where: str, source: Path, target: Path) -> Iterator[tuple[list[str], ...]]:
    n_source, n_target = count_lines(where, source), count_lines(where, target)
    if n_source != n_target:
        raise ConfigError(
            f"{where}: {source} has {n_source} lines, but {target} has {n_target}; they must be translations of each "
            "other, line by line"
        )
    pairs = zip(text_lines(where, source), text_lines(where, target), strict=True)
    while some := list(itertools.islice(pairs, _ROWS)):
        yield tuple(map(list, zip(*some, strict=True)))


def _text_start(where: str, path: Path) -> int:
    try:
        return text_start(path)
    except OtherEncoding as error:
        raise ConfigError(f"{where}: {path} {error}") from None


def csv_pairs(where: str, path: Path, languages: tuple[str, str], folder: Path) -> RawPairs:
    r"""Read two columns of a CSV file with a header, converted into ``folder``; ``where`` is the setting to name.

    Every field is text, even ``null``, ``NA`` and ``007``. Rows end with \n, or with \r\n if the header does. A file
    may be compressed (.gz, .bz2, .xz, .zip, .zst).

    Raises:
        ConfigError: the file is missing or not valid CSV, a column is missing, or a row lacks a field.
    """
    _must_be_there(where, path)
    key = file_key([path])
    made = folder / f"{path.stem}-{'-'.join(languages)}-{key}.arrow"
    schema = pa.schema([(language, pa.string()) for language in languages])
    made_once(made, lambda part: write_arrow(part, schema, _csv_batches(where, path, languages)))
    return RawPairs(open_arrow(made), languages, path.stem, key)


def _csv_batches(where: str, path: Path, languages: tuple[str, str]) -> Iterator[tuple[list[str], ...]]:
    rows = table_rows(where, path)
    header = next(rows, None)
    if header is None:
        raise ConfigError(f"{where}: {path} is empty; must start with the names of its columns")
    _must_have(where, path, header, languages)
    if twice := [language for language in languages if header.count(language) > 1]:
        raise ConfigError(f"{where}: {path} has several columns {twice[0]}; must have one")
    columns = [header.index(language) for language in languages]
    some = list(itertools.islice(rows, _ROWS))
    if not some:
        raise ConfigError(f"{where}: {path} has no rows after its header")
    while some:
        yield tuple([row[column] for row in some] for column in columns)
        some = list(itertools.islice(rows, _ROWS))


def parquet_pairs(where: str, path: Path, languages: tuple[str, str], folder: Path) -> RawPairs:
    """Read two columns of a Parquet file, or two keys of its column ``translation``, converted into ``folder``.

    Raises:
        ConfigError: the file is missing or not Parquet, or a column is missing or not text.
    """
    import datasets

    _must_be_there(where, path)
    key = file_key([path])
    try:
        with _quiet():
            escaped, cache = glob.escape(str(path)), str(folder / f"{path.stem}-{key}")
            rows = datasets.Dataset.from_parquet(escaped, cache_dir=cache)
    except (PermissionError, FileExistsError, NotADirectoryError):  # about the cache, not the table
        raise
    except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        reason = _first_line(error.__cause__ or error)
        raise ConfigError(f"{where}: {path} cannot be read as Parquet ({reason})") from None
    pairs = _from_rows(where, path, rows, languages, path.stem, key)
    for language in languages:
        check_texts(where, path, pairs.rows.data.column(language), language)
    return pairs


def hub_pairs(corpus: HubPairsConfig, split: Split, languages: tuple[str, str], folder: Path) -> RawPairs:
    """Read one split of a dataset on the Hugging Face hub, downloaded into ``folder``.

    Raises:
        ConfigError: it cannot be downloaded, or lacks one of the languages.
    """
    import datasets

    name, subset = corpus.name, corpus.subset
    try:
        with _quiet():
            rows = datasets.load_dataset(
                name, subset, split=_HUB_SPLITS[split], revision=corpus.pinned, cache_dir=str(folder)
            )
    except Exception as error:  # of that library or any of its dependencies
        raise ConfigError(
            f"data.corpus: {name} cannot be downloaded ({_first_line(error)})",
            "data.corpus: without a network, use kind: files, csv or parquet with your own pairs",
        ) from None
    title = "-".join(filter(None, (name.replace("/", "-"), subset, split)))
    key = file_key(Path(file["filename"]) for file in rows.cache_files)
    return _from_rows("data.corpus", name, rows, languages, title, key)


def _from_rows(
    where: str, source: object, rows: "Dataset", languages: tuple[str, str], name: str, key: str
) -> RawPairs:
    """Wrap rows with a column per language, or with ``{translation: {de: ..., en: ...}}``."""
    if "translation" in rows.column_names:
        rows = rows.select_columns("translation").flatten()
        rows = rows.rename_columns({column: column.removeprefix("translation.") for column in rows.column_names})
    _must_have(where, source, rows.column_names, languages)
    for language in languages:
        kind = str(getattr(rows.features[language], "dtype", "a list or a mapping"))
        if kind not in ("string", "large_string"):
            raise ConfigError(f"{where}: {source}: column {language!r} contains {kind}, must contain text")
    return RawPairs(rows, languages, name, key)


# helpers


def file_key(paths: Iterable[Path], *others: str) -> str:
    """Return an identifier of data derived from files; it changes with their content."""
    parts = [content_digest(path) for path in paths]
    return hashlib.sha256(json.dumps([parts, others]).encode()).hexdigest()[:12]


def write_arrow(part: Path, schema: pa.Schema, batches: Iterable[tuple[list[Any], ...]]) -> None:
    """Write a file of columns, batch by batch."""
    with part.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            columns = [pa.array(column, field.type) for column, field in zip(batch, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def open_arrow(path: Path) -> "Dataset":
    """Map the rows of a file written by :func:`write_arrow`."""
    import datasets

    return datasets.Dataset.from_file(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars of datasets, and the logs of errors that it and huggingface_hub raise anyway."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _must_be_there(where: str, path: Path) -> None:
    if path.is_file():
        return
    if not path.parent.is_dir():
        raise ConfigError(f"{where}: no such folder: {path.parent}")
    names = sorted(other.name for other in path.parent.iterdir() if other.is_file() and other.name[0] != ".")
    listed = ", ".join(names[:10]) + (", ..." if names[10:] else "")
    raise ConfigError(f"{where}: {path} does not exist; its folder contains {listed or 'no files'}")


def _must_have(where: str, source: object, columns: Iterable[str], languages: tuple[str, str]) -> None:
    columns = list(map(str, columns))
    if missing := [language for language in languages if language not in columns]:
        raise ConfigError(
            f"{where}: {source} has no column {' and no '.join(missing)}; its columns: {_printable(', '.join(columns))}"
        )


def _printable(text: str) -> str:
    """Return the start of data that may not be text, with unprintable characters replaced."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:200])


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
