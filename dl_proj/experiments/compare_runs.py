"""compare_runs.py: an HTML page that compares runs by their files; nothing is evaluated again."""

import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.experiments.compare_runs_settings import CompareRunsConfig
from dl_proj.experiments.history import Rows, curve, read_history, seconds_in_all
from dl_proj.experiments.sweep_settings import Settings, flat
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.tables import mean_and_deviation
from my_custom_ai.utils.files import write_text

_NOT_COMPARED = {"task", "seed", "experiment_name", "runs_dir", "train.device", "train.num_workers", "train.trackers"}
_COSTS = (
    "parameters",
    "steps",
    "seconds",
    "examples_per_second",
    "tokens_per_second",
    "peak_memory_mib",
    "state_bytes",
    "device",
)
_INTERVAL = ", 95 %"  # suffix of a column's name
_MOST_POINTS = 400  # per curve, more than enough for its width on the page


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder.

    Args:
        path: the folder.
        settings: its configuration, by dotted key.
        figures: its metrics.json; empty if the training has not finished.
        history: its metrics.csv; empty for a shipped checkpoint.
    """

    path: Path
    settings: Settings
    figures: dict[str, Any] = field(default_factory=dict)
    history: Rows = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return str(self.settings.get("experiment_name", self.path.name))

    @property
    def table(self) -> str:
        """The table it belongs to: its task, or the subtask whose figures are comparable."""
        return str(self.settings.get("data.task", self.settings["task"]))

    @property
    def variant(self) -> tuple[tuple[str, str], ...]:
        """The settings shared by runs that differ only in their seed."""
        return tuple((key, repr(value)) for key, value in sorted(self.settings.items()) if key not in _NOT_COMPARED)

    @property
    def best(self) -> tuple[str, float | None]:
        """The monitored metric and its best value."""
        metric = str(self.settings.get("train.monitor.metric", "val/loss"))
        values = [point.value for point in curve(self.history, metric)]
        choose = max if self.settings.get("train.monitor.mode") == "max" else min
        return metric, choose(values, default=None)


def compare_runs(config: CompareRunsConfig, folders: Sequence[str]) -> None:
    """Read the runs and write the page; a run that cannot be read is named there and on stderr.

    Raises:
        ConfigError: a folder does not exist, or there are no runs at all.
    """
    runs, left_out = [], []
    for path in _find(folders or ["runs"]):
        try:
            runs.append(_read(path))
        except (ConfigError, OSError, ValueError) as error:
            left_out += [f"{path}: {str(error).removeprefix(f'{path}: ')}"]
    if not runs:
        raise ConfigError(*left_out or [f"{' '.join(folders) or 'runs'}: no run in it (a folder with a config.yaml)"])
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.table, []).append(run)
    data = {
        "about": f"{len(runs)} runs. Bold: groups that differ only in their seed, as mean ± standard deviation.",
        "left_out": left_out,
        "tasks": [_task(name, some, config.output.parent) for name, some in tasks.items()],
    }
    template = resources.files("dl_proj.experiments").joinpath("compare_runs.html").read_text(encoding="utf-8")
    # a name may contain "</script>"
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    write_text(config.output, template.replace("/*DATA*/", text, 1))
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"written: {config.output}, comparing {len(runs)} runs of {', '.join(tasks)}")


def _find(folders: Iterable[str]) -> list[Path]:
    """Return the run folders; checkpoint folders inside a run are skipped in favour of the run."""
    found: dict[Path, None] = {}
    for word in folders:
        folder = Path(word) if Path(word).exists() or not (SHIPPED / word).is_dir() else SHIPPED / word
        if not folder.is_dir():
            raise ConfigError(f"{word}: no such folder")
        below = {path.parent for path in folder.rglob("config.yaml")} | {*folder.rglob("version_*")}
        below = {path for path in below if path.is_dir() and not _is_within_a_run(path)}
        found |= dict.fromkeys(sorted(below or {folder}, key=_by_number))
    return list(found)


def _is_within_a_run(path: Path) -> bool:
    run = path.parent.parent
    return path.parent.name == "checkpoints" and (run.name.startswith("version_") or (run / "config.yaml").is_file())


def _by_number(path: Path) -> list[tuple[str, int]]:
    """Sort key that puts version_10 after version_9."""
    return [(word, int(number or 0)) for word, number in re.findall(r"([^0-9]+)([0-9]*)", str(path))]


def _read(path: Path) -> Run:
    """Read a run from its files.

    Raises:
        ConfigError, OSError, ValueError: a file is missing or damaged.
    """
    settings = flat(read_yaml(path / "config.yaml"))
    if not isinstance(settings.get("task"), str):
        raise ConfigError(f"{path / 'config.yaml'}: has no task, so this is not a training run")
    figures_file, history_file = path / "metrics.json", path / "metrics.csv"
    figures: dict[str, Any] = {}
    history: Rows = []
    if figures_file.is_file():
        figures = _figures_in(figures_file)
    if history_file.is_file():
        history = read_history(history_file)
    if not figures and not history:
        raise ConfigError("has neither metrics.csv nor metrics.json, so nothing was measured yet")
    return Run(path, settings, figures, history)


def _figures_in(path: Path) -> dict[str, Any]:
    """Return the finite numbers and the device's name, which are all that the page shows."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: does not contain the figures of a training")
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}
    return numbers | ({"device": found["device"]} if isinstance(found.get("device"), str) else {})


def _task(name: str, runs: list[Run], page: Path) -> dict[str, Any]:
    """Return the page's data for the runs of one task."""
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    settings = _differing([some[0].settings for some in groups.values()])
    common = [key for key in settings if all(key in some[0].settings for some in groups.values())]
    own = [key for key in settings if key not in common]
    figures = list(dict.fromkeys(_column(figure) for run in runs for figure in _figures(run)))
    figures.sort(key=lambda figure: (not figure.startswith("test/"), not figure.startswith("best ")))
    metrics = {key for run in runs for row in run.history for key in row if key.startswith(("val/", "train/"))}
    return {
        "name": name,
        "columns": [
            *(key.removeprefix("model.") for key in common),
            *(figure.replace("_", " ") for figure in figures),
            *(["other settings"] if own else []),
        ],
        "words": len(common) + len(figures),
        "metrics": sorted(metrics, key=lambda metric: (metric.startswith("train/"), metric)),
        "metric": next((run.best[0] for run in runs if run.best[0] in metrics), None),
        "groups": [
            {
                "name": f"{_group_name(some)}{f' ({len(some)} runs)' if len(some) > 1 else ''}",
                "cells": _cells(some, common, figures, own),
                "runs": [_run(run, _cells_of_one(run, common, figures, own), page) for run in some],
            }
            for some in groups.values()
        ],
    }


def _cells(runs: list[Run], common: list[str], figures: list[str], own: list[str]) -> list[str]:
    """Return the cells of a group's row: means over its finished runs, or over all of them if none is finished."""
    settings = runs[0].settings
    finished = [run for run in runs if run.figures] or runs
    found = [_shown(settings[key]) for key in common]
    found += [_spread(figure, finished) for figure in figures]
    if own:
        words = ((key, settings.get(key)) for key in own)
        short = (f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in words if value is not None)
        found.append(", ".join(short))
    return found


def _cells_of_one(run: Run, common: list[str], figures: list[str], own: list[str]) -> list[str]:
    """Return the cells of a single run in a group; the settings are only in the group's row."""
    return [""] * len(common) + [_spread(figure, [run]) for figure in figures] + [""] * bool(own)


def _run(run: Run, cells: list[str], page: Path) -> dict[str, Any]:
    metrics = dict.fromkeys(key for row in run.history for key in row if key.startswith(("val/", "train/")))
    return {
        "name": f"{run.path}{'' if run.figures else ' (not finished)'}",
        "cells": cells,
        "pictures": [
            {"name": picture.name, "href": Path(os.path.relpath(picture, page)).as_posix()}
            for picture in sorted(run.path.glob("*.png"))
        ],
        "curves": {metric: _thinned(curve(run.history, metric)) for metric in metrics},
    }


def _thinned(points: Sequence[Any]) -> list[Any]:
    """Keep at most _MOST_POINTS evenly spaced points, including the last."""
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    return [*reversed(points[::-1][::every])]


def _figures(run: Run) -> dict[str, Any]:
    """Return costs, the best validation figure, and the test figures except per-class ones."""
    found: dict[str, Any] = {"seed": run.settings["seed"]} if "seed" in run.settings else {}
    found |= {name: run.figures[name] for name in _COSTS if name in run.figures}
    if not run.figures:
        found |= {"steps": int(run.history[-1]["step"]), "seconds": seconds_in_all(run.history)}
    metric, best = run.best
    found |= {} if best is None else {f"best {metric}": best}
    return found | {
        name: value for name, value in run.figures.items() if name.startswith("test/") and name.count("/") == 1
    }


def _column(figure: str) -> str:
    """Return the column of a figure; both ends of an interval share one."""
    return re.sub("_(low|high)$", _INTERVAL, figure)


def _differing(settings: list[Settings]) -> list[str]:
    """Return the keys whose values differ."""
    keys = dict.fromkeys(key for some in settings for key in some if key not in _NOT_COMPARED)
    return [key for key in keys if len({repr(some.get(key, ...)) for some in settings}) > 1]


def _group_name(runs: list[Run]) -> str:
    names = list(dict.fromkeys(re.sub(r"-seed\d+$", "", run.name) for run in runs))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _spread(figure: str, runs: list[Run]) -> str:
    """Return mean and deviation as text; for an interval, the means of its ends."""
    if figure.endswith(_INTERVAL):
        name = figure.removesuffix(_INTERVAL)
        ends = [_values(f"{name}_{end}", runs) for end in ("low", "high")]
        return " to ".join(mean_and_deviation([statistics.fmean(some)]) for some in ends if some)
    values = _values(figure, runs)
    if not values:
        return ""
    if figure == "device":
        return "; ".join(dict.fromkeys(values))
    if all(isinstance(value, int) for value in values):
        return str(values[0]) if len({*values}) == 1 else f"{min(values)} to {max(values)}"
    return mean_and_deviation(values)


def _values(figure: str, runs: list[Run]) -> list[Any]:
    return [found[figure] for run in runs if figure in (found := _figures(run))]
