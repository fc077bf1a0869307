"""Sequences SOS w SOS w: their form, which split a word belongs to, and what depends on seed, epoch and size."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dl_proj.experiments.copy.dataset import SOS, CopyDataset, split_of
from dl_proj.experiments.copy.settings import SynthDataConfig

SPLITS = ("train", "val", "test")


def dataset(split="train", size=64, **changes):
    return CopyDataset(split, size, **{"vocab_size": 12, "length": 14, "seed": 3} | changes)


def everything(data):
    return torch.stack([data[i] for i in range(len(data))])


def words_of(data):
    """The first words, as tuples."""
    return [tuple(data[i][1 : 1 + data.word_length].tolist()) for i in range(len(data))]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(8, 60), vocab=st.integers(6, 300), split=st.sampled_from(SPLITS), seed=st.integers(0, 2**31))
def test_the_form(length, vocab, split, seed):
    data = dataset(split, 3, vocab_size=vocab, length=length, seed=seed)
    assert len(data) == 3
    for i in range(3):
        sequence = data[i]
        assert (sequence.shape, sequence.dtype) == ((length,), torch.int64)
        second = [at for at, symbol in enumerate(sequence.tolist()) if symbol == SOS][1:]
        assert sequence[0] == SOS
        assert second == [(length + 1) // 2], "SOS stands at the start and where the copy begins, nowhere else"
        word, copy = sequence[1 : second[0]], sequence[second[0] + 1 :]
        assert len(word) - len(copy) == length % 2, "an odd length cuts one symbol off the copy"
        assert torch.equal(word[: len(copy)], copy)
        assert word.min() >= 1
        assert word.max() < vocab


@pytest.mark.parametrize("length", [4, 5])
def test_the_shortest(length):
    """One symbol a word, then two of which the copy has one."""
    sequence = dataset(size=1, length=length, vocab_size=40)[0].tolist()
    assert sequence in ([0, sequence[1], 0, sequence[1]], [0, *sequence[1:3], 0, sequence[1]])


def test_every_symbol_comes_up_equally_often():
    symbols = np.array(words_of(dataset(size=4000))).ravel()
    counts = np.bincount(symbols, minlength=12)[1:]
    expected = len(symbols) / 11
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 29.6, "10 degrees of freedom: a fair draw exceeds it once in a thousand"


@pytest.mark.parametrize("split", SPLITS)
def test_two_instances_agree_whatever_the_world_draws(split):
    one = dataset(split, corruption=0.3, fresh=True)
    first = everything(one)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    other = dataset(split, corruption=0.3, fresh=True)
    backwards = torch.stack([other[i] for i in reversed(range(len(other)))]).flip(0)
    assert torch.equal(first, backwards)
    assert torch.equal(first, everything(one)), "asking twice gives the same"


def test_nothing_is_drawn_from_the_global_generators():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    everything(dataset(corruption=0.5))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@pytest.mark.parametrize("split", SPLITS)
def test_sequence_i_does_not_depend_on_the_size(split):
    """So a test on the first 64 sequences is a part of the test on 1024."""
    small, large = dataset(split, 20, corruption=0.2), dataset(split, 300, corruption=0.2)
    assert torch.equal(everything(small), everything(large)[:20])


def test_other_seeds_and_splits_differ():
    words = {}
    for split, seed in itertools.product(SPLITS, (3, 4)):
        words[split, seed] = words_of(dataset(split, seed=seed))
    for one, other in itertools.combinations(words.values(), 2):
        assert len(set(one) & set(other)) <= 2, "of 64 words of 11^6"
    ours, theirs = dataset(corruption=1.0)[0], dataset(corruption=1.0, seed=4)[0]
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(("vocab", "length"), [(3, 24), (4, 16), (6, 12), (20, 7)])
def test_splits_share_no_word_of_all_there_are(vocab, length):
    """Exhaustively: each possible word belongs to one split, a tenth to validation and to test."""
    possible = list(itertools.product(range(1, vocab), repeat=(length + 1) // 2 - 1))
    of_split = {split: {w for w in possible if split_of(np.array(w)) == split} for split in SPLITS}
    assert sum(len(words) for words in of_split.values()) == len(possible)
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert len(of_split[split]) == pytest.approx(share * len(possible), rel=0.25)
        wanted = int(share * len(possible) / 2)  # all that the configuration allows
        for seed, corruption in ((0, 0.0), (1, 0.5)):
            drawn = words_of(dataset(split, wanted, vocab_size=vocab, length=length, seed=seed, corruption=corruption))
            assert set(drawn) <= of_split[split]


def possible_words(vocab, length):
    return (vocab - 1) ** ((length + 1) // 2 - 1)


SMALL = [(v, n) for v in range(3, 40, 3) for n in (4, 5, 7, 9, 11, 23) if 20 <= possible_words(v, n) <= 5000]


@pytest.mark.parametrize(("vocab", "length"), SMALL)
def test_what_the_configuration_allows_can_be_drawn(vocab, length):
    """The largest sizes that pass the schema find their words; the chance of a short word's hash is covered."""
    number = possible_words(vocab, length)
    possible = np.array(list(itertools.product(range(1, vocab), repeat=(length + 1) // 2 - 1)))
    found = [split_of(word) for word in possible]
    sizes = {"n_train": int(number * 0.8 / 2), "n_val": int(number * 0.1 / 2), "n_test": int(number * 0.1 / 2)}
    SynthDataConfig(vocab_size=vocab, length=length, **sizes)
    for split in SPLITS:
        assert found.count(split) >= sizes[f"n_{split}"]


def test_the_split_does_not_depend_on_the_integers_width():
    word = np.array([3, 1, 4, 1, 5])
    assert {split_of(word.astype(kind)) for kind in (np.int16, np.int32, np.int64)} == {split_of(word)}


def test_the_words_of_an_epoch_are_distinct():
    data = dataset(size=12, vocab_size=3, length=12, fresh=True)  # 32 words there are, 12 that training may take
    for epoch in range(20):
        data.set_epoch(epoch)
        assert len(set(words_of(data))) == 12


def test_fresh_words_are_new_in_each_epoch_and_come_back_with_it():
    data = dataset(fresh=True)
    epochs = {}
    for epoch in (0, 1, 2, 1, 0, 5):
        data.set_epoch(epoch)
        now = everything(data)
        assert torch.equal(now, epochs.setdefault(epoch, now)), "an epoch is the same whenever it is asked for"
    for one, other in itertools.combinations(epochs.values(), 2):
        assert not (one == other).all(1).any()
    new = dataset(fresh=True)
    new.set_epoch(5)  # as a resumed run does, without the epochs before
    assert torch.equal(everything(new), epochs[5])


def test_the_first_epoch_repeats_where_words_are_not_fresh():
    data = dataset(corruption=0.5)
    first = everything(data)
    data.set_epoch(1)
    assert torch.equal(everything(data), first)


def test_fresh_or_not_the_first_epoch_is_the_same():
    assert torch.equal(everything(dataset(fresh=True)), everything(dataset()))


@pytest.mark.parametrize("corruption", [0.1, 0.5, 1.0])
def test_the_share_of_corrupted_symbols(corruption):
    """A replaced symbol may be the same again, once in vocab_size - 1."""
    vocab = 5
    data = dataset(size=2000, vocab_size=vocab, length=30, corruption=corruption)
    sequences = everything(data)
    word, copy = sequences[:, 1:15], sequences[:, 16:30]
    wrong = (word != copy).double()
    expected = corruption * (vocab - 2) / (vocab - 1)
    deviation = (expected * (1 - expected) / wrong.numel()) ** 0.5
    assert wrong.mean().item() == pytest.approx(expected, abs=4 * deviation)
    columns = wrong.mean(0)
    assert (columns - expected).abs().max() < 5 * (expected * (1 - expected) / 2000) ** 0.5, "at each place alike"
    assert copy.min() >= 1, "never SOS"
    assert copy.max() == vocab - 1
    assert sequences[:, 15].eq(SOS).all()


def test_corruption_changes_the_copies_alone():
    clean, corrupted = everything(dataset()), everything(dataset(corruption=0.4))
    assert torch.equal(clean[:, :8], corrupted[:, :8])
    assert not torch.equal(clean, corrupted)
    assert torch.equal(clean[:, 1:7], clean[:, 8:]), "0 gives exact copies"


def test_sequences_are_corrupted_each_in_its_own_way():
    corrupted = everything(dataset(size=500, corruption=0.5))
    patterns = corrupted[:, 1:7] != corrupted[:, 8:]
    assert len(patterns.unique(dim=0)) > 40, "of 64 patterns"


def test_fresh_epochs_are_corrupted_anew():
    data = dataset(size=200, corruption=0.5, fresh=True)
    patterns = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        sequences = everything(data)
        patterns.append(sequences[:, 1:7] != sequences[:, 8:])
    assert (patterns[0] == patterns[1]).all(1).double().mean() < 0.2
