"""Put an experiment's parts together and run them: train, test the best weights, leave figures and a picture."""

import json
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Dataset

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.experiments.history import seconds_per_update
from dl_proj.experiments.settings import (
    ConstantConfig,
    ExperimentConfig,
    NoamConfig,
    OneCycleConfig,
    ScheduleConfig,
    WarmupCosineConfig,
)
from dl_proj.experiments.translation.sentences import PairTokenizers
from dl_proj.pictures import draw_curves
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
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.data import TrainingBatches, length_of
from my_custom_ai.custom_train.schedules import Schedule
from my_custom_ai.utils.measure import peak_since_restart, restart_peak

WITH_INTERVALS = ("accuracy", "bleu")
"""Figures of a test set that come with a bootstrap interval, where test examples are independent."""


@dataclass(frozen=True)
class Experiment:
    """What a script hands over: a model, its objective and three datasets.

    And the names of their classes, or the tokenizers of their text, if they have any.
    """

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
        config: the script's.
        experiment: what to train on what.
        dim: of the model, for the noam schedule.
        resume: the run to continue; None starts a new one.

    Returns:
        The trainer, with the best weights loaded. ``metrics.json`` and ``curves.png`` are in the run's folder.
    """
    check_installed(config.train.trackers)
    accelerator = start(config.train.device, config.train.precision, config.train.matmul_precision)
    trainer = _trainer(config, experiment, dim, resume, accelerator)
    restart_peak(accelerator.device)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; --resume last continues from the last saved state") from None
    figures = {"parameters": count_parameters(experiment.model), "steps": trainer.step} | _costs(config, trainer)
    trainer.load_best()
    figures |= {
        f"test/{name}": value
        for name, value in trainer.evaluate(experiment.test_data, intervals=WITH_INTERVALS).items()
    }
    if accelerator.is_main_process:
        trainer.run.write_figures(figures)
        draw_curves(trainer.run.metrics, trainer.run.path / "curves.png")
        print(f"{trainer.run.path}: " + ", ".join(f"{name} {_short(value)}" for name, value in figures.items()))
    return trainer


def _costs(config: ExperimentConfig, trainer: Trainer) -> dict[str, float]:
    """Seconds with evaluations, speed without, and the main process's peak memory since it was started or resumed."""
    found: dict[str, float] = {"seconds": round(trainer.seconds, 3)}
    if seconds := seconds_per_update(trainer.history):
        found["examples_per_second"] = round(trainer.examples_per_update / seconds, 3)
        if config.tokens_per_example is not None:
            found["tokens_per_second"] = round(config.tokens_per_example * trainer.examples_per_update / seconds, 1)
    peak = peak_since_restart(trainer.accelerator.device)
    return found if peak is None else found | {"peak_memory_mib": round(peak / 2**20, 1)}


def _trainer(
    config: ExperimentConfig, experiment: Experiment, dim: int, resume: RunDirectory | None, accelerator: Accelerator
) -> Trainer:
    """The engine as configured, in the folder of the run to resume or of a new one, which gets its tokenizers."""
    settings = config.train
    steps = settings.steps_of(_batches_an_epoch(config, experiment.train_data, accelerator.num_processes))
    if mistakes := config.schedule_mistakes(steps):
        raise ConfigError(*mistakes)
    run = resume or _new_run(config, accelerator.is_main_process)
    if experiment.tokenizer is not None and accelerator.is_main_process:
        for folder in (run.path, run.best):
            experiment.tokenizer.save(folder / TOKENIZER)
    return Trainer(
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
        pace=Pace(
            total_steps=steps,
            **settings.model_dump(
                include={"batch_size", "batch_tokens", "eval_batch_size", "accumulate", "clip_norm"}
                | {"eval_every", "save_every", "log_every", "num_workers", "trackers"}
            ),
        ),
        seed=config.seed,
        accelerator=accelerator,
    )


def _batches_an_epoch(config: ExperimentConfig, data: Dataset[Any], processes: int) -> int:
    """Of each process; a configuration cannot know on how many it will run."""
    bound = config.train.model_dump(include={"batch_size", "batch_tokens"})
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


def add_figures(run: RunDirectory, figures: dict[str, float]) -> None:
    """Put more figures beside those in a finished run's metrics.json."""
    run.write_figures(json.loads((run.path / "metrics.json").read_text(encoding="utf-8")) | figures)


def build_schedule(config: ScheduleConfig, steps: int, dim: int) -> Schedule:
    """The learning-rate schedule of a configuration."""
    match config:
        case ConstantConfig():
            return schedules.constant(config.warmup_steps)
        case WarmupCosineConfig():
            return schedules.warmup_cosine(steps, config.warmup_steps, config.final_factor)
        case OneCycleConfig():
            return schedules.one_cycle(steps, config.warmup_share, config.start_divisor, config.final_divisor)
        case NoamConfig():
            return schedules.noam(dim, config.warmup_steps)


def _new_run(config: ExperimentConfig, is_main_process: bool) -> RunDirectory:
    """One folder for all processes, made by the main one."""
    made: list[RunDirectory | None] = [None]
    if is_main_process:
        try:
            made = [RunDirectory.create(config.runs_dir, config.experiment_name, config.model_dump(mode="json"))]
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(f"runs_dir: no folder can be made in {config.runs_dir} ({error.strerror})") from None
    return broadcast_object_list(made)[0]


def _short(value: float) -> str:
    return f"{value:.6g}"
