"""Nystrom attention: its cases for the contract, its definition, landmarks and the pseudo-inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import Case, Defined, heads, plain

from my_transformers import FullAttention, NystromAttention, reference
from my_transformers.nystrom import pseudo_inverse, segment_means


def with_convolution(*, heads, head_dim, **common):
    return NystromAttention(n_landmarks=5, kernel_size=5, heads=heads, **common)


def pair(*, causal, heads, head_dim, n_landmarks=64, n_iterations=6, kernel_size=0):
    given = {"n_landmarks": n_landmarks, "n_iterations": n_iterations, "kernel_size": kernel_size}
    given = {name: value for name, value in given.items() if value != DEFAULT[name]}
    mechanism = NystromAttention(heads=heads, causal=causal, **given).double()

    def define(q, k, v, mask):
        out = reference.nystrom_attention(q, k, v, mask, m=n_landmarks, iterations=n_iterations)
        if mechanism.convolution is None:
            return out
        return out + reference.convolution_of_values(v, mask, mechanism.convolution[:, 0, :, 0])

    return mechanism, define


DEFAULT = {"n_landmarks": 64, "n_iterations": 6, "kernel_size": 0}
BIDIRECTIONAL = {"directions": (False,), "instead": "use LinearAttention, PerformerAttention or LSHAttention"}
CASES = [
    Case("nystrom", plain(NystromAttention, n_landmarks=5), inexact=True, **BIDIRECTIONAL),
    Case("nystrom-convolution", with_convolution, mixes_values=True, compiled=False, **BIDIRECTIONAL),
]
DEFAULTS = [Case("nystrom-default", plain(NystromAttention), inexact=True, **BIDIRECTIONAL)]
DRAWN = {
    "n_landmarks": st.integers(1, 12),
    "n_iterations": st.integers(1, 8),
    "kernel_size": st.sampled_from([0, 1, 5]),
}
DEFINITIONS = {"nystrom": Defined(pair, st.fixed_dictionaries(DRAWN), directions=(False,))}


def test_a_landmark_for_each_token_is_full_attention():
    """F A^-1 B = A A^-1 A, once the iteration has converged; queries and keys that tell tokens apart make A regular."""
    q, v = 3 * torch.randn(2, 3, 12, 16).double(), torch.randn(2, 3, 12, 4).double()
    mask = torch.arange(12) < torch.tensor([[12], [7]])
    ours = NystromAttention(n_landmarks=12, n_iterations=20)(q, q, v, mask=mask)
    theirs = FullAttention()(q, q, v, mask=mask)
    torch.testing.assert_close(ours * mask[:, None, :, None], theirs * mask[:, None, :, None])


def test_segments_by_hand():
    """Of seven tokens in three segments, 0 1 2, 3 4 and 5 6; two of three real ones are landmarks by themselves."""
    mask = torch.tensor([[True] * 7, [False, True, False, False, True, False, False]])
    means, there = segment_means(mask, 3, torch.float64)
    whole = [[1 / 3] * 3 + [0] * 4, [0] * 3 + [1 / 2] * 2 + [0] * 2, [0] * 5 + [1 / 2] * 2]
    few = [[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0] * 7]
    torch.testing.assert_close(means[:, 0], torch.tensor([whole, few], dtype=torch.float64))
    assert there.tolist() == [[True] * 3, [True, True, False]]


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), m=st.integers(1, 60))
def test_segments_are_as_even_as_can_be(n, m):
    """Neighbours, none empty, whose sizes differ by one at most."""
    means, there = segment_means(torch.ones(1, n, dtype=torch.bool), min(m, n), torch.float64)
    sizes = (means[0, 0] > 0).sum(1)
    assert there.all() and sizes.sum() == n and sizes.max() - sizes.min() <= 1
    assert (means[0, 0].argmax(0).diff() >= 0).all()


def test_the_pseudo_inverse_is_torchs():
    """After enough iterations; with a landmark twice, so that a row and a column depend on others."""
    logits = 3 * torch.randn(4, 9, 9).double()
    regular = logits.softmax(-1)
    torch.testing.assert_close(pseudo_inverse(regular, 30), torch.linalg.inv(regular), rtol=1e-6, atol=1e-6)
    double = torch.cat((logits[:, :8], logits[:, :1]), dim=1)
    double = torch.cat((double[..., :8], double[..., :1]), dim=2).softmax(-1)
    torch.testing.assert_close(pseudo_inverse(double, 30), torch.linalg.pinv(double), rtol=1e-5, atol=1e-5)
    for iterations in (1, 6):
        expected = reference.pseudo_inverse(double, iterations)
        torch.testing.assert_close(pseudo_inverse(double, iterations), expected)


def test_more_landmarks_come_closer_to_softmax():
    """On tokens that change slowly along the sequence, as its segments suppose."""
    steps = torch.randn(2, 2, 128, 8, generator=torch.Generator().manual_seed(0)).double()
    q, k, v = (steps.roll(i, 0).cumsum(2) / 4 for i in range(3))
    exact = FullAttention()(q, k, v)
    errors = [(NystromAttention(n_landmarks=m)(q, k, v) - exact).norm() / exact.norm() for m in (1, 8, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_queries_do_not_attend_step_by_step_nor_to_a_context():
    """A landmark of queries is made of several: an earlier one's output would depend on later ones."""
    q, k, v = heads(16)
    moved = torch.cat((q[:, :, :8], q[:, :, 8:] + 1), dim=2)
    mechanism = NystromAttention(n_landmarks=4)
    assert (mechanism(moved, k, v) - mechanism(q, k, v))[:, :, :8].abs().max() > 1e-3
    with pytest.raises(ValueError, match="16 queries and 9 keys; for a context use FullAttention"):
        mechanism(q, k[:, :, :9], v[:, :, :9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_landmarks": 0}, "n_landmarks is 0"),
        ({"n_iterations": 0}, "n_iterations is 0"),
        ({"kernel_size": 4, "heads": 2}, "kernel_size is 4, must be odd"),
        ({"kernel_size": 3}, "heads must be given"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_what_is_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NystromAttention(**settings)


def test_autocast_rounds_nothing():
    """The pseudo-inverse would magnify it."""
    q, k, v = (x.float() for x in heads(40))
    mechanism = NystromAttention(n_landmarks=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = mechanism(q, k, v)
    assert torch.equal(rounded, mechanism(q, k, v))
