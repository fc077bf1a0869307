"""Whether one variant is better than another, given the noise of seeds and test examples."""

import itertools
import statistics
from collections.abc import Sequence
from enum import StrEnum

from dl_proj.tables import Row


class Verdict(StrEnum):
    """Whether a difference between two variants is larger than the noise."""

    APART = "apart"
    NOISE = "within the noise"
    ONE_SEED = "one seed"


_MARKS = {Verdict.APART: ", ", Verdict.NOISE: " ~ ", Verdict.ONE_SEED: " ? "}
_LEGEND = {
    Verdict.NOISE: "~ within the noise: the seeds or the 95 % intervals overlap",
    Verdict.ONE_SEED: "? one seed: the order may be chance",
}


def verdict(one: Sequence[Row], other: Sequence[Row], figure: str) -> Verdict:
    """Whether two variants can be distinguished by a test metric.

    They are within the noise if their ranges over the seeds overlap, or their 95 % intervals over the test examples
    (``<figure>_low`` to ``_high``, averaged over the seeds, if present). With a single seed of either variant, a
    difference says nothing about other seeds.
    """
    pairs = [(_interval(one, figure), _interval(other, figure))]
    several = min(len(one), len(other)) > 1
    if several:
        pairs.append((_range(one, figure), _range(other, figure)))
    for a, b in pairs:
        if a is not None and b is not None and a[0] <= b[1] and b[0] <= a[1]:
            return Verdict.NOISE
    return Verdict.APART if several else Verdict.ONE_SEED


def ranking(runs: dict[str, list[Row]], figure: str, mode: str) -> list[str]:
    """Return the variants that have the figure in all runs, best mean first; ``mode`` is "max" or "min"."""
    means = {
        name: statistics.fmean(row[figure] for row in rows)
        for name, rows in runs.items()
        if all(isinstance(row.get(figure), int | float) for row in rows)
    }
    return sorted(means, key=lambda name: means[name], reverse=mode == "max")


def order_line(runs: dict[str, list[Row]], figure: str, mode: str) -> str | None:
    """Return a line with the order of the variants, marking neighbours within the noise; None for fewer than two."""
    names = ranking(runs, figure, mode)
    if len(names) < 2:
        return None
    verdicts = [verdict(runs[a], runs[b], figure) for a, b in itertools.pairwise(names)]
    order = names[0] + "".join(_MARKS[v] + name for v, name in zip(verdicts, names[1:], strict=True))
    legend = [_LEGEND[v] for v in _LEGEND if v in verdicts]
    return f"best first by {figure.replace('/', ' ')}: {order}" + (f" ({'; '.join(legend)})" if legend else "")


def against_the_best(runs: dict[str, list[Row]], figure: str, mode: str) -> dict[str, str]:
    """Compare each ranked variant with the best: "best", "worse", "within the noise" or "one seed"."""
    names = ranking(runs, figure, mode)
    if len(names) < 2:
        return {}
    found = {name: verdict(runs[names[0]], runs[name], figure) for name in names[1:]}
    return {names[0]: "best"} | {name: "worse" if v is Verdict.APART else str(v) for name, v in found.items()}


def _range(rows: Sequence[Row], figure: str) -> tuple[float, float]:
    values = [row[figure] for row in rows]
    return min(values), max(values)


def _interval(rows: Sequence[Row], figure: str) -> tuple[float, float] | None:
    """Return the means of the intervals' ends."""
    names = (f"{figure}_low", f"{figure}_high")
    if not all(name in row for row in rows for name in names):
        return None
    low, high = (statistics.fmean(row[name] for row in rows) for name in names)
    return low, high
