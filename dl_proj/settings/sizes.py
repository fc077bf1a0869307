"""Which settings determine how much memory a command takes, for out-of-memory messages."""

import re
from collections.abc import Iterator

from pydantic import BaseModel

_BATCHES = ("batch_size", "batch_tokens", "accumulate", "eval_batch_size")
_NO_SIZES = re.compile(r"seed|epochs|jobs|num_workers|patience|shift|.*steps|.*_every|.*batches")
_SHOWN = 3


def sizes_in(config: BaseModel) -> str:
    """Return the batch sizes and the largest other sizes, with their keys."""
    sizes = dict(_whole_numbers(config))
    batches = {key: size for key, size in sizes.items() if key.rpartition(".")[2] in _BATCHES}
    others = sorted(sizes.keys() - batches.keys(), key=lambda key: (-sizes[key], key))[:_SHOWN]
    return ", ".join(f"{key} {sizes[key]}" for key in [*others, *batches])


def _whole_numbers(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, int]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _whole_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and not _NO_SIZES.fullmatch(name):
            yield f"{prefix}{name}", value
