"""Bootstrap intervals agree with scipy's, and with the sampling distribution."""

import numpy as np
import pytest
from scipy import stats

from my_custom_ai.utils.bootstrap import bootstrap_intervals


def mean(means):
    return means


def test_as_scipy_has_it():
    """Of a ratio of sums, whose counts differ."""
    generator = np.random.default_rng(3)
    counts = generator.integers(1, 9, size=80)
    totals = generator.binomial(counts, 0.3)
    ((low, high),) = bootstrap_intervals({"x": np.stack((totals, counts), 1)}, mean).values()
    expected = stats.bootstrap(
        (totals, counts), lambda t, c: t.sum() / c.sum(), paired=True, vectorized=False, method="percentile", rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)


def test_figures_of_several_means_are_drawn_together():
    """The same examples are drawn for all: what two metrics have in common cancels out."""
    values = np.random.default_rng(0).normal(size=50)
    sums = {"a": np.stack((values, np.ones(50)), 1), "b": np.stack((values + 2, np.ones(50)), 1)}
    found = bootstrap_intervals(sums, lambda means: {"difference": means["b"] - means["a"], "a": means["a"]})
    assert found["difference"] == pytest.approx((2, 2))
    assert found["a"][0] < values.mean() < found["a"][1]


def test_one_example_leaves_no_doubt_and_the_seed_repeats():
    assert bootstrap_intervals({"x": np.array([[1.0, 4.0]])}, mean) == {"x": (0.25, 0.25)}
    sums = {"x": np.stack((np.arange(9.0), np.ones(9)), 1)}
    assert bootstrap_intervals(sums, mean, seed=2) == bootstrap_intervals(sums, mean, seed=2)
