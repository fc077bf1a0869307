"""A task's three parts, made or read once into files under the data's root."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from pydantic import BaseModel

from dl_proj.experiments.long_range.data_settings import ListOpsConfig, LongRangeDataConfig
from dl_proj.experiments.long_range.listops import Grammar, different_expressions
from dl_proj.experiments.long_range.sequences import Example, Sequences, Splits, write_sequences
from dl_proj.settings.errors import ConfigError, reason

_LISTOPS_VERSION = "1"  # of the way in which examples are drawn: another one makes others


def load_task(data: LongRangeDataConfig) -> Splits:
    """The sequences of a configuration.

    Raises:
        ConfigError: examples that cannot be made, read or downloaded, or a folder that cannot be written.
    """
    try:
        match data:
            case ListOpsConfig():
                return listops(data)
            case _:
                assert_never(data)
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"data: {error.filename}: {reason(error)}") from None


def listops(data: ListOpsConfig) -> Splits:
    """Expressions that are all different, so that none of the test is known from training."""
    path = _path(data, _LISTOPS_VERSION, data)
    grammar = Grammar(data.min_length, data.max_length, data.max_depth, data.max_arguments)
    different = different_expressions(grammar, data.n_test + data.n_val + data.n_train, data.seed)
    write_sequences(path, _cut(data, (((tokens,), value) for tokens, value in different)))
    return _splits(path, data.max_length, tuple("0123456789"))


def _cut(data: ListOpsConfig, examples: Iterator[Example]) -> Iterator[Iterator[Example]]:
    """The first ones for the test, then for validation, then for training."""
    for name, number in (("n_test", data.n_test), ("n_val", data.n_val), ("n_train", data.n_train)):
        yield _first(examples, number, name, data)


def _first(examples: Iterator[Example], number: int, name: str, data: ListOpsConfig) -> Iterator[Example]:
    for count in range(number):
        example = next(examples, None)
        if example is None:
            raise ConfigError(
                f"data.{name}: {number} expressions of {data.min_length} to {data.max_length} tokens are wanted, "
                f"{count} more different ones were found; widen data.min_length and data.max_length, or raise "
                f"data.max_depth {data.max_depth} or data.max_arguments {data.max_arguments}"
            )
        yield example


def _path(data: LongRangeDataConfig, version: str, made_of: BaseModel) -> Path:
    """A file's, with a key that is another one as soon as anything else is made."""
    settings = made_of.model_dump_json(exclude={"root"})
    key = hashlib.sha256(f"{version} {settings}".encode()).hexdigest()[:12]
    return data.root / "long_range" / f"{data.slug}-{key}.bin"


def _splits(path: Path, max_len: int, classes: tuple[str, ...]) -> Splits:
    train, val, test = (Sequences(path, split, max_len=max_len) for split in ("train", "val", "test"))
    return Splits(train, val, test, classes)
