"""sweep.py: train variants of a configuration, in sequence or in parallel, and compare them."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from dl_proj.experiments.base_file import base_file, base_task
from dl_proj.experiments.registry import EXPERIMENT_TYPES
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.experiments.sweep_jobs import run_side_by_side
from dl_proj.experiments.sweep_report import Trained, write_report
from dl_proj.experiments.sweep_settings import Settings, SweepConfig, Trial, nested
from dl_proj.run_changes import other_settings
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config, merge
from dl_proj.tables import markdown
from my_custom_ai.custom_train import NonFiniteLoss, RunDirectory
from my_custom_ai.custom_train.running import locked
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.signals import restated


@dataclass(frozen=True)
class Training:
    """A trial with all that is needed to train it.

    Args:
        trial: the variant and seed.
        task: a key of EXPERIMENT_TYPES.
        config: the training's configuration.
        run: the run that an earlier call began, if any.
    """

    trial: Trial
    task: str
    config: ExperimentConfig
    run: RunDirectory | None

    @property
    def folder(self) -> Path:
        """The folder of its runs."""
        return self.config.runs_dir / self.trial.run_name

    @property
    def finished(self) -> RunDirectory | None:
        """Its run, if it is complete."""
        return self.run if self.run is not None and _mark(self.run).is_file() else None


def _mark(run: RunDirectory) -> Path:
    """Return the path of a file that marks a run as complete; metrics.json is written before the pictures."""
    return run.path / "finished"


def sweep(config: SweepConfig) -> None:
    """Train the variants, or those in ``only``, that are not yet trained; then compare all that are.

    Raises:
        ConfigError: the mistakes of all variants, before anything is trained.
        NonFiniteLoss: a variant diverged; raised after the others were trained.
    """
    processes = PartialState().num_processes
    if config.jobs > 1 and processes > 1:
        raise ConfigError(f"jobs: {config.jobs} with {processes} processes of torchrun; use jobs 1, or no torchrun")
    _trainings(config)  # reports mistakes before anything is written
    exclusive = not config.only and PartialState().is_main_process  # with "only", processes divide the runs
    with locked(config.output_dir) if exclusive else contextlib.nullcontext():
        failed = _train_and_compare(config)
    if failed:
        raise NonFiniteLoss("; ".join(failed))


def _train_and_compare(config: SweepConfig) -> list[str]:
    """Train and compare; returns a line for each training that failed."""
    waiting = {
        one.trial.run_name: one
        for one in _trainings(config)
        if one.finished is None and (not config.only or {one.trial.variant, one.trial.run_name} & {*config.only})
    }
    try:
        failed = _train_side_by_side(waiting, config) if config.jobs > 1 else _train_in_turn(waiting)
    except KeyboardInterrupt as error:
        # the cause does not name the command that resumes only the interrupted run
        reason = str(error.__cause__ or error) or "interrupted"
        raise restated(error, f"{reason}; the same command continues the sweep") from None
    if PartialState().is_main_process:
        _compare(config, _trainings(config))
    return failed


def _train_in_turn(waiting: dict[str, Training]) -> list[str]:
    """Train all in this process; returns a line for each that failed."""
    failed = []
    for name, training in waiting.items():
        try:
            _train(training)
        except NonFiniteLoss as error:
            failed.append(f"{name}: {error.__cause__ or error}, and remove {training.folder}")
    return failed


def _train_side_by_side(waiting: dict[str, Training], config: SweepConfig) -> list[str]:
    failed = []
    ends = run_side_by_side(_train, waiting, config.jobs, lambda name: config.output_dir / name / "log.txt")
    for number, (name, error) in enumerate(ends, start=1):
        print(f"{number} of {len(waiting)}: {name}: {error or 'trained'}", flush=True)
        failed += [f"{name}: {error}"] if error else []
    return failed


def _train(training: Training) -> None:
    EXPERIMENT_TYPES[training.task].train(training.config, training.run)
    if PartialState().is_main_process:
        trained = RunDirectory.newest(training.config.runs_dir, training.trial.run_name)
        assert trained is not None  # the run that has just ended
        write_text(_mark(trained), "")


def _trainings(config: SweepConfig) -> list[Training]:
    """Return all trainings, with validated configurations."""
    task, base = base_task(config.base, config.common), base_file(config.base)
    found: list[Training] = []
    mistakes: list[str] = []
    for trial in config.trials:
        own: Settings = {"runs_dir": str(config.output_dir), "experiment_name": trial.run_name}
        own |= {} if trial.seed is None else {"seed": trial.seed}
        overrides = merge(nested(config.common), nested(trial.changes)) | own
        try:
            trained = load_config(EXPERIMENT_TYPES[task].schema, base, overrides, origin=f"variant {trial.variant}")
        except ConfigError as error:
            mistakes += error.lines
            continue
        run = RunDirectory.newest(config.output_dir, trial.run_name)
        mistakes += _conflicts(trained, run, config)
        found.append(Training(trial, task, trained, run))
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes))
    return found


def _conflicts(trained: ExperimentConfig, run: RunDirectory | None, config: SweepConfig) -> list[str]:
    if config.metric is not None and config.metric not in trained.metrics:
        return [f"metric {config.metric!r} is unknown, must be {' or '.join(trained.metrics)}"]
    changed = [] if run is None else other_settings(run, trained)
    return [f"{line}; use another output_dir, or remove that run" for line in changed]


def _compare(config: SweepConfig, trainings: list[Training]) -> None:
    """Write tables and pictures of the finished trainings."""
    done = [Trained(one.trial, run) for one in trainings if (run := one.finished) is not None]
    if done:
        trained = trainings[0].config
        metric = config.metric or trained.train.monitor.metric
        write_report(done, metric, config.output_dir, mode=trained.metrics[metric])
        _print_published([one.config for one in trainings])
    if left := [one.trial.run_name for one in trainings if one.finished is None]:
        print(f"not trained yet: {', '.join(left)}")


def _print_published(configs: list[ExperimentConfig]) -> None:
    """Print the figures that papers report for these trainings, if any."""
    rows = [row for config in configs for row in config.published]
    if rows:
        print(f"\n{markdown([row for number, row in enumerate(rows) if row not in rows[:number]])}")
