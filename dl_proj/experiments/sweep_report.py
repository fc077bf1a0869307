"""What a sweep ends in: a table of means and deviations over seeds, and pictures by step and by time."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dl_proj.experiments.history import Point, curve, read_history
from dl_proj.experiments.sweep_settings import Trial, flat
from dl_proj.pictures import Band, draw_bands
from dl_proj.tables import Row, csv_text, markdown, mean_and_deviation, with_intervals
from my_custom_ai.custom_train import RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors
from my_custom_ai.utils.files import write_text

COSTS = ("parameters", "seconds", "steps", "examples_per_second", "tokens_per_second", "peak_memory_mib", "state_bytes")
"""What metrics.json says besides the test's figures."""
_TITLES = {
    "examples_per_second": "examples per s",
    "tokens_per_second": "tokens per s",
    "peak_memory_mib": "peak MiB",
    "state_bytes": "state bytes",
}


class Trained(NamedTuple):
    """A trial that is finished, and its run."""

    trial: Trial
    run: RunDirectory


def write_report(done: Sequence[Trained], metric: str, folder: Path) -> None:
    """Print the table, then write sweep.csv, sweep.png, sweep_time.png and, if there are seeds, runs.csv."""
    settings = list(dict.fromkeys(key for one in done for key in flat(one.trial.changes)))
    runs: dict[str, list[Row]] = {}
    histories: dict[str, list[list[Point]]] = {}
    for trial, run in done:
        runs.setdefault(trial.variant, []).append(_row(trial, run, settings))
        histories.setdefault(trial.variant, []).append(curve(read_history(run.metrics), metric))
    # before anything is written: a full disk must not hide the results
    print(markdown([_printed(rows, settings) for rows in runs.values()]))
    table, picture, by_time = (folder / name for name in ("sweep.csv", "sweep.png", "sweep_time.png"))
    write_text(table, csv_text([_means(rows) for rows in runs.values()]))
    written = [table, picture, by_time]
    if any(trial.seed is not None for trial, _ in done):
        written.append(folder / "runs.csv")
        write_text(written[-1], csv_text([row for rows in runs.values() for row in rows]))
    _draw(histories, metric, picture, by_time)
    print(f"written: {', '.join(map(str, written))}")


def _row(trial: Trial, run: RunDirectory, settings: list[str]) -> Row:
    """What it changes of those settings, what it cost, its best validation figures and those of the test."""
    own = flat(trial.changes)
    changes = {key: _as_cell(own.get(key)) for key in settings}
    figures = run.figures()
    cost = {name: figures.pop(name) for name in COSTS if name in figures}
    seed = {} if trial.seed is None else {"seed": trial.seed}
    return {"variant": trial.variant} | seed | changes | cost | _best(run) | figures


def _as_cell(value: Any) -> Any:
    """A setting in a table; one that is a list of sections, such as each layer's attention, as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def _best(run: RunDirectory) -> dict[str, float]:
    """The validation figures of the best weights, and their step."""
    _, note = load_tensors(run.best_weights)
    return {"best step": note.pop("step")} | note


def _is_figure(name: str, rows: list[Row]) -> bool:
    """Whether a column can have a mean; a setting may, as it is the same in all rows of a variant."""
    if name in ("variant", "seed") or any(isinstance(row.get(name), bool) for row in rows):
        return False
    return all(isinstance(row.get(name), int | float) for row in rows)


def _means(rows: list[Row]) -> Row:
    """One row for a variant: of several, means and standard deviations."""
    if "seed" not in rows[0]:
        return rows[0]
    found: Row = {"variant": rows[0]["variant"], "seeds": len(rows)}
    for name in dict.fromkeys(name for row in rows for name in row):
        if not _is_figure(name, rows):
            found |= {} if name in ("variant", "seed") else {name: rows[0].get(name)}
            continue
        values = [row[name] for row in rows]
        found[name] = statistics.fmean(values) if len({*values}) > 1 else values[0]
        if len(values) > 1 and name != "parameters":
            found[f"{name} std"] = statistics.stdev(values)
    return found


def _printed(rows: list[Row], settings: list[str]) -> Row:
    """Without the settings, which the CSV has."""
    found: Row = {}
    for name, value in with_intervals(_means(rows)).items():
        values = [row.get(name) for row in rows]
        vary = len({*values}) > 1 and _is_figure(name, rows)
        if name not in settings and not name.endswith(" std"):
            title = _TITLES.get(name, name.replace("/", " ", 1))
            found[title] = mean_and_deviation([row[name] for row in rows]) if vary else value
    return found


def _draw(histories: dict[str, list[list[Point]]], metric: str, by_step: Path, by_time: Path) -> None:
    curves = {name: _over_seeds(runs) for name, runs in histories.items()}
    seeds = max(map(len, histories.values()))
    title = f"{metric}\nmean ± deviation of {seeds} seeds" if seeds > 1 else metric
    steps = {name: Band(band.steps, band.mean, band.deviation) for name, band in curves.items()}
    draw_bands(steps, xlabel="step", ylabel=title, path=by_step)
    longest = max((max(band.seconds, default=0.0) for band in curves.values()), default=0.0)
    unit, of_it = ("seconds", 1) if longest < 600 else ("minutes", 60) if longest < 3 * 3600 else ("hours", 3600)
    times = {
        name: Band([seconds / of_it for seconds in band.seconds], band.mean, band.deviation)
        for name, band in curves.items()
    }
    draw_bands(times, xlabel=f"{unit} of training", ylabel=title, path=by_time)


class _Curve(NamedTuple):
    steps: list[float]
    seconds: list[float]
    mean: list[float]
    deviation: list[float]


def _over_seeds(runs: list[list[Point]]) -> _Curve:
    """Means at the steps that all runs have; where some ended early, all end there."""
    by_step = [{point.step: point for point in run} for run in runs]
    steps = sorted(set.intersection(*({*run} for run in by_step)))
    values = [[run[step].value for run in by_step] for step in steps]
    return _Curve(
        [*steps],
        [statistics.fmean(run[step].seconds for run in by_step) for step in steps],
        [statistics.fmean(some) for some in values],
        [statistics.stdev(some) if len(some) > 1 else 0.0 for some in values],
    )
