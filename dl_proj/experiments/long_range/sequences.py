"""Labelled sequences of bytes in a file, read as they are asked for: they may be larger than memory."""

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
"""One sequence or several, of tokens 0 to 255, and the label that they have together."""

SPLITS = ("test", "val", "train")
"""In a file's order: whoever wants more to train on has the same to be tested on."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def write_sequences(path: Path, parts: Iterable[Iterable[Example]]) -> Path:
    """Write examples, if they are not there as they were written.

    The file is a SHA-256 of the rest, all tokens, the labels, where each sequence begins and the last ends, the
    numbers of examples of each part, and the number of sequences in an example; all numbers are 8 bytes.

    Args:
        path: of the file.
        parts: examples for each of ``SPLITS``, which are asked for only if the file must be written.

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
    """One part of a file of :func:`write_sequences`.

    An item is its sequences, (n,) int64 each, and its label.

    Args:
        path: of the file.
        split: one of ``SPLITS``.
        max_len: longer sequences are cut off at their end.

    Attributes:
        digest: another one as soon as an example of the file is.
        labels: (examples,) int64.
        lengths: (examples, sequences of each) int64, in tokens, those of longer ones being max_len.
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
        with path.open("rb") as file:
            self.digest = f"{split} of {file.read(_DIGEST_BYTES).hex()}"

    def __len__(self) -> int:
        """Examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        """See the class."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not in 0 to {len(self) - 1}")
        numbers = range(index * self._together, (index + 1) * self._together)
        return tuple(self._sequence(number) for number in numbers), int(self.labels[index])

    def _sequence(self, number: int) -> Tensor:
        start, count = int(self._bounds[number]), int(self.lengths.view(-1)[number])
        tokens = np.fromfile(self._path, dtype=np.uint8, count=count, offset=_DIGEST_BYTES + start)
        return torch.from_numpy(tokens.astype(np.int64))

    @staticmethod
    def collate(items: list[tuple[tuple[Tensor, ...], int]]) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of b items: see :func:`padded`, and labels (b,) int64."""
        tokens, mask = padded([sequences for sequences, _ in items])
        return tokens, mask, torch.tensor([label for _, label in items])


def padded(examples: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Sequences as tokens (b, sequences of each, longest n) int64 and a mask of that shape, True at a real token.

    What is not real is token 0.
    """
    longest = max(len(sequence) for sequences in examples for sequence in sequences)
    tokens = torch.zeros(len(examples), len(examples[0]), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, sequences in enumerate(examples):
        for column, sequence in enumerate(sequences):
            tokens[row, column, : len(sequence)] = sequence
            mask[row, column, : len(sequence)] = True
    return tokens, mask


@dataclass(frozen=True)
class Splits:
    """The three parts of a task, and the names of its classes."""

    train: Dataset[tuple[tuple[Tensor, ...], int]]
    val: Dataset[tuple[tuple[Tensor, ...], int]]
    test: Dataset[tuple[tuple[Tensor, ...], int]]
    classes: tuple[str, ...]
