"""BERT's rule of masking: which tokens, how many, what becomes of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dl_proj.experiments.language.data import RandomWindows, SequentialWindows, TokenFile
from dl_proj.experiments.language.masking import MaskedWindows
from dl_proj.text.tokenizers import Tokenizer

SPECIAL = 5


class Symbols(Tokenizer):
    """A hundred words, the first five of which stand for no text; every third begins a word."""

    def __init__(self):
        super().__init__([b" a" if i % 3 == 0 else b"a" for i in range(100)], n_special=SPECIAL)


def tokens_file(n, folder=Path()):
    tokens = np.random.default_rng(0).integers(SPECIAL, 100, n).astype(np.uint8)
    path = folder / "tokens"
    path.write_bytes(tokens.tobytes())
    return TokenFile(path, "uint8", 0, n, n)


def masked(n=4000, window=100, seed=0, **rule):
    return MaskedWindows(RandomWindows(tokens_file(n), window, 0, seed=1), Symbols(), seed, **rule)


def everything(data, epochs=1):
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        found += [data[i] for i in range(len(data))]
    return [torch.stack(part) for part in zip(*found, strict=True)]


def close(count, n, share):
    """Within five standard deviations of a binomial count."""
    return abs(count - share * n) < 5 * (n * share * (1 - share)) ** 0.5


def test_fifteen_in_a_hundred_are_chosen_anywhere():
    _, _, chosen = everything(masked(), epochs=20)
    assert (chosen.sum(1) == 15).all()
    n = len(chosen)
    assert all(close(count, n, 0.15) for count in chosen.sum(0).tolist())


@pytest.mark.parametrize(("window", "share", "number"), [(10, 0.3, 3), (10, 1.0, 10), (8, 0.01, 1), (64, 0.15, 10)])
def test_the_share_is_rounded_and_one_at_least(window, share, number):
    _, _, chosen = everything(masked(window=window, share=share))
    assert (chosen.sum(1) == number).all()


def test_of_the_chosen_eight_of_ten_are_masked_one_is_random_and_one_stays():
    inputs, targets, chosen = everything(masked(), epochs=20)
    assert torch.equal(inputs[~chosen], targets[~chosen]), "the others stay"
    before, after = targets[chosen], inputs[chosen]
    n = len(before)
    assert n == 800 * 15
    is_masked, stays = after == 100, after == before
    assert close(int(is_masked.sum()), n, 0.8)
    assert close(int(stays.sum()), n, 0.1 + 0.1 / 95)
    random = after[~is_masked & ~stays]
    counts = np.bincount(random, minlength=101)
    assert counts[:SPECIAL].sum() == counts[100] == 0, "never a special one"
    assert all(close(count, len(random), 1 / 95) for count in counts[SPECIAL:100]), "but any other"


def test_where_a_token_is_says_nothing_of_what_becomes_of_it():
    inputs, _, chosen = everything(masked(), epochs=10)
    is_masked = (inputs == 100).sum(0)
    assert all(close(count, n, 0.8) for count, n in zip(is_masked.tolist(), chosen.sum(0).tolist(), strict=True))


def test_targets_are_the_text():
    data = masked()
    plain = RandomWindows(tokens_file(4000), 100, 0, seed=1)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert all(torch.equal(data[i][1], plain[i][0]) for i in range(len(plain)))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_draws_come_from_seed_epoch_and_index_alone():
    data = masked()
    first, second = data[3], data[4]
    state = torch.get_rng_state()
    assert same(data[3], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(second[2], first[2]), "another index"
    data.set_epoch(1)
    assert not torch.equal(data[3][2], first[2]), "another epoch"
    data.set_epoch(0)
    assert same(data[3], first)
    assert same(masked()[3], first)
    assert not torch.equal(masked(seed=1)[3][2], first[2]), "another seed"


def test_a_sequential_text_is_masked_anew_each_epoch_and_always_the_same_in_evaluation():
    data = MaskedWindows(SequentialWindows(tokens_file(500), 50, 0, stride=50), Symbols(), 0)
    first = data[2]
    assert same(data[2], first)
    data.set_epoch(1)
    assert torch.equal(data[2][1], first[1])
    assert not torch.equal(data[2][2], first[2])


# -- whole words --


def words_of(targets):
    """Places of each word, found one token after the other."""
    words = [[]]
    for place, token in enumerate(targets.tolist()):
        if token % 3 == 0 and words[-1]:
            words.append([])
        words[-1].append(place)
    return words


@pytest.mark.parametrize("share", [0.01, 0.15, 0.5, 1.0])
def test_whole_words_are_chosen_until_the_share_is_reached(share):
    for inputs, targets, chosen in (masked(whole_word=True, share=share)[i] for i in range(40)):
        words = words_of(targets)
        taken = [word for word in words if chosen[word].any()]
        assert all(chosen[word].all() for word in taken)
        wanted = max(1, round(share * 100))
        assert int(chosen.sum()) >= wanted
        assert int(chosen.sum()) - max(map(len, taken)) < wanted, "and no word more"
        assert torch.equal(inputs[~chosen], targets[~chosen])


def test_any_word_may_be_chosen():
    data = masked(n=60, window=60, whole_word=True)
    _, targets, chosen = everything(data, epochs=150)
    assert (targets == targets[0]).all()
    words = words_of(targets[0])
    counts = [int(chosen[:, word[0]].sum()) for word in words]
    assert min(counts) > 8, "the first and the last, too"


# -- windows that overlap --


@given(st.integers(20, 40), st.integers(1, 16), st.booleans())
@settings(max_examples=25, deadline=None)
def test_each_token_is_chosen_in_one_window_at_most(tmp_path_factory, n, stride, whole_word):
    windows = SequentialWindows(tokens_file(n, tmp_path_factory.mktemp("t")), 16, 0, stride=stride)
    data = MaskedWindows(windows, Symbols(), 0, whole_word=whole_word)
    for i in range(len(data)):
        inputs, targets, chosen = data[i]
        tokens, counted, _ = windows[i]
        assert torch.equal(targets, tokens)
        assert chosen.any(), "but one in each at least"
        assert not (chosen & ~counted).any()
        assert (inputs == 100).sum() <= 16


def test_context_is_masked_as_it_was_in_training():
    """A window of which one token counts has as many masks as any other."""
    data = MaskedWindows(SequentialWindows(tokens_file(5000), 100, 0, stride=1), Symbols(), 0)
    masks = sum(int((data[i][0] == 100).sum()) for i in range(1, 301))
    # one in each is drawn besides, unless it was already: 0.85 of them
    assert close(masks, 300 * 15 + 255, 0.8)


def test_what_cannot_be_masked():
    file = tokens_file(100)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"share {share} must be more than 0 and at most 1"):
            MaskedWindows(RandomWindows(file, 10, 0, seed=0), Symbols(), 0, share)
    with pytest.raises(ValueError, match="ahead=0"):
        MaskedWindows(RandomWindows(file, 10, 1, seed=0), Symbols(), 0)
