"""sweep.py: train variants of a configuration one after the other, and compare them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from matplotlib.figure import Figure

from dl_proj.cli import CONFIGS
from dl_proj.experiments.registry import ExperimentType, experiment_type
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.experiments.sweep_settings import Settings, SweepConfig, nested
from dl_proj.pictures import save_figure
from dl_proj.run_changes import other_settings
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import file_or_preset, load_config, merge, read_yaml
from dl_proj.tables import csv_text, markdown
from my_custom_ai.custom_train import NonFiniteLoss, RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors
from my_custom_ai.utils.files import write_text


@dataclass(frozen=True)
class Variant:
    """One training of a sweep.

    Args:
        name: and that of its folder.
        changes: the settings by which it differs.
        config: its configuration.
        run: what an earlier call began; None: nothing.
    """

    name: str
    changes: Settings
    config: ExperimentConfig
    run: RunDirectory | None

    @property
    def finished(self) -> RunDirectory | None:
        """Its run, if all is trained and written."""
        return self.run if self.run is not None and _mark(self.run).is_file() else None


def _mark(run: RunDirectory) -> Path:
    """A file that is there once nothing is left to do; metrics.json comes before pictures."""
    return run.path / "finished"


def sweep(config: SweepConfig) -> None:
    """Train what is not yet trained, of all variants or of those in ``only``; then compare all that are.

    Raises:
        ConfigError: before anything is trained, with the mistakes of all variants.
        NonFiniteLoss: of a variant, after the others were trained.
    """
    of_type = _type(config)
    variants = _variants(config, of_type)
    failed = []
    for variant in variants:
        if variant.finished is not None or (config.only and variant.name not in config.only):
            continue
        try:
            of_type.train(variant.config, variant.run)
            if PartialState().is_main_process:
                trained = RunDirectory.newest(config.output_dir, variant.name)
                assert trained is not None  # the one that has just ended
                write_text(_mark(trained), "")
        except NonFiniteLoss as error:
            failed.append(f"{variant.name}: {error}")
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command continues the sweep") from None
    if PartialState().is_main_process:
        _compare(config, _variants(config, of_type))
    if failed:
        raise NonFiniteLoss("; ".join(failed))


def _type(config: SweepConfig) -> ExperimentType[Any]:
    task = merge(read_yaml(_base(config)), nested(config.common)).get("task")
    return experiment_type(task, config.base, hint="; common may give it")


def _base(config: SweepConfig) -> Path:
    """The training's file."""
    return file_or_preset(config.base, CONFIGS)


def _variants(config: SweepConfig, of_type: ExperimentType[Any]) -> list[Variant]:
    """All of them, checked."""
    found: list[Variant] = []
    mistakes: list[str] = []
    for name, changes in config.all_variants.items():
        own = {"runs_dir": str(config.output_dir), "experiment_name": name}
        overrides = merge(nested(config.common), nested(changes)) | own
        try:
            trained = load_config(of_type.schema, _base(config), overrides, origin=f"variant {name}")
        except ConfigError as error:
            mistakes += error.lines
            continue
        run = RunDirectory.newest(config.output_dir, name)
        mistakes += _does_not_fit(trained, run, config)
        found.append(Variant(name, changes, trained, run))
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes))
    return found


def _does_not_fit(trained: ExperimentConfig, run: RunDirectory | None, config: SweepConfig) -> list[str]:
    if config.metric not in trained.metrics:
        return [f"metric {config.metric!r} is unknown, must be {' or '.join(trained.metrics)}"]
    changed = [] if run is None else other_settings(run, trained)
    return [f"{line}; take another output_dir, or remove that run" for line in changed]


def _compare(config: SweepConfig, variants: list[Variant]) -> None:
    """sweep.csv, sweep.png and a printed table of the variants that are trained."""
    done = [(variant, run) for variant in variants if (run := variant.finished) is not None]
    settings = list(dict.fromkeys(key for variant, _ in done for key in _leaves(variant.changes)))
    rows = [_row(variant, run, settings) for variant, run in done]
    if rows:
        table, picture = config.output_dir / "sweep.csv", config.output_dir / "sweep.png"
        print(markdown([{k.replace("/", " ", 1): v for k, v in row.items() if k not in settings} for row in rows]))
        write_text(table, csv_text(rows))
        _draw({variant.name: _history(run, config.metric) for variant, run in done}, config.metric, picture)
        print(f"written: {table}, {picture}")
    if left := [variant.name for variant in variants if variant.finished is None]:
        print(f"not trained yet: {', '.join(left)}")


def _row(variant: Variant, run: RunDirectory, settings: list[str]) -> dict[str, object]:
    """What it changes of those settings, what it cost, its best validation figures and those of the test."""
    own = _leaves(variant.changes)
    changes = {key: own.get(key) for key in settings}
    figures = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
    cost = {name: figures.pop(name) for name in ("parameters", "seconds", "steps")}
    return {"variant": variant.name} | changes | cost | _best(run) | figures


def _leaves(settings: Settings) -> dict[str, object]:
    """With the dotted keys of single values."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        found |= _leaves({f"{key}.{k}": v for k, v in value.items()}) if isinstance(value, dict) else {key: value}
    return found


def _best(run: RunDirectory) -> dict[str, float]:
    """The validation figures of the best weights, and their step."""
    _, note = load_tensors(run.best_weights)
    return {"best step": note.pop("step")} | note


def _history(run: RunDirectory, metric: str) -> list[tuple[int, float]]:
    with run.metrics.open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]


def _draw(curves: dict[str, list[tuple[int, float]]], metric: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.add_subplot()
    for name, points in curves.items():
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    panel.set(xlabel="step", ylabel=metric)
    panel.grid(alpha=0.3)
    panel.legend()
    save_figure(figure, path)
