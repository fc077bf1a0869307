"""compare_runs.py: one HTML page that compares runs by the files they left; nothing is evaluated again."""

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
_INTERVAL = ", 95 %"  # at the end of a column's name
_MOST_POINTS = 400  # of a curve; a page is half as wide


@dataclass(frozen=True)
class Run:
    """What a run's folder says.

    Args:
        path: the folder.
        settings: its configuration, at dotted keys.
        figures: its metrics.json; empty where the training has not ended.
        history: its metrics.csv; empty for a shipped checkpoint.
    """

    path: Path
    settings: Settings
    figures: dict[str, Any] = field(default_factory=dict)
    history: Rows = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.settings.get("experiment_name", self.path.name))

    @property
    def table(self) -> str:
        """Its task, or the part of it whose figures mean the same."""
        return str(self.settings.get("data.task", self.settings["task"]))

    @property
    def variant(self) -> tuple[tuple[str, str], ...]:
        """What it has in common with runs that repeat it with other seeds."""
        return tuple((key, repr(value)) for key, value in sorted(self.settings.items()) if key not in _NOT_COMPARED)

    @property
    def best(self) -> tuple[str, float | None]:
        """The metric that chose its best weights, and the best value."""
        metric = str(self.settings.get("train.monitor.metric", "val/loss"))
        values = [point.value for point in curve(self.history, metric)]
        choose = max if self.settings.get("train.monitor.mode") == "max" else min
        return metric, choose(values, default=None)


def compare_runs(config: CompareRunsConfig, folders: Sequence[str]) -> None:
    """Read the runs and write the page; a run that cannot be read is named there and on stderr.

    Raises:
        ConfigError: a folder is not there, or there is no run at all.
    """
    runs, left_out = [], []
    for path in _find(folders or ["runs"]):
        try:
            runs.append(_read(path))
        except (ConfigError, OSError, ValueError) as error:
            left_out += [f"{path}: {str(error).removeprefix(f'{path}: ')}"]
    if not runs:
        raise ConfigError(*left_out or [f"{' '.join(folders) or 'runs'}: there is no run in it (with a config.yaml)"])
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.table, []).append(run)
    data = {
        "about": f"{len(runs)} runs. Bold: those that differ in their seed alone, as mean ± standard deviation.",
        "left_out": left_out,
        "tasks": [_task(name, some, config.output.parent) for name, some in tasks.items()],
    }
    template = resources.files("dl_proj.experiments").joinpath("compare_runs.html").read_text(encoding="utf-8")
    # a name may hold "</script>"
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    write_text(config.output, template.replace("/*DATA*/", text, 1))
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"written: {config.output}, which compares {len(runs)} runs of {', '.join(tasks)}")


def _find(folders: Iterable[str]) -> list[Path]:
    """The folders of runs; of those that hold weights and settings within a run, the run's alone."""
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
    """version_10 comes after version_9."""
    return [(word, int(number or 0)) for word, number in re.findall(r"([^0-9]+)([0-9]*)", str(path))]


def _read(path: Path) -> Run:
    """A run from its files.

    Raises:
        ConfigError, OSError, ValueError: one of them is missing or damaged.
    """
    settings = flat(read_yaml(path / "config.yaml"))
    if not isinstance(settings.get("task"), str):
        raise ConfigError(f"{path / 'config.yaml'}: names no task, so this is no run of a training")
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
    """Numbers, and the device's name; a page cannot show others."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not the figures of a training")
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}
    return numbers | ({"device": found["device"]} if isinstance(found.get("device"), str) else {})


def _task(name: str, runs: list[Run], page: Path) -> dict[str, Any]:
    """What the page shows of a task's runs."""
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
            *(["its own settings"] if own else []),
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
    """The cells of one table row: means over the finished runs of a group, or over all of them if none is finished."""
    settings = runs[0].settings
    ended = [run for run in runs if run.figures] or runs
    found = [_shown(settings[key]) for key in common]
    found += [_spread(figure, ended) for figure in figures]
    if own:
        words = ((key, settings.get(key)) for key in own)
        short = (f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in words if value is not None)
        found.append(", ".join(short))
    return found


def _cells_of_one(run: Run, common: list[str], figures: list[str], own: list[str]) -> list[str]:
    """The cells of a single run of a group, whose settings are in the group's own row."""
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
    """As many as can be seen, the last among them."""
    every = math.ceil(len(points) / _MOST_POINTS) or 1
    return [*reversed(points[::-1][::every])]


def _figures(run: Run) -> dict[str, Any]:
    """Costs, the best figure of validation, and those of the test but for single classes'."""
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
    """Both ends of an interval stand in one."""
    return re.sub("_(low|high)$", _INTERVAL, figure)


def _differing(settings: list[Settings]) -> list[str]:
    """Keys that are not the same everywhere."""
    keys = dict.fromkeys(key for some in settings for key in some if key not in _NOT_COMPARED)
    return [key for key in keys if len({repr(some.get(key, ...)) for some in settings}) > 1]


def _group_name(runs: list[Run]) -> str:
    names = list(dict.fromkeys(re.sub(r"-seed\d+$", "", run.name) for run in runs))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _spread(figure: str, runs: list[Run]) -> str:
    """Mean and deviation; of an interval the means of its ends."""
    if figure.endswith(_INTERVAL):
        name = figure.removesuffix(_INTERVAL)
        ends = [_values(f"{name}_{end}", runs) for end in ("low", "high")]
        return " to ".join(mean_and_deviation([statistics.fmean(some)]) for some in ends if some)
    there = _values(figure, runs)
    if not there:
        return ""
    if figure == "device":
        return "; ".join(dict.fromkeys(there))
    if all(isinstance(value, int) for value in there):
        return str(there[0]) if len({*there}) == 1 else f"{min(there)} to {max(there)}"
    return mean_and_deviation(there)


def _values(figure: str, runs: list[Run]) -> list[Any]:
    return [found[figure] for run in runs if figure in (found := _figures(run))]
