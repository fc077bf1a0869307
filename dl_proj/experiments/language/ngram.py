"""Byte n-grams with interpolated, modified Kneser-Ney smoothing, on sorted arrays.

Kneser and Ney 1995, "Improved backing-off for m-gram language modeling"; modified and interpolated by Chen and Goodman
1999, "An empirical study of smoothing techniques for language modeling", whose notation is used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SYMBOLS = 256
_FALLBACK = (0.5, 1.0, 1.5)  # discounts if there are too few rare n-grams to estimate them

Array = np.ndarray


@dataclass(frozen=True)
class Order:
    """The n-grams of one length and their contexts, both sorted; an n-gram is a number, most significant byte first.

    Args:
        ngrams: (g,) uint64.
        discounted: (g,) their counts minus the discount.
        contexts: (c,) uint64, the n-grams without their last byte.
        totals: (c,) sums of the counts, before discounting.
        left: (c,) probability that the discounts leave to shorter n-grams, gamma in the paper.
    """

    ngrams: Array
    discounted: Array
    contexts: Array
    totals: Array
    left: Array

    @classmethod
    def of(cls, ngrams: Array, counts: Array) -> "Order":
        """Build from sorted n-grams and their counts."""
        discount = np.array((0.0, *_discounts(counts)))[np.minimum(counts, 3)]
        contexts, starts = np.unique(ngrams >> np.uint64(8), return_index=True)
        totals = np.add.reduceat(counts, starts)
        left = np.add.reduceat(discount, starts) / totals
        return cls(ngrams, counts - discount, contexts, totals, left)

    def interpolated(self, keys: Array, shorter: Array) -> Array:
        """Return p(w | h) = max(c(hw) - D, 0) / c(h) + gamma(h) p(w | h') for n-grams hw and p(w | h'), both (k,)."""
        where, known = _found(self.contexts, keys >> np.uint64(8))
        at, seen = _found(self.ngrams, keys)
        own = np.where(seen, self.discounted[at], 0.0) / self.totals[where]
        return np.where(known, own + self.left[where] * shorter, shorter)


class KneserNey:
    """Probabilities of bytes given the few preceding ones.

    p(w | h) is defined in :meth:`Order.interpolated`. The longest n-grams are counted by occurrence, shorter ones by
    how many different bytes precede them; single bytes are interpolated with 1 / 256. Each order has three discounts,
    for n-grams counted once, twice and more often.

    Args:
        orders: the n-grams of 1, 2, ... bytes.
    """

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = tuple(orders)

    @property
    def n_entries(self) -> int:
        """The number of stored n-grams of all orders."""
        return sum(len(order.ngrams) for order in self.orders)

    def log2_probabilities(self, text: bytes) -> Array:
        """Return log2 p of every byte given the preceding ones, (len(text),); the first ones have less context."""
        codes = np.frombuffer(text, np.uint8)
        found = np.full(len(codes), 1 / _SYMBOLS)
        for length, order in enumerate(self.orders, 1):
            if length <= len(codes):
                found[length - 1 :] = order.interpolated(_keys(codes, length), found[length - 1 :])
        return np.log2(found)


def train_ngrams(text: bytes, max_order: int) -> list[KneserNey]:
    """Train models of orders 1 to ``max_order`` on one text.

    Raises:
        ValueError: max_order is not from 1 to 8, or the text is shorter than it.
    """
    if not 1 <= max_order <= 8:
        raise ValueError(f"max_order must be from 1 to 8 (got {max_order})")
    if len(text) < max_order:
        raise ValueError(f"the text must have at least {max_order} bytes (got {len(text)})")
    codes = np.frombuffer(text, np.uint8)
    models, shorter = [], list[Order]()
    for length in range(1, max_order + 1):
        ngrams, counts = np.unique(_keys(codes, length), return_counts=True)
        if length > 1:  # count the different bytes that precede each n-gram of length - 1
            suffixes = ngrams & np.uint64(2 ** (8 * (length - 1)) - 1)
            shorter.append(Order.of(*np.unique(suffixes, return_counts=True)))
        models.append(KneserNey([*shorter, Order.of(ngrams, counts)]))
    return models


def _keys(codes: Array, length: int) -> Array:
    """Return every n-gram of a text, (n - length + 1,) uint64."""
    n = len(codes) - length + 1
    keys = np.zeros(n, np.uint64)
    for start in range(length):
        keys = (keys << np.uint64(8)) | codes[start : start + n]
    return keys


def _discounts(counts: Array) -> tuple[float, ...]:
    """Estimate D1, D2 and D3+ from the numbers of n-grams counted once, twice, three and four times."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == times)) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < d <= times for times, d in enumerate(found, 1)) else _FALLBACK


def _found(ordered: Array, keys: Array) -> tuple[Array, Array]:
    """Return for each key its index in a sorted array, and whether the array contains it."""
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return at, ordered[at] == keys
