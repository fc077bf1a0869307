"""Read a run's metrics.csv: a metric by step and by time, and the duration of an update."""

import csv
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Rows = list[dict[str, str]]


class Point(NamedTuple):
    """A metric's value, the update after which it was measured, and the seconds of training until then."""

    step: int
    seconds: float
    value: float


def read_history(path: Path) -> Rows:
    """Read the rows of a metrics.csv, without a last row that was cut off when the process was killed.

    Raises:
        ValueError: it is not a metrics.csv.
        OSError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            rows = list(reader)
        if "step" not in (reader.fieldnames or ()):
            raise KeyError("step")
        for row in rows:
            int(row["step"])
            [float(value) for name, value in row.items() if name != "step" and value]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(f"{path} is not a metrics.csv: it must have a column step and only numbers") from None
    return rows


def curve(rows: Rows, metric: str) -> list[Point]:
    """Return the points of a metric, without nan; times between two timed rows are interpolated linearly."""
    timed = [(0, 0.0), *_times(rows)]
    steps = [int(row["step"]) for row in rows if row.get(metric)]
    values = [float(row[metric]) for row in rows if row.get(metric)]
    points = zip(steps, _interpolated(steps, timed), values, strict=True)
    return [Point(*point) for point in points if math.isfinite(point[2])]


def seconds_per_update(rows: Rows) -> float | None:
    """Return the median over the rows, because a few of them include an evaluation or a save; None without rows."""
    timed = [(0, 0.0), *_times(rows)]
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(timed) if b[0] > a[0]]
    return statistics.median(seconds / steps for steps, seconds in pairs) if pairs else None


def seconds_in_all(rows: Rows) -> float:
    """Return the seconds of training up to the last row."""
    return sum(float(row["seconds"]) for row in rows if row.get("seconds"))


def _times(rows: Rows) -> list[tuple[int, float]]:
    """Return pairs of a step and the seconds of training until then."""
    timed = [row for row in rows if row.get("seconds")]
    seconds = itertools.accumulate(float(row["seconds"]) for row in timed)
    return [(int(row["step"]), until) for row, until in zip(timed, seconds, strict=True)]


def _interpolated(steps: Sequence[int], timed: list[tuple[int, float]]) -> list[float]:
    known, seconds = zip(*timed, strict=True)
    return [float(until) for until in np.interp(steps, known, seconds)]
