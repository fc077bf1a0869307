"""Multi-query associative recall (Arora et al. 2024, "Zoology", section 3 and appendix): a dictionary, then questions.

A sequence begins with ``n_pairs`` keys, each followed by its value. The rest are slots of two tokens. In one of them
each key comes again, and the model should say its value; all other tokens are filler:

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
NONE = -100  # the answer where nothing is asked

Filler = Literal["blank", "random"]


class RecallDataset(Dataset[tuple[Tensor, Tensor]]):
    """Sequence number i of a split, made from (seed, split, epoch) alone; the first ones do not depend on the size.

    Which split a dictionary belongs to is decided by a hash of it, so that none of the test is ever trained on.

    Args:
        split: of dictionaries; eight of ten are for training.
        size: sequences (an epoch), each with a dictionary of its own.
        vocab_size: symbols: the blank, keys, and as many values as keys or one more.
        length: tokens a sequence; if odd, the last one is filler.
        n_pairs: keys, each of which is asked for once.
        gap_power: a in the gaps' law, see :func:`slot_probabilities`.
        filler: tokens that are neither of a pair nor a query: ``blank``, or ``random`` ones of all other symbols but
            the sequence's keys, so that there is one right answer.
        seed: other seeds give other sequences.
        fresh: new sequences in each epoch, told by :meth:`set_epoch`.
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
        """Sequences (an epoch)."""
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens (length,) and answers (length,), int64; where nothing is asked the answer is NONE."""
        tokens, answers = self._tokens[index], self._answers[index]
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(answers.astype(np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Give the sequences of another epoch."""
        if self.fresh and epoch != self._epoch:
            self._epoch = epoch
            self._tokens, self._answers = self._draw()

    @property
    def digest(self) -> str:
        """Another one as soon as a token is."""
        return hashlib.sha256(self._tokens.tobytes()).hexdigest()

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """(size, length) both: tokens and answers."""
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
        """(size, 2 n_pairs): distinct dictionaries of this split, key, value, key, value, ..."""
        generator, n_keys = self._generator("pairs"), n_keys_of(self.vocab_size)
        found: dict[bytes, np.ndarray] = {}
        while len(found) < self._size:
            many = 2 * (self._size - len(found)) + 16
            drawn = _different(generator, (n_keys, self.vocab_size - n_keys - 1), many, self.n_pairs)
            drawn += np.tile([1, 1 + n_keys], self.n_pairs).astype(np.int32)
            mine = ((pairs.tobytes(), pairs) for pairs in drawn if split_of(pairs) == self.split)
            found.update(pair for pair in mine if pair[0] not in found)
        return np.stack(list(found.values())[: self._size])

    def _draw_slots(self) -> np.ndarray:
        """(size, n_pairs): the slot in which each key is asked for, drawn in turn from those that are left.

        Waiting times of rate p end in the order in which such draws, without replacement, come (Efraimidis and Spirakis
        2006).
        """
        probabilities = slot_probabilities(n_slots_of(self.length, self.n_pairs), self.gap_power)
        waiting = self._generator("slots").exponential(size=(self._size, len(probabilities))) / probabilities
        return waiting.argsort(axis=1)[:, : self.n_pairs]

    def _generator(self, purpose: str) -> np.random.Generator:
        name = zlib.crc32(f"recall {self.split} {purpose}".encode())
        return np.random.default_rng((self.seed, name, self._epoch))


def slot_probabilities(n_slots: int, power: float) -> np.ndarray:
    """(n_slots,): slot i = 1, 2, ... has i^(power - 1), normalised; 1 is uniform, 0.01 the paper's.

    In text, too, a word is the less likely to come again the longer it has not.
    """
    weights = np.arange(1, n_slots + 1, dtype=np.float64) ** (power - 1)
    return weights / weights.sum()


def _different(generator: np.random.Generator, n_of: tuple[int, int], rows: int, n_pairs: int) -> np.ndarray:
    """(rows, 2 n_pairs) int32: numbers by turns below the one and the other of ``n_of``; no two of one kind are equal.

    Number j of a kind is drawn as its rank among those that are left.
    """
    left = np.array(n_of)[None, :] - np.arange(n_pairs)[:, None]  # (n_pairs, 2)
    drawn = generator.integers(left.ravel(), size=(rows, 2 * n_pairs)).reshape(rows, n_pairs, 2)
    for j in range(1, n_pairs):
        for taken in np.moveaxis(np.sort(drawn[:, :j], axis=1), 1, 0):
            drawn[:, j] += drawn[:, j] >= taken
    return drawn.reshape(rows, 2 * n_pairs).astype(np.int32)


def _others(generator: np.random.Generator, keys: np.ndarray, vocab_size: int, length: int) -> np.ndarray:
    """(rows, length): symbols but the blank and the row's keys, all equally likely."""
    drawn = 1 + generator.integers(vocab_size - 1 - keys.shape[1], size=(len(keys), length))
    for taken in np.sort(keys, axis=1).T:
        drawn += drawn >= taken[:, None]
    return drawn
