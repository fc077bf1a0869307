"""Bootstrap confidence intervals: how much a test figure would vary with other test examples."""

from collections.abc import Callable, Mapping

import numpy as np

_RESAMPLES = 1000


def bootstrap_intervals(
    sums: Mapping[str, np.ndarray], figures: Callable[[dict[str, float]], dict[str, float]], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals (Efron 1979) of figures that are functions of means over examples.

    Args:
        sums: for each name, the total and count of each example, (n, 2); n is the same for all.
        figures: computes the figures from the means by name, each the sum of totals divided by the sum of counts.
        seed: seed of the 1,000 resamples of n examples, drawn with replacement.

    Returns:
        The lower and upper end of the interval for each figure.
    """
    names = list(sums)
    columns = np.concatenate([sums[name] for name in names], axis=1)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(_RESAMPLES):
        times = np.bincount(generator.integers(len(columns), size=len(columns)), minlength=len(columns))
        totals, counts = (times @ columns).reshape(-1, 2).T
        with np.errstate(invalid="ignore", divide="ignore"):
            means = dict(zip(names, (totals / counts).tolist(), strict=True))
        for name, value in figures(means).items():
            drawn.setdefault(name, []).append(value)
    low, high = 2.5, 97.5
    return {name: (float(np.percentile(some, low)), float(np.percentile(some, high))) for name, some in drawn.items()}
