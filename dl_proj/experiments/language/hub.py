"""Text from the Hugging Face hub, streamed row by row into a file: never more than a dataset's file is in memory."""

import contextlib
import hashlib
import json
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dl_proj.experiments.language.data_settings import HubTextConfig
from dl_proj.experiments.language.hub_rows import streamed
from dl_proj.experiments.language.sources import Corpus, Span, Split, cut, unchanged
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.files import write_once


def hub_corpus(hub: HubTextConfig, root: Path, *, val_share: float, test_share: float) -> Corpus:
    """Return the texts of a dataset's splits, written once to ``root/hub``; a split that is not named is cut off train.

    Each row's text ends with one line feed. SHA256SUMS beside the files records their checksums at the first use.

    Args:
        hub: name, splits and column.
        root: folder for the files.
        val_share: fraction of the training text held out for validation, unless a split is named for it.
        test_share: fraction held out for the test, at the end, unless a split is named for it.

    Raises:
        ConfigError: the dataset cannot be read, has no such column, or has no text; a file was changed.
    """
    assert hub.name is not None  # checked by the settings
    folder = root / "hub" / f"{hub.slug}-{_key(hub)}"
    splits: dict[Split, str | None] = {"train": hub.train, "val": hub.val, "test": hub.test}
    files: dict[Split, Path] = {}
    for split, name in splits.items():
        if name is not None:
            most = hub.max_bytes if split == "train" else None
            files[split] = write_once(folder / f"{split}.txt", partial(_write, hub, name, most))
    unchanged(folder, [path.name for path in files.values()])
    train = files["train"]
    size = train.stat().st_size
    n_val, n_test = (
        0 if split in files else round(share * size) for split, share in (("val", val_share), ("test", test_share))
    )
    spans = dict(zip(splits, cut(train, size - n_val - n_test, size - n_test), strict=True))
    return {
        split: [Span(files[split], 0, files[split].stat().st_size) if split in files and split != "train" else span]
        for split, span in spans.items()
    }


def _key(hub: HubTextConfig) -> str:
    """Return an identifier of the text; of a folder, it changes with its files' sizes and times."""
    folder = Path(str(hub.name))
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([hub.model_dump_json(), states]).encode()).hexdigest()[:12]


def _write(hub: HubTextConfig, split: str, most: int | None, to: Path) -> None:
    rows = _from_hub(streamed(str(hub.name), hub.subset, split=split, revision=hub.revision), hub, split)
    written = 0
    bar = tqdm(desc=f"text of {hub.name}, {split}", unit="B", unit_scale=True, dynamic_ncols=True, leave=False)
    with bar, to.open("wb") as file, contextlib.closing(rows):
        for number, row in enumerate(rows):
            if hub.column not in row:
                raise ConfigError(f"data.hub.column: {hub.name} has no column {hub.column}, it has {', '.join(row)}")
            line = _line(row[hub.column], f"data.hub.column: {hub.name}: {hub.column} of row {number} of {split}")
            written += file.write(line)
            bar.update(len(line))
            if most is not None and written >= most:
                break
    if not written:
        raise ConfigError(f"data.hub: {hub.name} has no text in its split {split}")


def _line(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise ConfigError(f"{where} must be text (got {type(text).__name__})")
    try:
        return (text.removesuffix("\n") + "\n").encode() if text else b""
    except UnicodeEncodeError:
        raise ConfigError(f"{where} is not valid Unicode") from None


def _from_hub(rows: Iterator[dict[str, Any]], hub: HubTextConfig, split: str) -> Generator[dict[str, Any], None, None]:
    """Yield the rows; errors of the library become one of the settings."""
    number = 0
    try:
        for row in rows:
            yield row
            number += 1
    except Exception as error:  # of that library or any of its dependencies
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"data.hub: {hub.name} cannot be read, split {split}, after {number} rows ({reason})",
            "data.hub: without a network, use source: files with your own path; or set data.hub.name to a folder",
        ) from None
