"""sweep.py: train variants of a configuration, in sequence or in parallel, and compare them."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from dl_proj.experiments.base_file import base_file, base_task
from dl_proj.experiments.registry import EXPERIMENT_TYPES
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.experiments.sweep_jobs import End, run_side_by_side
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

    @property
    def failure(self) -> Path:
        """File that says why the training failed, until it is trained again."""
        return self.folder / "failed.txt"

    @property
    def failed(self) -> str:
        """Why it failed in an earlier call; empty if it did not."""
        return self.failure.read_text(encoding="utf-8").strip() if self.failure.is_file() else ""


def _mark(run: RunDirectory) -> Path:
    """Return the path of a file that marks a run as complete; metrics.json is written before the pictures."""
    return run.path / "finished"


def sweep(config: SweepConfig) -> None:
    """Train the variants, or those in ``only``, that are not yet trained; then compare all that are.

    Raises:
        ConfigError: the mistakes of all variants, before anything is trained.
        NonFiniteLoss: trainings failed, most likely diverged; raised after the others were trained.
    """
    processes = PartialState().num_processes
    if processes > 1 and (config.jobs > 1 or config.executor != "local"):
        key, value, allowed = ("jobs", config.jobs, 1) if config.jobs > 1 else ("executor", config.executor, "local")
        raise ConfigError(f"{key}: {value} with {processes} processes of torchrun; use {key} {allowed}, or no torchrun")
    _check_executor(config.executor)
    _trainings(config)  # reports mistakes before anything is written
    exclusive = not config.only and PartialState().is_main_process  # with "only", processes divide the runs
    with locked(config.output_dir) if exclusive else contextlib.nullcontext():
        failed = _train_and_compare(config)
    if failed:
        raise NonFiniteLoss("; ".join(failed))


def _check_executor(executor: str) -> None:
    """Refuse an executor that this machine lacks."""
    package = {"slurm": "submitit", "ray": "ray"}.get(executor)
    if package is not None and importlib.util.find_spec(package) is None:
        extra = f"pip install '.[{executor}]' in the project's folder"
        raise ConfigError(f"executor: {executor} needs {package}, which is not installed; {extra}")
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("executor: slurm needs sbatch, which is not on PATH; call it where jobs are submitted")


def _train_and_compare(config: SweepConfig) -> list[str]:
    """Train and compare; returns a line for each training that failed."""
    waiting = {
        one.trial.run_name: one
        for one in _trainings(config)
        if one.finished is None and (not config.only or {one.trial.variant, one.trial.run_name} & {*config.only})
    }
    again = "failed in an earlier call, --retry true continues it"
    failed = [f"{name}: {again}: {one.failed}" for name, one in waiting.items() if one.failed and not config.retry]
    waiting = {name: one for name, one in waiting.items() if config.retry or not one.failed}
    try:
        failed += [*_failures(waiting, config)]
    except KeyboardInterrupt as error:
        # the cause does not name the command that resumes only the interrupted run
        reason = str(error.__cause__ or error) or "interrupted"
        raise restated(error, f"{reason}; the same command continues the sweep") from None
    if PartialState().is_main_process:
        _compare(config, _trainings(config))
    return failed


def _failures(waiting: dict[str, Training], config: SweepConfig) -> Iterator[str]:
    """Train all; yields a line for each that failed, after noting it for later calls."""
    in_turn = config.executor == "local" and config.jobs == 1
    for number, end in enumerate(_train_in_turn(waiting) if in_turn else _train_elsewhere(waiting, config), start=1):
        if not in_turn:
            print(f"{number} of {len(waiting)}: {end.name}: {end.error or 'trained'}", flush=True)
        if end.failed and PartialState().is_main_process:
            write_text(waiting[end.name].failure, f"{end.error}\n")
        if end.failed:
            yield f"{end.name}: {end.error}"


def _train_in_turn(waiting: dict[str, Training]) -> Iterator[End]:
    """Train all in this process."""
    for name, training in waiting.items():
        try:
            _train(training)
        except NonFiniteLoss as error:
            yield End(name, f"{error.__cause__ or error}, and remove {training.folder}", failed=True)


def _train_elsewhere(waiting: dict[str, Training], config: SweepConfig) -> Iterator[End]:
    """Train all in other processes, here or on a cluster."""
    folder = config.output_dir.absolute()  # as others see it

    def log_of(name: str) -> Path:
        return config.output_dir / name / "log.txt"

    if config.executor == "slurm":
        from dl_proj.experiments.sweep_slurm import run_on_slurm  # needs submitit

        return run_on_slurm(_train, waiting, config.slurm, folder / "slurm", log_of, retry=config.retry)
    if config.executor == "ray":
        from dl_proj.experiments.sweep_ray import run_on_ray  # needs Ray

        return run_on_ray(_train, waiting, config.ray, log_of)
    return run_side_by_side(_train, waiting, config.jobs, log_of)


def _train(training: Training) -> None:
    """Train to the end, from the last saved state if there is one."""
    run = training.run
    if PartialState().num_processes == 1:  # a job may begin again; several processes must see the same
        run = RunDirectory.newest(training.config.runs_dir, training.trial.run_name)
        if run is not None and _mark(run).is_file():
            return
    if PartialState().is_main_process:
        training.failure.unlink(missing_ok=True)
    EXPERIMENT_TYPES[training.task].train(training.config, run)
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
