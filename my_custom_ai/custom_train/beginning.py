"""Before training: check the arguments, and create the run folder."""

from pathlib import Path
from typing import Any, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Dataset

from my_custom_ai.custom_train.data import length_of
from my_custom_ai.custom_train.names import Parallel
from my_custom_ai.custom_train.objective import Objective
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.schedules import Schedule
from my_custom_ai.custom_train.sharding import shard


def check_arguments(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    val_data: Dataset[Any],
    schedule: Schedule | None,
) -> None:
    """Raise ValueError for arguments that would fail only later, or silently train nothing."""
    if not callable(getattr(objective, "measure", None)):
        raise ValueError(f"objective: {type(objective).__name__} has no method measure(model, batch)")
    parameters = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in parameters for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer: it has none of the model's parameters")
    if schedule is not None and not callable(schedule):
        raise ValueError(
            f"schedule: a {type(schedule).__name__} is not a function from the step to a factor of the learning rate; "
            "see my_custom_ai.schedules"
        )
    if not length_of(val_data, "validation data"):
        raise ValueError("validation data: it is empty, so the best weights cannot be chosen")


def check_gradient(loss: torch.Tensor) -> None:
    """Raise ValueError for a loss without a gradient."""
    if not loss.requires_grad:
        raise ValueError(
            "the loss has no gradient: it was detached, computed under no_grad, or depends on no parameter"
        )


def prepared(
    model: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, parallel: Parallel
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Move model and optimizer to the device, under autocast, and connect them with those of the other processes.

    Raises:
        ValueError: unknown ``parallel``, or a precision or optimizer that "fsdp" cannot do.
    """
    if parallel not in get_args(Parallel):
        raise ValueError(f"parallel is {parallel!r}, must be one of {', '.join(get_args(Parallel))}")
    if parallel == "ddp" or accelerator.num_processes == 1:
        return accelerator.prepare(model, optimizer)
    if accelerator.scaler:
        raise ValueError("parallel 'fsdp' does not scale losses, which precision 'fp16' needs; use 'bf16' or 'no'")
    # "evaluation mode" is autocast without DistributedDataParallel; the model is moved to the device unit by unit
    model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    shard(model, optimizer, accelerator.device)
    return model, accelerator.prepare_optimizer(optimizer)


def new_run(experiment: Path, settings: dict[str, Any], accelerator: Accelerator) -> RunDirectory:
    """Create one new run folder for all processes; the main one creates it."""
    if (experiment / "config.yaml").is_file():
        raise ValueError(
            f"run: {experiment} is the folder of an existing run; pass RunDirectory({str(experiment)!r}) to resume it, "
            f"or {str(experiment.parent)!r} for a new run beside it"
        )
    made: list[RunDirectory | None] = [None]
    if accelerator.is_main_process:
        made = [RunDirectory.create(experiment.parent, experiment.name, settings)]
    return broadcast_object_list(made)[0]
