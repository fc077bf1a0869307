"""Multi-query associative recall (Arora et al. 2024, "Zoology", section 3 and appendix): a dictionary, then queries.

A sequence begins with ``n_pairs`` keys, each followed by its value. The rest is divided into slots of two tokens.
Each key occurs again in one of them, and the model should predict its value; all other tokens are filler:

    tokens    k1 v1 k2 v2 .  .  k2 .  .  .  .  .  k1 .  .  .
    answers                     v2                v1
"""

import hashlib
import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl_proj.experiments.copy.dataset import Split, split_of
from dl_proj.experiments.recall.sizes import n_keys_of, n_slots_of

BLANK = 0  # filler; keys are 1 to vocab_size // 2 - 1, values the rest
NONE = -100  # the answer at positions without a query

Filler = Literal["blank", "random"]


class RecallDataset(Dataset[tuple[Tensor, Tensor]]):
    """Sequences of a split, determined by seed, split and epoch; a larger ``size`` appends sequences.

    A hash of the dictionary decides which split it belongs to, so a test dictionary is never trained on.

    Args:
        split: the part of the dictionaries; eight tenths are for training.
        size: number of sequences (per epoch), each with a different dictionary.
        vocab_size: number of symbols: the blank, keys, and as many values as keys or one more.
        length: tokens per sequence; if odd, the last one is filler.
        n_pairs: number of keys, each queried once.
        gap_power: exponent of the distribution of gaps, see :func:`slot_probabilities`.
        filler: tokens that belong neither to pairs nor to queries: ``blank``, or ``random`` symbols except the
            sequence's keys, so that every query has one correct answer.
        seed: determines the sequences.
        fresh: draw new sequences in each epoch, see :meth:`set_epoch`.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        *,
        vocab_size: int,
        length: int,
        n_pairs: int,
        gap_power: float,
        filler: Filler,
        seed: int,
        fresh: bool = False,
    ) -> None:
        self.split = split
        self.vocab_size = vocab_size
        self.length = length
        self.n_pairs = n_pairs
        self.gap_power = gap_power
        self.filler = filler
        self.seed = seed
        self.fresh = fresh
        self._size = size
        self._epoch = 0
        self._tokens, self._answers = self._draw()

    def __len__(self) -> int:
        """Return the number of sequences (per epoch)."""
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return tokens and answers, both (length,) int64; the answer is NONE where there is no query."""
        tokens, answers = self._tokens[index], self._answers[index]
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(answers.astype(np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Draw the sequences of another epoch, if ``fresh``."""
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            self._tokens, self._answers = self._draw()

    @property
    def digest(self) -> str:
        """A digest of all tokens."""
        return hashlib.sha256(self._tokens.tobytes()).hexdigest()

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and answers, both (size, length)."""
        pairs = self._draw_pairs()
        keys, values = pairs[:, 0::2], pairs[:, 1::2]
        tokens = np.full((self._size, self.length), BLANK, dtype=np.int32)
        if self.filler == "random":
            tokens[:] = _others(self._generator("filler"), keys, self.vocab_size, self.length)
        answers = np.full_like(tokens, NONE)
        tokens[:, : 2 * self.n_pairs] = pairs
        places = 2 * self.n_pairs + 2 * self._draw_slots()
        np.put_along_axis(tokens, places, keys, axis=1)
        np.put_along_axis(answers, places, values, axis=1)
        return tokens, answers

    def _draw_pairs(self) -> np.ndarray:
        """Return distinct dictionaries of this split as key, value, key, value, ...: (size, 2 n_pairs)."""
        generator, n_keys = self._generator("pairs"), n_keys_of(self.vocab_size)
        found: dict[bytes, np.ndarray] = {}
        while len(found) < self._size:
            n_drawn = 2 * (self._size - len(found)) + 16
            drawn = _draw_distinct(generator, (n_keys, self.vocab_size - n_keys - 1), n_drawn, self.n_pairs)
            drawn += np.tile([1, 1 + n_keys], self.n_pairs).astype(np.int32)
            of_split = ((pairs.tobytes(), pairs) for pairs in drawn if split_of(pairs) == self.split)
            found.update(pair for pair in of_split if pair[0] not in found)
        return np.stack(list(found.values())[: self._size])

    def _draw_slots(self) -> np.ndarray:
        """Draw the slot of each key's query, without replacement: (size, n_pairs).

        Sorting exponential waiting times with rates p is equivalent to drawing without replacement with probabilities p
        (Efraimidis and Spirakis 2006).
        """
        probabilities = slot_probabilities(n_slots_of(self.length, self.n_pairs), self.gap_power)
        waiting_times = self._generator("slots").exponential(size=(self._size, len(probabilities))) / probabilities
        return waiting_times.argsort(axis=1)[:, : self.n_pairs]

    def _generator(self, purpose: str) -> np.random.Generator:
        name = zlib.crc32(f"recall {self.split} {purpose}".encode())
        return np.random.default_rng((self.seed, name, self._epoch))


def slot_probabilities(n_slots: int, power: float) -> np.ndarray:
    """Return probabilities proportional to i^(power - 1) for slots i = 1, 2, ...; 1 is uniform, 0.01 the paper's.

    It models text, where a word is less likely to recur the longer ago it occurred.
    """
    weights = np.arange(1, n_slots + 1, dtype=np.float64) ** (power - 1)
    return weights / weights.sum()


def _draw_distinct(generator: np.random.Generator, n_of: tuple[int, int], rows: int, n_pairs: int) -> np.ndarray:
    """Draw rows of pairs, the first number below ``n_of[0]``, the second below ``n_of[1]``: (rows, 2 n_pairs) int32.

    No first number and no second number repeats within a row. To sample without replacement, a number is first drawn as
    the rank of its value among those not yet used.
    """
    left = np.array(n_of)[None, :] - np.arange(n_pairs)[:, None]  # (n_pairs, 2)
    drawn = generator.integers(left.ravel(), size=(rows, 2 * n_pairs)).reshape(rows, n_pairs, 2)
    for j in range(1, n_pairs):
        for taken in np.moveaxis(np.sort(drawn[:, :j], axis=1), 1, 0):
            drawn[:, j] += drawn[:, j] >= taken
    return drawn.reshape(rows, 2 * n_pairs).astype(np.int32)


def _others(generator: np.random.Generator, keys: np.ndarray, vocab_size: int, length: int) -> np.ndarray:
    """Draw symbols uniformly, except the blank and the row's keys: (rows, length)."""
    drawn = 1 + generator.integers(vocab_size - 1 - keys.shape[1], size=(len(keys), length))
    for taken in np.sort(keys, axis=1).T:
        drawn += drawn >= taken[:, None]
    return drawn
