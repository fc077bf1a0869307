"""Sequences ``SOS w SOS w`` (Kitaev et al. 2020, section 5): a model that copies must find what stood one word ago."""

import hashlib
import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "val", "test"]

SOS = 0  # the start symbol; words are made of 1 to vocab_size - 1
_SPLIT_OF_HASH: tuple[Split, ...] = ("val", "test", *("train",) * 8)


class CopyDataset(Dataset[Tensor]):
    """Sequence number i of a split, made when asked for, from (seed, split, i) alone.

    Which split a word belongs to is decided by a hash of the word, so a word of the test split is never trained on,
    however many sequences are drawn, at any size of the task.

    Args:
        split: of words; eight of ten are for training.
        size: sequences (an epoch), each with a word of its own.
        vocab_size: symbols, SOS included.
        length: tokens a sequence; if odd, the second word's last symbol is cut off.
        seed: other seeds give other sequences.
        corruption: probability with which a symbol of the second word is replaced by a random one, which may be the
            same; copying exactly is then right with probability 1 - corruption * (vocab_size - 2) / (vocab_size - 1).
        fresh: new words in each epoch, told by :meth:`set_epoch`.
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
        """Sequences (an epoch)."""
        return self._size

    def __getitem__(self, index: int) -> Tensor:
        """(length,) int64."""
        word = self._words[index]
        copy = self._corrupted(word, index) if self.corruption else word
        sequence = np.concatenate(([SOS], word, [SOS], copy))[: self.length]
        return torch.from_numpy(sequence.astype(np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Give the words of another epoch."""
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            self._words = self._draw_words()

    @property
    def digest(self) -> str:
        """Another one as soon as a word is."""
        return hashlib.sha256(self._words.tobytes()).hexdigest()

    @property
    def word_length(self) -> int:
        """Symbols a word."""
        return word_length(self.length)

    def _draw_words(self) -> np.ndarray:
        """(size, word_length): distinct words of this split."""
        generator = self._generator("words")
        found: dict[bytes, np.ndarray] = {}
        while len(found) < self._size:
            shape = (2 * (self._size - len(found)) + 16, self.word_length)
            words = generator.integers(SOS + 1, self.vocab_size, shape, dtype=np.int32)
            mine = ((word.tobytes(), word) for word in words if split_of(word) == self.split)
            found.update(pair for pair in mine if pair[0] not in found)
        return np.stack(list(found.values())[: self._size])

    def _corrupted(self, word: np.ndarray, index: int) -> np.ndarray:
        generator = self._generator("corruption", index)
        replaced = generator.random(len(word)) < self.corruption
        return np.where(replaced, generator.integers(SOS + 1, self.vocab_size, len(word)), word)

    def _generator(self, purpose: str, index: int = 0) -> np.random.Generator:
        name = zlib.crc32(f"{self.split} {purpose}".encode())
        return np.random.default_rng((self.seed, name, self._epoch, index))


def word_length(length: int) -> int:
    """Symbols in the word of a sequence of ``length`` tokens."""
    return (length + 1) // 2 - 1


def split_of(word: np.ndarray) -> Split:
    """The split that a word belongs to."""
    return _SPLIT_OF_HASH[zlib.crc32(word.astype(np.int32).tobytes()) % len(_SPLIT_OF_HASH)]
