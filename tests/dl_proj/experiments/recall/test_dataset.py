"""Associative recall: every answer is what a dictionary says, gaps follow their law, splits and seeds stay apart."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from tiny_scripts import assert_states

from dl_proj.experiments.copy.settings import SynthDataConfig
from dl_proj.experiments.recall.dataset import BLANK, NONE, RecallDataset, slot_probabilities

SPLITS = ("train", "val", "test")


def dataset(split="train", size=64, **changes):
    sizes = {"vocab_size": 40, "length": 32, "n_pairs": 4, "gap_power": 0.01, "filler": "blank", "seed": 3}
    return RecallDataset(split, size, **sizes | changes)


def everything(data):
    return [torch.stack(part) for part in zip(*(data[i] for i in range(len(data))), strict=True)]


def dictionaries_of(data):
    return [tuple(data[i][0][: 2 * data.n_pairs].tolist()) for i in range(len(data))]


def asked_slots(data):
    """(sequences, pairs): the slot in which the first, second ... key of each sequence is asked for."""
    tokens, answers = everything(data)
    keys = tokens[:, 0 : 2 * data.n_pairs : 2]
    asked = answers != NONE
    same = (tokens.unsqueeze(1) == keys.unsqueeze(2)) & asked.unsqueeze(1)
    return (same.int().argmax(-1) - 2 * data.n_pairs).numpy() // 2


@settings(max_examples=60, deadline=None)
@given(
    n_pairs=st.integers(1, 8),
    more=st.integers(0, 40),
    vocab=st.integers(20, 300),
    filler=st.sampled_from(["blank", "random"]),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_answer_is_what_a_dictionary_says(n_pairs, more, vocab, filler, split, seed):
    """Read left to right, as a person would: told first, asked later, each key once, and nothing else is a key."""
    length = 4 * n_pairs + more
    data = dataset(split, 3, vocab_size=vocab, length=length, n_pairs=n_pairs, filler=filler, seed=seed)
    for i in range(3):
        tokens, answers = data[i]
        assert (tokens.shape, answers.shape, tokens.dtype, answers.dtype) == ((length,), (length,), *[torch.int64] * 2)
        tokens, answers = tokens.tolist(), answers.tolist()
        told, rest = tokens[: 2 * n_pairs], tokens[2 * n_pairs :]
        value_of = dict(zip(told[0::2], told[1::2], strict=True))
        assert len(value_of) == len({*value_of.values()}) == n_pairs, "keys differ, and so do values"
        assert all(0 < key < vocab // 2 <= value < vocab for key, value in value_of.items())
        assert answers == [NONE] * 2 * n_pairs + [value_of.get(symbol, NONE) for symbol in rest]
        assert sorted(symbol for symbol in rest if symbol in value_of) == sorted(value_of)
        assert all(at % 2 == 0 for at, symbol in enumerate(rest) if symbol in value_of)
        others = [symbol for symbol in rest if symbol not in value_of]
        assert all(symbol == BLANK if filler == "blank" else 0 < symbol < vocab for symbol in others)


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_gaps_follow_the_power_law(power):
    """The first key's slot has the law itself; of all keys, each slot is as often asked as numpy's own draws say."""
    n, n_pairs, n_slots = 4000, 3, 13
    data = dataset(size=n, length=2 * (n_pairs + n_slots), n_pairs=n_pairs, gap_power=power)
    slots = asked_slots(data)
    law = np.array([i ** (power - 1) for i in range(1, n_slots + 1)])
    law /= law.sum()
    np.testing.assert_allclose(slot_probabilities(n_slots, power), law)
    counts = np.bincount(slots[:, 0], minlength=n_slots)
    assert stats.chisquare(counts, n * law).pvalue > 1e-3
    generator = np.random.default_rng(0)
    drawn = [generator.choice(n_slots, n_pairs, replace=False, p=law) for _ in range(n)]
    for key in range(n_pairs):
        ours, numpys = (np.bincount(some[:, key], minlength=n_slots) for some in (slots, np.array(drawn)))
        assert stats.chi2_contingency([ours, numpys]).pvalue > 1e-3


def test_keys_values_and_random_filler_are_drawn_alike():
    """Each in its half of the symbols; a random filler is any symbol but the blank and the sequence's keys."""
    data = dataset(size=4000, vocab_size=13, n_pairs=3, filler="random")
    tokens = everything(data)[0].numpy()
    for place in range(6):  # 5 keys, 1 to 5, and 7 values, 6 to 12
        low, high = ((1, 6), (6, 13))[place % 2]
        counts = np.bincount(tokens[:, place], minlength=13)
        assert stats.chisquare(counts[low:high]).pvalue > 1e-4
        assert counts.sum() == counts[low:high].sum()
    counts = np.bincount(tokens[:, 7], minlength=13)  # after a slot's first token: of several, keys would come in runs
    expected = np.array([0, *[2 / 5] * 5, *[1] * 7])  # three of five keys are the sequence's own
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], (expected / expected.sum() * len(tokens))[1:]).pvalue > 1e-3


@pytest.mark.parametrize("split", SPLITS)
def test_sequence_i_depends_on_seed_split_and_number_alone(split):
    kinds = {"filler": "random", "vocab_size": 300}
    large = everything(dataset(split, 200, **kinds))
    torch.manual_seed(5), np.random.seed(5)
    small = everything(dataset(split, 20, **kinds))
    assert all(torch.equal(one[:20], other) for one, other in zip(large, small, strict=True))


def test_seeds_splits_and_epochs_differ():
    fresh = dataset(fresh=True)
    found = [everything(dataset(split, seed=seed)) for split, seed in itertools.product(SPLITS, (3, 4))]
    assert torch.equal(everything(fresh)[0], found[0][0])
    for epoch in (1, 2):
        fresh.set_epoch(epoch)
        found.append(everything(fresh))
    fresh.set_epoch(0)
    assert torch.equal(everything(fresh)[0], found[0][0]), "an epoch comes back"
    digests = {dataset(seed=seed).digest for seed in (3, 3, 4)}
    assert len(digests) == 2
    stays = dataset()
    stays.set_epoch(1)
    assert torch.equal(everything(stays)[0], found[0][0])
    for (one, answers), (other, others) in itertools.combinations(found, 2):
        assert (one[:, :8] == other[:, :8]).all(dim=1).float().mean() < 0.1, "other pairs"
        assert ((answers == NONE) == (others == NONE)).all(dim=1).float().mean() < 0.3, "asked for elsewhere"


def test_no_dictionary_of_one_split_is_in_another():
    """As many as settings allow, of all that there are: 90 of one pair, each in one split, drawn once an epoch."""
    small = {"vocab_size": 20, "length": 4, "n_pairs": 1, "fresh": True}
    of_split = {}
    for split, size in (("train", 36), ("val", 4), ("test", 4)):
        data = dataset(split, size, **small)
        of_split[split] = set()
        for epoch in range(30):
            data.set_epoch(epoch)
            drawn = dictionaries_of(data)
            assert len({*drawn}) == size
            of_split[split] |= {*drawn}
    for one, other in itertools.combinations(of_split.values(), 2):
        assert not one & other
    assert sum(map(len, of_split.values())) == 9 * 10


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"length": 31}, ("length", 31, "n_pairs", 8, 32)),
        ({"vocab_size": 16}, ("vocab_size", 16, 7, "n_pairs", 8, 18)),
        ({"vocab_size": 8, "n_pairs": 1, "n_train": 5, "n_val": 1, "n_test": 1}, ("n_train", 5, "n_pairs", 1, 12, 4)),
        ({"corruption": 0.1}, ("corruption", 0.1, "recall")),
        ({"task": "copy", "n_pairs": 3}, ("n_pairs", 3, "copy")),
        ({"task": "copy", "filler": "random"}, ("filler", "random", "copy")),
        ({"task": "copy", "gap_power": 0.5}, ("gap_power", 0.5, "copy")),
    ],
)
def test_what_does_not_fit_is_refused(changes, facts):
    with pytest.raises(ValidationError) as refused:
        SynthDataConfig(**{"task": "recall"} | changes)
    (mistake,) = refused.value.errors()
    lines = str(mistake["ctx"]["error"]).splitlines()
    assert_states(lines[0], facts[0], *facts[1:])


def test_what_is_left_out_is_as_in_zoology():
    data = SynthDataConfig(task="recall")
    assert (data.vocab_size, data.length, data.n_inputs, data.gap_power) == (8192, 64, 64, 0.01)
    copying = SynthDataConfig()
    assert (copying.task, copying.vocab_size, copying.length, copying.n_inputs) == ("copy", 128, 196, 195)
