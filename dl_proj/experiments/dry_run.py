"""--dry_run: the cost of a training, measured on a few of its steps; nothing is kept."""

import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from dl_proj.experiments.experiment import Experiment, build_trainer, overview
from dl_proj.experiments.registry import EXPERIMENT_TYPES
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.tables import markdown
from my_custom_ai.custom_train import Pace, RunDirectory, Trainer, check_installed, start
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.data import length_of
from my_custom_ai.utils.measure import allocated_peak, flops_of, seconds_of, seconds_within


@dataclass(frozen=True)
class Costs:
    """The cost of one training step and of one evaluation batch, on one process.

    Args:
        flops: FLOPs of matrix products, convolutions and torch's attention, forward and backward.
        peak_bytes: memory for weights, optimizer state and one training step; None if PyTorch cannot measure it.
        seconds: duration of a step, including loading its batches.
        evaluation_seconds: duration of an evaluation batch.
    """

    flops: int
    peak_bytes: int | None
    seconds: float
    evaluation_seconds: float


def dry_run(config: ExperimentConfig) -> None:
    """Print the parts of a training and its cost; the data is read as in the training itself."""
    check_installed(config.train.trackers)
    (experiment_type,) = (one for one in EXPERIMENT_TYPES.values() if one.schema is type(config))
    experiment = experiment_type.experiment(config)
    accelerator = start(config.train.device, config.train.precision, config.train.matmul_precision)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(config, experiment, config.model.dim, RunDirectory(folder), accelerator)
        costs = measured_costs(trainer, experiment)
    if accelerator.is_main_process:
        print(f"dry run of {config.experiment_name}\n{overview(config, experiment, trainer)}\n")
        print(f"{markdown(parts_of(experiment.model))}\n")
        print(report(costs, trainer, experiment))


def measured_costs(trainer: Trainer, experiment: Experiment) -> Costs:
    """Measure the first steps of a new training."""
    device, updates = trainer.accelerator.device, trainer.updates()
    flops = flops_of(lambda: next(updates))
    try:
        peak = _bytes_kept(trainer) + allocated_peak(lambda: next(updates), device)
    except ValueError:  # not measurable on this kind of device
        peak = None
    seconds = seconds_within(lambda: next(updates), device, budget=10, least=3, most=50, patience=60)
    evaluation = seconds_of(lambda: trainer.evaluate(experiment.val_data, max_batches=1), device, calls=1, warm_up=0)
    return Costs(flops, peak, statistics.mean(seconds), evaluation[0])


def _bytes_kept(trainer: Trainer) -> int:
    """Return the size of weights, buffers and optimiser state, which persist between steps."""
    model = trainer.model
    state = (value for values in trainer.optimizer.state.values() for value in values.values())
    tensors = [*model.parameters(), *model.buffers(), *(value for value in state if isinstance(value, torch.Tensor))]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def parts_of(model: nn.Module) -> list[dict[str, object]]:
    """Return a row per part of a model that has parameters; the rows add up to the whole model.

    Equal parts of a stack's layers share a row. Parameters shared between parts count for the first of them.
    """
    counted: set[nn.Parameter] = set()
    rows: list[dict[str, object]] = []
    total = count_parameters(model)
    for name, modules in _parts(model):
        new = {p for module in modules for p in module.parameters() if p.requires_grad} - counted
        counted |= new
        n = sum(parameter.numel() for parameter in new)
        if n:
            rows.append({"part": name, "module": _title(modules), "parameters": f"{n:,}", "share": f"{n / total:.1%}"})
    return rows


def _parts(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, list[nn.Module]]]:
    """Yield a model's parts by name; equal parts of its layers are one entry with all modules, the rest comes last."""
    for name, module in model.named_children():
        if isinstance(module, nn.ModuleList):
            alike: dict[tuple[str, str], list[nn.Module]] = {}
            for layer in module:
                for part, own in layer.named_children():
                    alike.setdefault((part, repr(own)), []).append(own)
            yield from ((f"{prefix}{name}.*.{part}", modules) for (part, _), modules in alike.items())
        elif any(isinstance(child, nn.ModuleList) for child in module.children()):
            yield from _parts(module, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", [module]
    yield prefix.removesuffix(".") or "itself", [model]


def _title(modules: list[nn.Module]) -> str:
    """Return the number and class of modules; for an attention layer, the class of its mechanism."""
    first = modules[0]
    mechanism = getattr(first, "mechanism", None)
    title = type(first).__name__ if mechanism is None else type(mechanism).__name__
    return f"{len(modules)} x {title}" if len(modules) > 1 else title


def report(costs: Costs, trainer: Trainer, experiment: Experiment) -> str:
    """Return the report: one line for each cost of a step and of the whole training."""
    pace, processes = trainer.pace, trainer.accelerator.num_processes
    val, test = (_batches(pace, data, processes) for data in (experiment.val_data, experiment.test_data))
    n_evaluations = -(-pace.total_steps // pace.eval_every)
    training = pace.total_steps * costs.seconds
    evaluating = (n_evaluations * val + test) * costs.evaluation_seconds
    peak = "unknown on this device" if costs.peak_bytes is None else f"{costs.peak_bytes / 1e6:,.0f} MB"
    stops = ", unless it stops early" if trainer.monitor.patience or trainer.monitor.target is not None else ""
    lines = {
        "FLOPs": f"{costs.flops / 1e9:,.3g} billion per step (matrix products and attention, forward and backward)",
        "memory": f"{peak} at the peak of a step",
        "time": f"{costs.seconds:.3g} s per step, {costs.evaluation_seconds:.3g} s per evaluation batch",
        "training": f"{_duration(training)} for {pace.total_steps:,} steps",
        "evaluation": f"{_duration(evaluating)} for {n_evaluations:,} x {val:,} batches, and {test:,} for the test",
        "total": f"about {_duration(training + evaluating)}{stops}",
    }
    return "\n".join(f"  {name:10} {line}" for name, line in lines.items())


def _batches(pace: Pace, data: Dataset[Any], processes: int) -> int:
    """Return the number of batches per process in an evaluation."""
    n = math.ceil(length_of(data, "data") / processes / pace.eval_batch_size)
    return min(n, pace.max_eval_batches or n)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
