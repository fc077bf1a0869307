"""Labelled sequences of bytes in a file, read on demand: they may be larger than memory."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from my_custom_ai.utils.files import write_once

Example = tuple[tuple[bytes, ...], int]
"""One or more sequences of tokens 0 to 255, and their common label."""

SPLITS = ("test", "val", "train")
"""In the order of the file; test comes first, so that it stays the same with more training examples."""

_PADDED_TO = 64
"""Batches are padded to a multiple of this. With a new length in almost every batch, the CPU would prepare its matrix
products anew each time and keep them, scattered over memory that tensors of other sizes then do not fit: training full
attention on ListOps took 9 GB after 3,000 updates."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def write_sequences(path: Path, parts: Iterable[Iterable[Example]]) -> Path:
    """Write examples, unless an intact file exists.

    The file consists of a SHA-256 of the rest, all tokens, the labels, the start of each sequence and the end of the
    last, the number of examples of each split, and the number of sequences per example; all numbers have 8 bytes.

    Args:
        path: the file.
        parts: examples for each of ``SPLITS``; only iterated if the file must be written.

    Raises:
        OSError: it cannot be written.
    """
    return write_once(path, lambda part: _write(part, parts), whole=_has_its_digest)


def _write(path: Path, parts: Iterable[Iterable[Example]]) -> None:
    digest, together = hashlib.sha256(), 1
    labels: list[int] = []
    bounds, counts = [0], list[int]()
    with path.open("wb") as file:
        file.write(bytes(_DIGEST_BYTES))
        for examples in parts:
            counts.append(-len(labels))
            for sequences, label in examples:
                labels.append(label)
                together = len(sequences)
                for sequence in sequences:
                    digest.update(sequence)
                    file.write(sequence)
                    bounds.append(bounds[-1] + len(sequence))
            counts[-1] += len(labels)
        numbers = np.array([*labels, *bounds, *counts, together], dtype="<i8").tobytes()
        digest.update(numbers)
        file.write(numbers)
        file.seek(0)
        file.write(digest.digest())


def _has_its_digest(path: Path) -> bool:
    with path.open("rb") as file:
        digest = file.read(_DIGEST_BYTES)
        return hashlib.file_digest(file, "sha256").digest() == digest


class Sequences(Dataset[tuple[tuple[Tensor, ...], int]]):
    """One split of a file written by :func:`write_sequences`.

    An item is a tuple of sequences, (n,) int64 each, and a label.

    Args:
        path: the file.
        split: one of ``SPLITS``.
        max_len: longer sequences are truncated.

    Attributes:
        digest: identifies the examples of the file.
        labels: (examples,) int64.
        lengths: (examples, sequences per example) int64, in tokens, after truncation.
        sizes: (examples,) int64, the length of the longest sequence of each.
    """

    def __init__(self, path: Path, split: str, *, max_len: int) -> None:
        self._path, self._max_len = path, max_len
        n = np.fromfile(path, dtype="<i8", offset=path.stat().st_size - 8 * (len(SPLITS) + 1))
        counts, together = n[:-1], int(n[-1])
        total = int(counts.sum())
        size = 8 * (total + total * together + 1 + len(n))
        numbers = np.fromfile(path, dtype="<i8", offset=path.stat().st_size - size)
        first = int(counts[: SPLITS.index(split)].sum())
        last = first + int(counts[SPLITS.index(split)])
        self.labels = torch.from_numpy(numbers[first:last].astype(np.int64))
        self._together = together
        self._bounds = numbers[total : total + total * together + 1][first * together : last * together + 1].copy()
        self.lengths = torch.from_numpy(np.diff(self._bounds).clip(max=max_len)).view(-1, together)
        self.sizes = self.lengths.amax(1).numpy()
        with path.open("rb") as file:
            self.digest = f"{split} of {file.read(_DIGEST_BYTES).hex()}"

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        """Return an item, see the class."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1} (got {index})")
        numbers = range(index * self._together, (index + 1) * self._together)
        return tuple(self._sequence(number) for number in numbers), int(self.labels[index])

    def _sequence(self, number: int) -> Tensor:
        start, count = int(self._bounds[number]), int(self.lengths.view(-1)[number])
        tokens = np.fromfile(self._path, dtype=np.uint8, count=count, offset=_DIGEST_BYTES + start)
        return torch.from_numpy(tokens.astype(np.int64))

    def collate(self, items: list[tuple[tuple[Tensor, ...], int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Make a batch of items, see :func:`batch_of`."""
        return batch_of(items, self._max_len)


def batch_of(items: list[tuple[tuple[Tensor, ...], int]], max_len: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch of b items: tokens and mask, see :func:`padded`, and labels (b,) int64."""
    tokens, mask = padded([sequences for sequences, _ in items], max_len)
    return tokens, mask, torch.tensor([label for _, label in items])


def padded(examples: list[tuple[Tensor, ...]], max_len: int) -> tuple[Tensor, Tensor]:
    """Pad sequences of at most max_len tokens with 0.

    Returns:
        tokens: (b, sequences per example, n) int64; n is the greatest length, rounded up to a multiple of 64 or to
            max_len.
        mask: like tokens, True at real tokens.
    """
    longest = max(len(sequence) for sequences in examples for sequence in sequences)
    n = min(-(-longest // _PADDED_TO) * _PADDED_TO, max_len)
    tokens = torch.zeros(len(examples), len(examples[0]), n, dtype=torch.int64)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, sequences in enumerate(examples):
        for column, sequence in enumerate(sequences):
            tokens[row, column, : len(sequence)] = sequence
            mask[row, column, : len(sequence)] = True
    return tokens, mask


@dataclass(frozen=True)
class Splits:
    """The three splits of a task, and its class names."""

    train: Dataset[tuple[tuple[Tensor, ...], int]]
    val: Dataset[tuple[tuple[Tensor, ...], int]]
    test: Dataset[tuple[tuple[Tensor, ...], int]]
    classes: tuple[str, ...]
