"""Rows of datasets of the Hugging Face hub, as they arrive."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any


def streamed(name: str, subset: str | None, *, split: str, revision: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dataset's split as they arrive, without a copy on the disk.

    Args:
        name: on the hub, or a folder with files that the datasets library reads, such as Parquet or JSON lines.
        subset: its configuration.
        split: its split.
        revision: its commit, branch or tag; None: the newest.
    """
    import datasets  # slow to import

    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it would report each attempt without a network
    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(
            name, subset, split=split, revision=revision, streaming=True
        )
        yield from rows
    finally:
        hub.setLevel(level)
