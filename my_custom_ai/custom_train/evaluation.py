"""An objective's metrics over all examples, and a try on two of them before a training begins."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from my_custom_ai.custom_train.data import evaluation_batches, to_device
from my_custom_ai.custom_train.objective import Objective, all_figures, measured
from my_custom_ai.custom_train.stopping import TrainingSignal
from my_custom_ai.utils.meters import Meter
from my_custom_ai.utils.seeding import generator_states, set_generator_states


@torch.no_grad()
def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Any],
    accelerator: Accelerator,
    signal: TrainingSignal | None = None,
) -> dict[str, float]:
    """Each of the objective's metrics over all batches; sums and counts are added before dividing, and over processes.

    With what the objective derives from them.

    Args:
        model: is put into evaluation mode meanwhile.
        objective: measures.
        batches: those of this process.
        accelerator: of all processes.
        signal: ends the evaluation after a batch.

    Raises:
        Stopped: on all processes, if the signal came to one.
        ValueError: the objective does not return what :class:`~my_custom_ai.custom_train.objective.Objective` says.
    """
    meter = _measure_all(model, objective, batches, accelerator, signal)
    if signal is not None:
        signal.stop_if_asked(accelerator, "the evaluation was not ended")
    if accelerator.num_processes == 1:
        return all_figures(objective, meter.means())
    everyones: list[dict[str, list[float]]] = gather_object([{k: v.tolist() for k, v in meter.sums().items()}])
    names = dict.fromkeys(name for sums in everyones for name in sums)
    totals = {n: [sum(sums[n][i] for sums in everyones if n in sums) for i in (0, 1)] for n in names}
    means = {name: total / count if count else math.nan for name, (total, count) in totals.items()}
    return all_figures(objective, means)


@torch.no_grad()
def metrics_of_first_examples(
    model: nn.Module, objective: Objective, data: Dataset[Any], accelerator: Accelerator
) -> dict[str, float]:
    """What :func:`evaluate` returns for two examples, on each process by itself; no random generator moves on.

    So a training can refuse, before its first update, an objective that an evaluation would stumble over hours later.

    Raises:
        ValueError: the objective does not return what :class:`~my_custom_ai.custom_train.objective.Objective` says.
    """
    states = generator_states(accelerator.device)
    first = next(iter(evaluation_batches(data, batch_size=2)))
    meter = _measure_all(model, objective, [first], accelerator)
    set_generator_states(states, accelerator.device)
    return all_figures(objective, meter.means())


def _measure_all(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Any],
    accelerator: Accelerator,
    signal: TrainingSignal | None = None,
) -> Meter:
    was_training = model.training
    model.eval()
    meter = Meter()
    for batch in batches:
        if signal is not None and signal.number is not None:
            break
        meter.add(measured(objective, model, to_device(batch, accelerator.device)))
    model.train(was_training)
    return meter
