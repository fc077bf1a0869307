"""Parquet files of pictures and classes, unpacked once into archives, from which pictures can be read one by one.

In Parquet itself, a picture is part of a compressed group of rows. To read pictures in random order, a group would be
decompressed for each.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from dl_proj.experiments.images.picture_parts import SUFFIXES
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.files import write_once

_IMAGE_NAMES = ("image", "img", "picture")  # of columns, where their types leave a choice
_CLASS_NAMES = ("label", "labels", "class", "cls")
_ROWS = 16  # held in memory at once


def unpacked(path: Path, cache: Path) -> Path:
    """Return an archive in the form of webdataset with the pictures and classes of a Parquet file, written if missing.

    Args:
        path: the file. One column has pictures: bytes, or the hub's mapping of bytes and path. One has classes: names,
            numbers, or the hub's ``ClassLabel``, whose names are used.
        cache: folder for the archive; its name changes with the file's path, size and time.

    Raises:
        ConfigError: a damaged file, no such columns, or a row without a picture or a class.
    """
    state = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:12]
    return write_once(cache / f"{path.stem}-{key}.tar", partial(_write, path))


def _write(path: Path, to: Path) -> None:
    with tarfile.open(to, "w") as archive:
        for row, (content, ending, name) in enumerate(_rows(path)):
            for suffix, data in ((ending, content), (".cls", name.encode())):
                header = tarfile.TarInfo(f"{row:09d}{suffix}")
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))


def _rows(path: Path) -> Iterator[tuple[bytes, str, str]]:
    """Yield content and suffix of each picture, and its class."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            image, label, names = _columns(path, table.schema_arrow)
            batches = table.iter_batches(_ROWS, columns=[image, label])
            with tqdm(
                total=table.metadata.num_rows, desc=f"unpacking {path.name}", dynamic_ncols=True, leave=False
            ) as bar:
                for batch in batches:
                    for picture, value in zip(batch[image].to_pylist(), batch[label].to_pylist(), strict=True):
                        yield _row(path, int(bar.n), picture, value, names)
                        bar.update()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of a disk, not of the content
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"data.root: {path} cannot be read as Parquet ({reason})") from None


def _row(path: Path, row: int, picture: Any, value: Any, names: list[str] | None) -> tuple[bytes, str, str]:
    content = picture.get("bytes") if isinstance(picture, dict) else picture
    if not content:
        raise ConfigError(f"data.root: {path}: row {row} has no picture")
    if value is None or value == "" or (isinstance(value, int) and not 0 <= value < (len(names) if names else 2**31)):
        raise ConfigError(f"data.root: {path}: row {row} has no class (got {value!r})")
    ending = PurePath((isinstance(picture, dict) and picture.get("path")) or "").suffix.lower()
    return content, ending if ending in SUFFIXES else SUFFIXES[0], names[value] if names else str(value)


def _columns(path: Path, schema: Any) -> tuple[str, str, list[str] | None]:
    """Return the column of pictures, that of classes, and the classes' names if they are the hub's ``ClassLabel``."""
    from pyarrow import types

    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(part.name == "bytes" for part in kind)
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_class(kind: Any) -> bool:
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    labelled = [column for column, feature in features.items() if feature.get("_type") == "ClassLabel"]
    images = [column.name for column in schema if is_image(column.type)]
    classes = labelled or [column.name for column in schema if is_class(column.type)]
    image, label = _only(images, _IMAGE_NAMES), _only(classes, _CLASS_NAMES)
    if image is None or label is None:
        missing = "pictures" if image is None else "classes"
        given = ", ".join(f"{column.name} ({column.type})" for column in schema)
        wanted = ", ".join(_IMAGE_NAMES if image is None else _CLASS_NAMES)
        raise ConfigError(
            f"data.root: {path}: which column has the {missing}? It must be the only one of its type, or be called "
            f"{wanted} (got {given})"
        )
    return image, label, features[label]["names"] if label in labelled else None


def _only(found: list[str], names: tuple[str, ...]) -> str | None:
    """Return the only column, or the first with one of the names."""
    return found[0] if len(found) == 1 else next((name for name in names if name in found), None)
