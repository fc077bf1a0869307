"""Assemble an experiment and run it: train, test the best weights, write figures and curves."""

import contextlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Dataset

from dl_proj.checkpoint_folder import CLASSES, TOKENIZER
from dl_proj.experiments.data_record import check_record, write_record
from dl_proj.experiments.going_on import saying_how_to_go_on
from dl_proj.experiments.history import read_history, seconds_per_update
from dl_proj.experiments.settings import (
    ConstantConfig,
    ExperimentConfig,
    NoamConfig,
    OneCycleConfig,
    ScheduleConfig,
    WarmupCosineConfig,
    WarmupLinearConfig,
)
from dl_proj.experiments.starting_weights import load_starting_weights
from dl_proj.experiments.translation.sentences import PairTokenizers
from dl_proj.pictures import draw_curves
from dl_proj.run_changes import changes_of
from dl_proj.settings.errors import ConfigError
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train import (
    Monitor,
    Objective,
    Pace,
    RunDirectory,
    Trainer,
    build_optimizer,
    check_installed,
    schedules,
    start,
)
from my_custom_ai.custom_train.checkpoint import count_parameters, load_note
from my_custom_ai.custom_train.data import TrainingBatches, length_of
from my_custom_ai.custom_train.running import locked
from my_custom_ai.custom_train.schedules import Schedule
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import device_title, machine, peak_since_restart, restart_peak
from my_custom_ai.utils.trackers import MetricsFile

WITH_INTERVALS = ("accuracy", "bleu")
"""Test metrics that get a bootstrap interval, if the test examples are independent."""


@dataclass(frozen=True)
class Experiment:
    """What a script assembles: a model, its objective, three datasets, and class names or tokenizers, if any."""

    model: nn.Module
    objective: Objective
    train_data: Dataset[Any]
    val_data: Dataset[Any]
    test_data: Dataset[Any]
    classes: tuple[str, ...] = ()
    tokenizer: Tokenizer | PairTokenizers | None = None


def train_and_test(config: ExperimentConfig, experiment: Experiment, dim: int, resume: RunDirectory | None) -> Trainer:
    """Train as configured, then measure the best weights on the test data, once.

    Args:
        config: the training's configuration.
        experiment: the model, objective and data.
        dim: the model's width, for the noam schedule.
        resume: the run to continue; None starts a new one.

    Returns:
        The trainer, with the best weights loaded. ``metrics.json`` and ``curves.png`` are in the run's folder.
    """
    check_installed(config.train.trackers)
    pace = config.train
    accelerator = start(pace.device, pace.precision, pace.matmul_precision, wait_minutes=pace.wait_minutes)
    with contextlib.ExitStack() as lock:
        if resume is not None and accelerator.is_main_process:
            lock.enter_context(locked(resume.path))
        trainer = build_trainer(config, experiment, dim, resume, accelerator)
        if resume is None and accelerator.is_main_process:
            lock.enter_context(locked(trainer.run.path))
        if accelerator.is_main_process:
            write_record(experiment, trainer.run)
        _train_and_test(config, experiment, trainer)
    return trainer


def _train_and_test(config: ExperimentConfig, experiment: Experiment, trainer: Trainer) -> None:
    accelerator = trainer.accelerator

    def announce() -> None:
        if accelerator.is_main_process:
            if not trainer.run.metrics.exists():
                MetricsFile(trainer.run.metrics).write()  # recreate a removed history, even if no update is left
            print(f"{trainer.run.path}{_resumed(trainer)}\n{overview(config, experiment, trainer)}", flush=True)

    restart_peak(accelerator.device)
    with saying_how_to_go_on(config, trainer):
        trainer.fit(begin=announce)
        _test(config, experiment, trainer)


def _resumed(trainer: Trainer) -> str:
    """Return where a run continues, and what another number of processes changes."""
    now, before = trainer.accelerator.num_processes, trainer.shares
    step = f", resumed after step {trainer.step:,}" if trainer.step else ""
    if now == before:
        return step
    return f"{step} on {now} process(es), begun on {before}: the same batches in each update, other random numbers"


def _test(config: ExperimentConfig, experiment: Experiment, trainer: Trainer) -> None:
    """Measure the best weights on the test data; write figures and curves into the run's folder."""
    accelerator = trainer.accelerator
    if trainer.monitor.why_stopped and trainer.step < trainer.pace.total_steps and accelerator.is_main_process:
        print(f"stopped after step {trainer.step} of {trainer.pace.total_steps}: {trainer.monitor.why_stopped}")
    trainer.load_best()
    figures: dict[str, Any] = {"parameters": count_parameters(experiment.model), "steps": trainer.step} | _costs(
        config, experiment, trainer
    )
    title = f"{config.experiment_name}: test"
    test_figures = trainer.evaluate(experiment.test_data, title=title, intervals=WITH_INTERVALS)
    figures |= {f"test/{name}": value for name, value in test_figures.items()}
    if accelerator.is_main_process:
        print(f"{trainer.run.path}: " + ", ".join(f"{name} {_short(value)}" for name, value in figures.items()))
        trainer.run.write_figures(figures)
        draw_curves(trainer.run.metrics, trainer.run.path / "curves.png")


def _costs(config: ExperimentConfig, experiment: Experiment, trainer: Trainer) -> dict[str, Any]:
    """Return time, speed, peak memory and device.

    Time includes evaluations, speed does not. Memory is the main process's peak since the last start or resumption,
    and the device is the one used since then.
    """
    accelerator = trainer.accelerator
    found: dict[str, Any] = {"seconds": round(trainer.seconds, 3)}
    if seconds := seconds_per_update(read_history(trainer.run.metrics)):
        examples = _examples_per_update(config, experiment.train_data, trainer.shares)
        found["examples_per_second"] = round(examples / seconds, 3)
        if config.tokens_per_example is not None:
            found["tokens_per_second"] = round(config.tokens_per_example * examples / seconds, 1)
    peak = peak_since_restart(accelerator.device)
    found |= {} if peak is None else {"peak_memory_mib": round(peak / 2**20, 1)}
    return found | {"device": device_title(accelerator.device, accelerator.num_processes)}


def _examples_per_update(config: ExperimentConfig, data: Dataset[Any], processes: int) -> float:
    """Return the examples per update of all processes; an average if batches are bounded by tokens."""
    size = config.train.model_dump().get("batch_size")
    batch = size * processes if size else length_of(data, "training data") / _batches_per_epoch(config, data, processes)
    return config.train.accumulate * float(batch)


def build_trainer(
    config: ExperimentConfig, experiment: Experiment, dim: int, resume: RunDirectory | None, accelerator: Accelerator
) -> Trainer:
    """Build the configured trainer, in the folder of the run to resume or in a new one."""
    settings = config.train
    shares = _shares(resume) or accelerator.num_processes
    steps = settings.steps_of(_batches_per_epoch(config, experiment.train_data, shares))
    if mistakes := config.schedule_mistakes(steps):
        raise ConfigError(*mistakes)
    _check_not_done(config, steps, resume)
    if resume is not None:
        check_record(experiment, resume)
    if config.init_from is not None and _done(resume) is None:
        _start_from(config, experiment, accelerator.is_main_process)
    run = resume or _new_run(config, accelerator.is_main_process)
    if accelerator.is_main_process:
        for folder in (run.path, run.best):
            _keep_names(experiment, folder)
    trainer = Trainer(
        experiment.model,
        experiment.objective,
        build_optimizer(
            experiment.model,
            config.optimizer.name,
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
        ),
        schedule=build_schedule(config.schedule, steps, dim),
        train_data=experiment.train_data,
        val_data=experiment.val_data,
        run=run,
        monitor=Monitor(**settings.monitor.model_dump()),
        pace=Pace(total_steps=steps, **settings.model_dump(include={field.name for field in fields(Pace)})),
        seed=config.seed,
        parallel=settings.parallel,
        accelerator=accelerator,
    )
    if resume is not None and accelerator.is_main_process:
        _keep_changes(config, resume)
    return trainer


def _done(run: RunDirectory | None) -> int | None:
    """Return the number of updates done according to a run's saved state; None: it has none."""
    return None if run is None or not run.last_state.is_file() else load_note(run.last_state).get("step")


def _shares(run: RunDirectory | None) -> int | None:
    """Return the number of processes on which a run began, which defines its updates; None: it has no saved state."""
    return None if run is None or not run.last_state.is_file() else load_note(run.last_state).get("processes")


def _check_not_done(config: ExperimentConfig, steps: int, run: RunDirectory | None) -> None:
    done = _done(run)
    if done is not None and done > steps:
        key = "epochs" if config.train.max_steps is None else "max_steps"
        value = getattr(config.train, key)
        raise ConfigError(f"train.{key}: {value} would end after {steps} updates, but the run has already done {done}")


def _start_from(config: ExperimentConfig, experiment: Experiment, is_main_process: bool) -> None:
    found = load_starting_weights(config, experiment.model)
    if is_main_process:
        print(f"weights of {config.init_from}" + ("" if not found else ", except:"), *found, sep="\n  ")


def _keep_changes(config: ExperimentConfig, run: RunDirectory) -> None:
    """Record in the run's config.yaml what changes from now on, and print it."""
    if run.config.is_file() and (changes := changes_of(run, config)):  # a dry run has no file
        step = _done(run) or 0
        run.change_config(config.model_dump(mode="json"), step, {c.key: [c.old, c.new] for c in changes})
        print(f"{run.path}, changed after step {step}: {', '.join(map(str, changes))}")


def _keep_names(experiment: Experiment, folder: Path) -> None:
    """Save tokenizers and class names beside the weights, so that the model can be used without its training data."""
    if experiment.tokenizer is not None:
        experiment.tokenizer.save(folder / TOKENIZER)
    if experiment.classes:
        write_text(folder / CLASSES, json.dumps(experiment.classes) + "\n")


def _batches_per_epoch(config: ExperimentConfig, data: Dataset[Any], processes: int) -> int:
    """Return the batches per epoch and process; the number of processes is unknown when settings are validated."""
    bound = config.train.model_dump(include={"batch_size", "batch_tokens", "similar_sizes"})
    length = length_of(data, "training data")
    wanted = bound.get("batch_size", 0) * processes
    if wanted > length:
        raise ConfigError(
            f"train.batch_size: {bound['batch_size']} on each of {processes} processes is more than the "
            f"{length} training examples"
        )
    try:
        return len(TrainingBatches(data, **bound, seed=config.seed, world_size=processes))
    except ValueError as error:
        raise ConfigError(f"train.batch_tokens: {error}") from None


def overview(config: ExperimentConfig, experiment: Experiment, trainer: Trainer) -> str:
    """Return a summary of the training: a line each for device, model, data and length."""
    pace, accelerator = trainer.pace, trainer.accelerator
    bits = {"no": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast"}[config.train.precision]
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    processes += " (fsdp)" if processes and config.train.parallel == "fsdp" else ""
    train, val, test = (
        f"{length_of(data, 'data'):,}" for data in (experiment.train_data, experiment.val_data, experiment.test_data)
    )
    batch = f"{pace.batch_size} examples" if pace.batch_size else f"{pace.batch_tokens:,} tokens"
    parts = f"{pace.accumulate} batches of {batch}" if pace.accumulate > 1 else batch
    lines = {
        "device": f"{accelerator.device.type} ({machine(accelerator.device)['device']}), {bits}{processes}",
        "model": f"{type(experiment.model).__name__} with {config.model.attention_title} attention, "
        f"{count_parameters(experiment.model):,} parameters",
        "data": f"{train} training, {val} validation and {test} test examples",
        "training": f"{pace.total_steps:,} steps of {parts}, evaluated every {pace.eval_every:,}",
    }
    return "\n".join(f"  {name:9} {line}" for name, line in lines.items())


def add_figures(run: RunDirectory, figures: dict[str, float]) -> None:
    """Add figures to a finished run's metrics.json."""
    run.write_figures(run.figures() | figures)


def build_schedule(config: ScheduleConfig, steps: int, dim: int) -> Schedule:
    """Build the learning-rate schedule of a configuration."""
    match config:
        case ConstantConfig():
            return schedules.constant(config.warmup_steps)
        case WarmupCosineConfig():
            return schedules.warmup_cosine(steps, config.warmup_steps, config.final_factor)
        case WarmupLinearConfig():
            return schedules.warmup_linear(steps, config.warmup_steps, config.final_factor)
        case OneCycleConfig():
            return schedules.one_cycle(steps, config.warmup_share, config.start_divisor, config.final_divisor)
        case NoamConfig():
            return schedules.noam(dim, config.warmup_steps)


def _new_run(config: ExperimentConfig, is_main_process: bool) -> RunDirectory:
    """Create a run's folder in the main process, and return it in all processes."""
    created: list[RunDirectory | None] = [None]
    if is_main_process:
        try:
            created = [RunDirectory.create(config.runs_dir, config.experiment_name, config.model_dump(mode="json"))]
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(f"runs_dir: cannot create a folder in {config.runs_dir} ({error.strerror})") from None
    return broadcast_object_list(created)[0]


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
