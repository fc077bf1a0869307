"""Where sentence pairs come from: every source ends as rows of two texts, mapped from a file, in their order."""

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

_ROWS = 1000  # that are held at once
_HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class RawPairs:
    """Pairs as they are in their source, empty and long ones among them, in its order.

    Args:
        rows: of the datasets library, which maps them from a file.
        columns: names of the source's and the target's.
        name: for messages and files.
        key: another one as soon as what the pairs are read from, or the choice of them, changes.
    """

    rows: "Dataset"
    columns: tuple[str, str]
    name: str
    key: str

    def __len__(self) -> int:
        """Pairs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Source and target of each pair; what is missing is empty."""
        for sources, targets in self.batches():
            yield from zip(sources, targets, strict=True)

    def batches(self) -> Iterator[tuple[list[str], list[str]]]:
        """Some sources and their targets at a time."""
        for start in range(0, len(self), _ROWS):
            rows = self.rows[start : start + _ROWS]
            sources, targets = ([text or "" for text in rows[column]] for column in self.columns)
            yield sources, targets


def line_pairs(where: str, files: tuple[Path, Path], languages: tuple[str, str], folder: Path) -> RawPairs:
    """Two text files, line by line, converted into ``folder``; ``where`` is the setting that names them.

    A byte-order mark at the start of a file is left out.

    Raises:
        ConfigError: a file is not there or is no text, or one has more lines.
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
    r"""Two columns of a CSV file with a header, converted into ``folder``; ``where`` is the setting that names it.

    Every field is text, ``null``, ``NA`` and ``007`` too. A row ends at \n alone, unless the header ends at \r\n. A
    file may be packed (.gz, .bz2, .xz, .zip, .zst).

    Raises:
        ConfigError: the file is not there or is no such text, a column is missing, or a row lacks a field.
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
        raise ConfigError(f"{where}: {path} is empty; must begin with the names of its columns")
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
    """Two columns of a Parquet file, converted into ``folder``, or two keys of its column ``translation``.

    Raises:
        ConfigError: the file is not there or is not Parquet, or a column is missing or is not text.
    """
    import datasets

    _must_be_there(where, path)
    key = file_key([path])
    try:
        with _quiet():
            escaped, cache = glob.escape(str(path)), str(folder / f"{path.stem}-{key}")
            rows = datasets.Dataset.from_parquet(escaped, cache_dir=cache)
    except (PermissionError, FileExistsError, NotADirectoryError):  # of what is beside the table
        raise
    except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        reason = _first_line(error.__cause__ or error)
        raise ConfigError(f"{where}: {path} cannot be read as Parquet ({reason})") from None
    pairs = _from_rows(where, path, rows, languages, path.stem, key)
    for language in languages:
        check_texts(where, path, pairs.rows.data.column(language), language)
    return pairs


def hub_pairs(corpus: HubPairsConfig, split: Split, languages: tuple[str, str], folder: Path) -> RawPairs:
    """One split of a dataset of the Hugging Face hub, downloaded into ``folder``.

    Raises:
        ConfigError: it cannot be downloaded, or has not these languages.
    """
    import datasets

    name, subset = corpus.name, corpus.subset
    try:
        with _quiet():
            rows = datasets.load_dataset(
                name, subset, split=_HUB_SPLITS[split], revision=corpus.pinned, cache_dir=str(folder)
            )
    except Exception as error:  # that library's, or any of those below it
        raise ConfigError(
            f"data.corpus: {name} cannot be downloaded ({_first_line(error)})",
            "data.corpus: without a network take kind: files, csv or parquet with pairs of your own",
        ) from None
    title = "-".join(filter(None, (name.replace("/", "-"), subset, split)))
    key = file_key(Path(file["filename"]) for file in rows.cache_files)
    return _from_rows("data.corpus", name, rows, languages, title, key)


def _from_rows(
    where: str, source: object, rows: "Dataset", languages: tuple[str, str], name: str, key: str
) -> RawPairs:
    """Rows with a column a language, or ``{translation: {de: ..., en: ...}}``."""
    if "translation" in rows.column_names:
        rows = rows.select_columns("translation").flatten()
        rows = rows.rename_columns({column: column.removeprefix("translation.") for column in rows.column_names})
    _must_have(where, source, rows.column_names, languages)
    for language in languages:
        kind = str(getattr(rows.features[language], "dtype", "a list or a mapping"))
        if kind not in ("string", "large_string"):
            raise ConfigError(f"{where}: {source}: column {language!r} holds {kind}, must hold text")
    return RawPairs(rows, languages, name, key)


# -- what all of them need --


def file_key(paths: Iterable[Path], *others: str) -> str:
    """A word for what is made of files: another one as soon as their content is."""
    parts = [content_digest(path) for path in paths]
    return hashlib.sha256(json.dumps([parts, others]).encode()).hexdigest()[:12]


def write_arrow(part: Path, schema: pa.Schema, batches: Iterable[tuple[list[Any], ...]]) -> None:
    """A file of columns; a batch of it is held at a time."""
    with part.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            columns = [pa.array(column, field.type) for column, field in zip(batch, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def open_arrow(path: Path) -> "Dataset":
    """The rows of such a file, mapped."""
    import datasets

    return datasets.Dataset.from_file(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The datasets library, and the hub's, without bars and without a log of what is raised anyway."""
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
        raise ConfigError(f"{where}: there is no folder {path.parent}")
    names = sorted(other.name for other in path.parent.iterdir() if other.is_file() and other.name[0] != ".")
    there = ", ".join(names[:10]) + (", ..." if names[10:] else "")
    raise ConfigError(f"{where}: {path} is not there; its folder holds {there or 'no files'}")


def _must_have(where: str, source: object, columns: Iterable[str], languages: tuple[str, str]) -> None:
    columns = list(map(str, columns))
    if missing := [language for language in languages if language not in columns]:
        raise ConfigError(
            f"{where}: {source} has no column {' and no '.join(missing)}; there are: {_visible(', '.join(columns))}"
        )


def _visible(text: str) -> str:
    """The start of what may be no text at all."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:200])


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
