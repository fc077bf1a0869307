"""Kneser-Ney n-grams against the formula, counted with dictionaries; and that they are probabilities."""

import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from tiny_scripts import TEXT

from dl_proj.experiments.language.ngram import train_ngrams

TRAIN = TEXT.encode()[:1500]
HELD_OUT = TEXT.encode()[1500:1700] + b"\x00unseen"
DRAWN = bytes(np.random.default_rng(0).zipf(1.4, 3000).clip(max=255).tolist())  # with n-grams of all small counts


class Naive:
    """p(w | h) by Chen and Goodman's recursion."""

    def __init__(self, text, order):
        grams = {n: Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, order + 1)}
        self.counts = {order: grams[order]}
        for n in range(1, order):
            before = defaultdict(set)
            for gram in grams[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = Counter({gram: len(some) for gram, some in before.items()})
        self.followers = {n: defaultdict(list) for n in self.counts}
        for n, counts in self.counts.items():
            for gram, count in counts.items():
                self.followers[n][gram[:-1]].append(count)
        self.discounts = {n: self._discounts(counts) for n, counts in self.counts.items()}

    @staticmethod
    def _discounts(counts):
        n1, n2, n3, n4 = (sum(count == times for count in counts.values()) for times in (1, 2, 3, 4))
        if not (n1 and n2 and n3):
            return (0, 0.5, 1, 1.5)
        y = n1 / (n1 + 2 * n2)
        found = (0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if all(0 < d <= i for i, d in enumerate(found) if i) else (0, 0.5, 1, 1.5)

    def p(self, context, byte):
        n = len(context) + 1
        shorter = self.p(context[1:], byte) if context else 1 / 256
        followers = self.followers[n].get(context)
        if not followers:
            return shorter
        discount, total = self.discounts[n], sum(followers)
        count = self.counts[n].get(context + bytes([byte]), 0)
        left = sum(discount[min(c, 3)] for c in followers)
        return (max(count - discount[min(count, 3)], 0) + left * shorter) / total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_the_papers(order):
    for train, held_out in ((TRAIN, HELD_OUT), (DRAWN[:2500], DRAWN[2500:])):
        model, naive = train_ngrams(train, 5)[order - 1], Naive(train, order)
        found = model.log2_probabilities(held_out)
        expected = [math.log2(naive.p(held_out[max(0, i - order + 1) : i], w)) for i, w in enumerate(held_out)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (0, 0.5, 1, 1.5) not in naive.discounts.values(), "of the drawn text, all are estimated"


@pytest.mark.parametrize("order", [1, 3, 6])
@pytest.mark.parametrize("context", [b"The cat", b"xyzzy\xff\x00", b"", b"e"])
def test_probabilities_of_all_bytes_add_up_to_one(order, context):
    model = train_ngrams(TRAIN, 6)[order - 1]
    p = [2 ** model.log2_probabilities(context + bytes([byte]))[-1] for byte in range(256)]
    assert sum(p) == pytest.approx(1, abs=1e-12)
    assert min(p) > 0


def test_a_byte_depends_on_those_before_it_and_no_further_back_than_the_order():
    model = train_ngrams(TRAIN, 3)[2]
    one = model.log2_probabilities(b"xx" + HELD_OUT)
    other = model.log2_probabilities(b"yy" + HELD_OUT)
    assert np.array_equal(one[4:], other[4:])
    assert np.array_equal(model.log2_probabilities(HELD_OUT)[:50], model.log2_probabilities(HELD_OUT[:50]))


def test_eight_bytes_fill_a_number_and_more_are_refused():
    high = bytes([255, 128, 7, 0]) * 40
    model, naive = train_ngrams(high, 8)[7], Naive(high, 8)
    text = high[:20]
    expected = [math.log2(naive.p(text[max(0, i - 7) : i], w)) for i, w in enumerate(text)]
    np.testing.assert_allclose(model.log2_probabilities(text), expected, rtol=1e-12)
    for order, words in ((9, "1 to 8 (got 9)"), (0, "1 to 8 (got 0)")):
        with pytest.raises(ValueError, match=re.escape(words)):
            train_ngrams(high, order)
    with pytest.raises(ValueError, match=r"at least 4 bytes \(got 3\)"):
        train_ngrams(b"abc", 4)
