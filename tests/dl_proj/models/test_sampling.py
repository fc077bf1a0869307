"""Drawing tokens: the distribution, what top_k and top_p keep, and the ends of the range of uniform numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dl_proj.models.sampling import most_probable, sample, sampler
from my_custom_ai.custom_train.errors import NonFinite

LAST = math.nextafter(1, 0)
LOGIT = st.floats(-4, 4).map(lambda x: round(x, 3))  # unequal ones stay unequal, equal ones occur
LOGITS = st.lists(LOGIT, min_size=1, max_size=12)


def draw(logits, uniform, **choices):
    """Tokens that one row of logits gives for some uniform numbers."""
    uniform = torch.as_tensor(uniform, dtype=torch.float64)
    rows = torch.as_tensor(logits, dtype=torch.float64).expand(len(uniform), -1)
    return sample(rows, uniform, **choices).tolist()


def softmax(logits, temperature=1.0):
    scaled = np.array(logits, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def best(logits, k):
    """Numbers of the k largest, the largest first, the first of equals before the others."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]


def nucleus(probability, p):
    """Tokens from the most probable on until their probability is at least p: {token: probability}."""
    kept, total = {}, 0.0
    for token in best(probability, len(probability)):
        kept[token] = probability[token]
        total += probability[token]
        assume(abs(total - p) > 1e-9)  # where rounding decides
        if total > p:
            break
    return kept


def check_distribution(logits, expected, **choices):
    """The middle of each token's part of [0, 1) gives that token, both ends of [0, 1) the first and the last.

    expected: {token: weight}, the most probable first.
    """
    weights = np.array(list(expected.values()))
    share = weights / weights.sum()
    middles = share.cumsum() - share / 2
    assert draw(logits, [0.0, *middles, LAST], **choices) == [
        next(iter(expected)),
        *expected,
        list(expected)[-1],
    ]


@given(LOGITS, st.floats(0.3, 4))
@settings(deadline=None, max_examples=60)
def test_each_token_has_its_softmax_share(logits, temperature):
    probability = softmax(logits, temperature)
    check_distribution(logits, {t: probability[t] for t in best(logits, len(logits))}, temperature=temperature)


@given(LOGITS, st.floats(0.3, 4))
@settings(deadline=None, max_examples=30)
def test_evenly_spread_numbers_give_the_softmax_frequencies(logits, temperature):
    n = 1000
    uniform = (np.arange(n) + 0.5) / n
    counts = np.bincount(draw(logits, uniform, temperature=temperature), minlength=len(logits))
    assert np.abs(counts - n * softmax(logits, temperature)).max() <= 1 + 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_random_numbers_give_the_softmax_frequencies(temperature):
    logits = [0.5, -1.0, 2.0, 0.0, 1.5, -0.5]
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    counts = np.bincount(draw(logits, uniform, temperature=temperature), minlength=6)
    assert chisquare(counts, 20_000 * softmax(logits, temperature)).pvalue > 1e-3
    assert chisquare(counts, 20_000 * softmax(logits, 1.2 * temperature)).pvalue < 1e-6, "the test can tell"


def test_a_tokens_share_includes_its_lower_end_and_not_its_upper_one():
    assert draw([0.0] * 4, [0, 0.25, math.nextafter(0.5, 0), 0.5, 0.75, LAST]) == [0, 1, 1, 2, 3, 3]


@given(LOGITS, st.integers(1, 14), st.floats(0.5, 2))
@settings(deadline=None, max_examples=60)
def test_top_k_keeps_the_k_best(logits, k, temperature):
    probability = softmax(logits, temperature)
    expected = {t: probability[t] for t in best(logits, k)}
    check_distribution(logits, expected, top_k=k, temperature=temperature)


@given(LOGITS, st.floats(0.01, 0.999), st.floats(0.5, 2))
@settings(deadline=None, max_examples=100)
def test_top_p_keeps_the_smallest_set_that_is_probable_enough(logits, p, temperature):
    probability = softmax(logits, temperature)
    check_distribution(logits, nucleus(probability, p), top_p=p, temperature=temperature)


def test_top_p_stops_where_the_probability_is_just_reached():
    logits = [math.log(share) for share in (4, 2, 1, 1)]
    for p, kept in ((0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.876, 4), (1.0, 4)):
        assert set(draw(logits, torch.linspace(0, LAST, 100, dtype=torch.float64), top_p=p)) == set(range(kept)), p


@given(st.lists(LOGIT, min_size=4, max_size=12), st.integers(1, 6), st.floats(0.01, 0.999))
@settings(deadline=None, max_examples=100)
def test_top_p_is_of_what_top_k_left(logits, k, p):
    kept = best(logits, k)
    share = softmax([logits[t] for t in kept])
    expected = {kept[place]: weight for place, weight in nucleus(share.tolist(), p).items()}
    check_distribution(logits, expected, top_k=k, top_p=p)


def test_top_k_comes_before_top_p():
    logits = [math.log(share) for share in (40, 30, 20, 10)]
    uniform = torch.linspace(0, LAST, 100, dtype=torch.float64)
    assert set(draw(logits, uniform, top_p=0.55)) == {0, 1}
    assert set(draw(logits, uniform, top_k=2, top_p=0.55)) == {0}, "4 / 7 are enough"


@given(LOGITS, st.floats(0, LAST))
@settings(deadline=None, max_examples=50)
def test_one_kept_token_is_the_most_probable(logits, uniform):
    first = [int(np.argmax(logits))]
    assert draw(logits, [uniform], top_k=1) == first
    assert draw(logits, [uniform], top_p=1e-9) == first
    assert most_probable(torch.tensor([logits], dtype=torch.float64), 0).tolist() == first


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12, unique=True), st.floats(0, LAST))
@pytest.mark.parametrize("temperature", [1e-2, 1e-6, 1e-300, 5e-324])
@settings(deadline=None, max_examples=15)
def test_a_small_temperature_is_greedy(temperature, logits, uniform):
    assert draw(logits, [uniform], temperature=temperature) == [int(np.argmax(logits))]


def test_a_large_temperature_is_even():
    assert sorted(draw([5.0, -3.0, 0.0, 1.0], [0.1, 0.3, 0.6, 0.9], temperature=1e9)) == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_extreme_logits_give_tokens_that_are_possible(uniform, dtype):
    rows = {
        (0.0, -torch.inf, 0.0, -torch.inf): {0, 2},
        (-torch.inf, -torch.inf, -torch.inf, 3.0): {3},
        (1e30, 1e30, -1e30, 0.0): {0, 1},
        (-1e30, -2e30, -1e30, -1e30): {0, 2, 3},
        (1e-30, 0.0, -1e-30, 0.0): {0, 1, 2, 3},
        (0.0, -1000.0, -1000.0, -1000.0): {0},
    }
    logits = torch.tensor(list(rows), dtype=dtype)
    for choices in ({}, {"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.01}):
        tokens = sample(logits, torch.full((len(rows),), uniform, dtype=torch.float64), **choices)
        assert tokens.dtype == torch.int64
        for token, possible in zip(tokens.tolist(), rows.values(), strict=True):
            assert token in possible


@pytest.mark.parametrize("vocab", [1, 2, 257])
def test_the_largest_number_below_one_stays_within_what_is_kept(vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = 6 * torch.randn(200, vocab, dtype=torch.float64, generator=generator)
    for choices in ({}, {"top_k": 7}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.95}):
        for tokens in (
            sample(logits, torch.full((200,), LAST, dtype=torch.float64), **choices),
            sample(logits, torch.full((200,), 0.99999997), **choices),  # float32's largest
            sample(logits, torch.full((200,), 1.0), **choices),
        ):
            rank = (logits > logits.gather(1, tokens[:, None])).sum(1)
            assert (rank < choices.get("top_k", vocab)).all()
            if "top_k" not in choices and "top_p" in choices:
                better = logits.softmax(-1).masked_fill(logits <= logits.gather(1, tokens[:, None]), 0).sum(1)
                assert (better < 0.8).all()


@pytest.mark.parametrize("choices", [{}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.5, "temperature": 2}])
def test_one_row_does_not_influence_another(choices):
    logits, uniform = 3 * torch.randn(50, 9), torch.rand(50, dtype=torch.float64)
    before = logits.clone()
    together = sample(logits, uniform, **choices)
    alone = [sample(logits[i : i + 1], uniform[i : i + 1], **choices) for i in range(50)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(logits, before), "what is given is left as it is"


def test_a_sampler_takes_the_column_of_the_token():
    logits = torch.tensor([[math.log(share) for share in (4, 3, 2, 1)]]).repeat(2, 1)
    uniform = torch.tensor([[0.95, 0.1, 0.5, 0.75], [0.5, 0.95, 0.75, 0.1]], dtype=torch.float64)
    choose = sampler(uniform)
    assert [choose(logits, i).tolist() for i in range(4)] == [[3, 1], [0, 3], [1, 2], [2, 0]]
    assert choose(logits, 0).tolist() == [3, 1], "a column does not wear out"


@pytest.mark.parametrize(
    ("choices", "tokens"),
    [({"top_k": 2}, [1]), ({"top_p": 0.6}, [1]), ({"temperature": 0.01}, [0]), ({"top_k": 1}, [0]), ({}, [3])],
)
def test_a_sampler_hands_its_settings_on(choices, tokens):
    logits = torch.tensor([[math.log(share) for share in (4, 3, 2, 1)]])
    assert sampler(torch.tensor([[0.95]], dtype=torch.float64), **choices)(logits, 0).tolist() == tokens


NOT_LOGITS = [[0, math.nan, 1], [0, math.inf, 1], [-math.inf] * 3]


@pytest.mark.parametrize("row", NOT_LOGITS, ids=str)
def test_what_is_no_distribution_is_refused(row):
    logits = torch.tensor([[0.0, 1.0, -math.inf], row])
    with pytest.raises(NonFinite, match="nan or infinite logits"):
        sample(logits, torch.zeros(2), top_k=2)
    with pytest.raises(NonFinite, match="nan or infinite logits"):
        most_probable(logits, 0)
    assert most_probable(logits[:1], 0).tolist() == sample(logits[:1], torch.zeros(1)).tolist() == [1]
