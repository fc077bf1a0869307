"""What a sweep ends in: a table of means and deviations over seeds, the curves as CSV, and pictures."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dl_proj.experiments.history import Point, curve, read_history
from dl_proj.experiments.noise import against_the_best, order_line
from dl_proj.experiments.settings import MonitorMode
from dl_proj.experiments.sweep_pictures import CURVES, curve_rows, draw_sweep
from dl_proj.experiments.sweep_settings import Trial, flat
from dl_proj.tables import Row, csv_text, markdown, mean_and_deviation, with_intervals
from my_custom_ai.custom_train import RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors
from my_custom_ai.utils.files import write_text

COSTS = (
    "parameters",
    "seconds",
    "steps",
    "examples_per_second",
    "tokens_per_second",
    "peak_memory_mib",
    "state_bytes",
    "device",
)
"""What metrics.json says besides the test's figures."""
_AGAINST, _EQUAL = "against the best", "at equal time"
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


def write_report(done: Sequence[Trained], metric: str, folder: Path, *, mode: MonitorMode) -> None:
    """Print the table, then write sweep.csv, curves.csv, if there are seeds runs.csv, and pictures of these files.

    ``metric`` of the validation data is drawn, and the test's of that name puts the variants in order, as far as they
    can be told apart; ``mode`` says whether more or less of it is better.
    """
    settings = list(dict.fromkeys(key for one in done for key in flat(one.trial.changes)))
    runs: dict[str, list[Row]] = {}
    histories: dict[str, list[list[Point]]] = {}
    curves: list[Row] = []
    for trial, run in done:
        runs.setdefault(trial.variant, []).append(_row(trial, run, settings))
        history = curve(read_history(run.metrics), metric)
        histories.setdefault(trial.variant, []).append(history)
        curves += curve_rows(trial.variant, trial.seed, history, metric)
    figure = metric.replace("val/", "test/", 1)
    against = against_the_best(runs, figure, mode)
    equal = at_equal_time(histories, mode)
    table = [_means(rows) | _compared(name, metric, against, equal) for name, rows in runs.items()]
    # before anything is written: a full disk must not hide the results
    print(markdown([_printed(row, runs[row["variant"]], settings) for row in table]))
    lines = (order_line(runs, figure, mode), _about_equal_time(metric, equal), _devices(runs))
    print("".join(f"{line}\n" for line in lines if line), end="")
    files = {"sweep.csv": table, CURVES: curves}
    if any(trial.seed is not None for trial, _ in done):
        files["runs.csv"] = [row for rows in runs.values() for row in rows]
    for name, rows in files.items():
        write_text(folder / name, csv_text(rows))
    written = [*(folder / name for name in files), *draw_sweep(folder, metric)]
    print(f"written: {', '.join(map(str, written))}; each picture as .pdf, too")


class EqualTime(NamedTuple):
    """What each variant reached in the time that the fastest one took."""

    seconds: float
    values: dict[str, float]


def at_equal_time(histories: dict[str, list[list[Point]]], mode: MonitorMode) -> EqualTime | None:
    """The best value of each variant until the last evaluation of the fastest one, of its slowest seed.

    Means over the seeds; variants of which a seed was not evaluated by then are left out. None: fewer than two
    variants, or one that was never evaluated.
    """
    if len(histories) < 2 or not all(run for runs in histories.values() for run in runs):
        return None
    seconds = min(max(run[-1].seconds for run in runs) for runs in histories.values())
    choose = max if mode == "max" else min
    reached = {
        name: [choose((p.value for p in run if p.seconds <= seconds), default=None) for run in runs]
        for name, runs in histories.items()
    }
    values = {name: [v for v in some if v is not None] for name, some in reached.items()}
    whole = {name: statistics.fmean(some) for name, some in values.items() if len(some) == len(reached[name])}
    return EqualTime(seconds, whole)


def _compared(name: str, metric: str, against: dict[str, str], equal: EqualTime | None) -> Row:
    """The columns of a variant that say something of the others, too."""
    found: Row = {_AGAINST: against[name]} if name in against else {}
    if equal is not None:
        found[f"{metric} {_EQUAL}"] = equal.values.get(name)
    return found


def _about_equal_time(metric: str, equal: EqualTime | None) -> str:
    if equal is None:
        return ""
    return f"{_EQUAL}: best {metric.replace('/', ' ')} within {equal.seconds:.3g} s, after which the fastest ended"


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


def _devices(runs: dict[str, list[Row]]) -> str:
    """A line that names what the seconds were measured on; empty for runs that do not say it."""
    names = dict.fromkeys(row["device"] for rows in runs.values() for row in rows if "device" in row)
    return f"trained on: {'; '.join(names)}" if names else ""


def _printed(means: Row, rows: list[Row], settings: list[str]) -> Row:
    """Without the settings, which the CSV has, and the device, which stands below."""
    found: Row = {}
    for name, value in with_intervals(means).items():
        values = [row.get(name) for row in rows]
        vary = len({*values}) > 1 and _is_figure(name, rows)
        if name not in settings and name != "device" and not name.endswith(" std"):
            title = _TITLES.get(name, name.replace("/", " ", 1))
            found[title] = mean_and_deviation([row[name] for row in rows]) if vary else value
    return found
