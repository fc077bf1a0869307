"""What a sweep draws, from the CSV files that it wrote: curves by update and by time, and the test's figures."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from dl_proj.experiments.history import Point
from dl_proj.figure_style import PAGE, looks_of, metric_label, show_share, style
from dl_proj.pictures import Band, band_figure, plain, room_for, save_for_print
from dl_proj.tables import Row

CURVES = "curves.csv"
_COLUMNS = ("variant", "seed", "step", "seconds")


def curve_rows(variant: str, seed: int | None, history: Iterable[Point], metric: str) -> list[Row]:
    """A run's rows of curves.csv."""
    return [
        {"variant": variant, "seed": seed, "step": point.step, "seconds": point.seconds, metric: point.value}
        for point in history
    ]


def draw_sweep(folder: Path, metric: str | None = None) -> list[Path]:
    """Draw sweep.png and sweep_time.png of curves.csv, and sweep_test.png of runs.csv or sweep.csv.

    Args:
        folder: of a sweep.
        metric: of the validation data; None: that of curves.csv. Without this file, which older sweeps lack, there is
            sweep_test.png alone.

    Returns:
        The PNGs; the PDFs lie beside them.
    """
    figures: dict[str, Figure] = {}
    if (folder / CURVES).is_file():
        rows = _read(folder / CURVES)
        (metric,) = (name for name in rows[0] if name not in _COLUMNS) if rows else (metric,)
        if rows and metric:
            histories = _histories(rows, metric)
            figures |= {"sweep": by_step(histories, metric), "sweep_time": by_time(histories, metric)}
    test = (metric or "").replace("val/", "test/", 1)
    own = folder / "runs.csv"
    runs = [row for row in _read(own if own.is_file() else folder / "sweep.csv") if row.get(test)]
    if runs:
        figures["sweep_test"] = by_variant(runs, test)
    for name, figure in figures.items():
        save_for_print(figure, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _histories(rows: Sequence[dict[str, str]], metric: str) -> dict[str, list[list[Point]]]:
    runs: dict[tuple[str, str], list[Point]] = {}
    for row in rows:
        point = Point(int(row["step"]), float(row["seconds"]), float(row[metric]))
        runs.setdefault((row["variant"], row["seed"]), []).append(point)
    histories: dict[str, list[list[Point]]] = {}
    for (variant, _), run in runs.items():
        histories.setdefault(variant, []).append(run)
    return histories


def by_step(histories: dict[str, list[list[Point]]], metric: str) -> Figure:
    """A curve for each variant against the update."""
    curves = {name: _over_seeds(runs) for name, runs in histories.items()}
    steps = {name: Band(curve.steps, curve.mean, curve.deviation) for name, curve in curves.items()}
    return band_figure(steps, xlabel="update", metric=metric, note=_note(histories))


def by_time(histories: dict[str, list[list[Point]]], metric: str) -> Figure:
    """The same against the time of training."""
    curves = {name: _over_seeds(runs) for name, runs in histories.items()}
    longest = max((max(curve.seconds, default=0.0) for curve in curves.values()), default=0.0)
    unit, of_it = ("s", 1) if longest < 600 else ("min", 60) if longest < 3 * 3600 else ("h", 3600)
    times = {
        name: Band([seconds / of_it for seconds in curve.seconds], curve.mean, curve.deviation)
        for name, curve in curves.items()
    }
    return band_figure(times, xlabel=f"time of training ({unit})", metric=metric, note=_note(histories))


def _note(histories: dict[str, list[list[Point]]]) -> str:
    seeds = max(map(len, histories.values()))
    return f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else ""


def by_variant(rows: Sequence[dict[str, str]], metric: str) -> Figure:
    """The test's figure of each variant: every seed a dot, and a bar at their mean.

    Args:
        rows: a run each.
        metric: column.
    """
    variants: dict[str, list[float]] = {}
    for row in rows:
        variants.setdefault(row["variant"], []).append(float(row[metric]))
    seeds = max(map(len, variants.values()))
    names = [plain(name) for name in variants]
    looks = looks_of(variants)
    with style():
        figure = Figure(
            figsize=(PAGE + max(0.0, room_for(names) - 1.5), 0.22 * len(variants) + 0.75), layout="constrained"
        )
        panel = figure.add_subplot()
        for place, (name, values) in enumerate(variants.items()):
            look = looks[name]
            dots = look.line() | {"linestyle": "", "markersize": 5.5, "alpha": 0.6 if seeds > 1 else 1.0}
            panel.plot(values, [place] * len(values), **dots)
            if len(values) > 1:
                panel.vlines(statistics.fmean(values), place - 0.32, place + 0.32, color=look.colour, linewidth=1.6)
        panel.set_yticks(range(len(names)), names)
        panel.set(ylim=(len(names) - 0.4, -0.6), xlabel=metric_label(metric))
        panel.set_title(f"a dot for each of {seeds} seeds, a bar at their mean" if seeds > 1 else "", loc="left")
        show_share(panel.xaxis, metric)
        panel.tick_params(axis="y", length=0)
        panel.grid(True)
    return figure


class _Curve(NamedTuple):
    steps: list[float]
    seconds: list[float]
    mean: list[float]
    deviation: list[float]


def _over_seeds(runs: list[list[Point]]) -> _Curve:
    """Means at the steps that all runs have; where some ended early, all end there."""
    by_number = [{point.step: point for point in run} for run in runs]
    steps = sorted(set.intersection(*({*run} for run in by_number)))
    values = [[run[step].value for run in by_number] for step in steps]
    return _Curve(
        [*steps],
        [statistics.fmean(run[step].seconds for run in by_number) for step in steps],
        [statistics.fmean(some) for some in values],
        [statistics.stdev(some) if len(some) > 1 else 0.0 for some in values],
    )
