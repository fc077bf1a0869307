"""Sequences ``SOS w SOS w`` (Kitaev et al. 2020, section 5): to copy, a model must look back one word."""

import hashlib
import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "val", "test"]

SOS = 0  # the start symbol; words consist of symbols 1 to vocab_size - 1
_SPLIT_OF_HASH: tuple[Split, ...] = ("val", "test", *("train",) * 8)


class CopyDataset(Dataset[Tensor]):
    """The copy task; its words depend only on the seed, the split and, if ``fresh``, the epoch.

    A hash of the word decides which split it belongs to, so a test word is never trained on, however many sequences
    are drawn and whatever the task's size.

    Args:
        split: the part of the words; eight tenths are for training.
        size: number of sequences (per epoch), each with a different word.
        vocab_size: number of symbols, including SOS.
        length: tokens per sequence; if odd, the last symbol of the second word is cut off.
        seed: determines the sequences.
        corruption: probability of replacing a symbol of the second word by a random one, which may be the same; an
            exact copy of a symbol is then correct with probability
            1 - corruption * (vocab_size - 2) / (vocab_size - 1).
        fresh: draw new words in each epoch, see :meth:`set_epoch`.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        *,
        vocab_size: int,
        length: int,
        seed: int,
        corruption: float = 0.0,
        fresh: bool = False,
    ) -> None:
        self.split = split
        self.vocab_size = vocab_size
        self.length = length
        self.seed = seed
        self.corruption = corruption
        self.fresh = fresh
        self._size = size
        self._epoch = 0
        self._words = self._draw_words()

    def __len__(self) -> int:
        """Return the number of sequences (per epoch)."""
        return self._size

    def __getitem__(self, index: int) -> Tensor:
        """Return a sequence, (length,) int64."""
        word = self._words[index]
        copy = self._corrupted(word, index) if self.corruption else word
        sequence = np.concatenate(([SOS], word, [SOS], copy))[: self.length]
        return torch.from_numpy(sequence.astype(np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Draw the words of another epoch, if ``fresh``."""
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            self._words = self._draw_words()

    @property
    def digest(self) -> str:
        """A digest of all words."""
        return hashlib.sha256(self._words.tobytes()).hexdigest()

    @property
    def word_length(self) -> int:
        """Symbols per word."""
        return word_length(self.length)

    def _draw_words(self) -> np.ndarray:
        """Return distinct words of this split, (size, word_length)."""
        generator = self._generator("words")
        found: dict[bytes, np.ndarray] = {}
        while len(found) < self._size:
            shape = (2 * (self._size - len(found)) + 16, self.word_length)
            words = generator.integers(SOS + 1, self.vocab_size, shape, dtype=np.int32)
            of_split = ((word.tobytes(), word) for word in words if split_of(word) == self.split)
            found.update(pair for pair in of_split if pair[0] not in found)
        return np.stack(list(found.values())[: self._size])

    def _corrupted(self, word: np.ndarray, index: int) -> np.ndarray:
        generator = self._generator("corruption", index)
        replaced = generator.random(len(word)) < self.corruption
        return np.where(replaced, generator.integers(SOS + 1, self.vocab_size, len(word)), word)

    def _generator(self, purpose: str, index: int = 0) -> np.random.Generator:
        name = zlib.crc32(f"{self.split} {purpose}".encode())
        return np.random.default_rng((self.seed, name, self._epoch, index))


def word_length(length: int) -> int:
    """Return the length of the word in a sequence of ``length`` tokens."""
    return (length + 1) // 2 - 1


def split_of(word: np.ndarray) -> Split:
    """Return the split that a word belongs to."""
    return _SPLIT_OF_HASH[zlib.crc32(word.astype(np.int32).tobytes()) % len(_SPLIT_OF_HASH)]
