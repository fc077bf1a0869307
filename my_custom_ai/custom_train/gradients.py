"""The gradient of one update: of the mean loss over several batches of all processes."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from my_custom_ai.custom_train.beginning import check_gradient
from my_custom_ai.custom_train.data import to_device
from my_custom_ai.custom_train.objective import Objective, measured
from my_custom_ai.utils.meters import Meter


def accumulate_gradients(
    batches: Iterator[Any],
    parts: int,
    *,
    accelerator: Accelerator,
    model: nn.Module,
    parameters: Sequence[torch.Tensor],
    objective: Objective,
    sums_over_processes: Callable[[Meter], dict[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Compute the gradient of the mean loss over ``parts`` batches of every process; return the sums over all of them.

    The total count is known only after the last forward pass, so the gradient is a running mean: before each backward
    pass it is rescaled to the count so far. A sum that is divided at the end could overflow in float16.

    Args:
        batches: of this process.
        parts: the number of batches.
        accelerator: coordinates the processes.
        model: the model as the accelerator prepared it.
        parameters: its parameters, whose ``grad`` is rescaled.
        objective: computes loss and metrics.
        sums_over_processes: adds up a meter's sums over the processes.
    """
    meter = Meter()
    before: torch.Tensor | float = 1.0  # divisor of the gradient so far
    sums: dict[str, torch.Tensor] = {}
    for part in range(parts):
        last = part == parts - 1
        # FSDP has no no_sync here: it would keep whole gradients, which is what it is to avoid
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            ratios = measured(objective, model, to_device(next(batches), accelerator.device))
            check_gradient(ratios["loss"].total)
            meter.add(ratios)
            sums = sums_over_processes(meter) if last else meter.sums()
            _, count = sums["loss"]
            divisor = count.clamp_min(1)
            if last:
                divisor = divisor / accelerator.num_processes  # DDP and FSDP divide the gradient by it again
            if part:
                _scale(parameters, before / divisor)
            accelerator.backward(ratios["loss"].total / divisor)
            before = divisor
    return sums


def _scale(parameters: Sequence[torch.Tensor], factor: torch.Tensor) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
