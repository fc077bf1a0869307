"""Evaluation: an objective's metrics over all examples, and a trial on two examples before training."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from my_custom_ai.custom_train.data import evaluation_batches, to_device
from my_custom_ai.custom_train.errors import NonFinite
from my_custom_ai.custom_train.objective import Objective, all_figures, by_example, measured
from my_custom_ai.custom_train.stopping import TrainingSignal
from my_custom_ai.utils.bootstrap import bootstrap_intervals
from my_custom_ai.utils.meters import Meter
from my_custom_ai.utils.seeding import generator_states, set_generator_states


@torch.no_grad()
def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Any],
    accelerator: Accelerator,
    *,
    intervals: Collection[str] = (),
    signal: TrainingSignal | None = None,
    finite: bool = False,
) -> dict[str, float]:
    """The objective's metrics, and what it derives from them, over all batches of all processes.

    Totals and counts are summed over batches and processes before they are divided. For each name in ``intervals`` that
    the objective measures per example, or derives from such metrics, the ends of a 95 % bootstrap interval are added as
    ``<name>_low`` and ``<name>_high``.

    Args:
        model: the model; it is in evaluation mode during the call.
        objective: computes the metrics.
        batches: batches of this process.
        accelerator: coordinates the processes.
        intervals: names of figures to compute intervals for.
        signal: ends the evaluation after the current batch.
        finite: raise an error for figures that are not finite.

    Raises:
        NonFinite: ``finite``, and the total of a metric is nan or infinite.
        Stopped: on all processes, if a signal reached any.
        ValueError: the objective's result does not follow :class:`~my_custom_ai.custom_train.objective.Objective`.
    """
    kept: dict[str, list[torch.Tensor]] = {}
    meter = _measure_all(model, objective, batches, accelerator, kept if intervals else None, signal)
    if signal is not None:
        signal.stop_if_asked(accelerator, "the evaluation was not ended")
    sums = {name: pair.tolist() for name, pair in meter.sums().items()}
    examples = {name: torch.cat(parts).cpu().double().numpy() for name, parts in kept.items()}
    if accelerator.num_processes > 1:
        sums, examples = _of_all_processes(sums, examples)
    if finite and (broken := [name for name, (total, _) in sums.items() if not math.isfinite(total)]):
        raise NonFinite.given_by_model(" and ".join(broken))
    means = {name: total / count if count else math.nan for name, (total, count) in sums.items()}
    figures = all_figures(objective, means)
    return figures | _intervals(objective, means, examples, [name for name in intervals if name in figures])


def _of_all_processes(
    sums: dict[str, list[float]], examples: dict[str, np.ndarray]
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    everyones: list[tuple[dict[str, list[float]], dict[str, np.ndarray]]] = gather_object([(sums, examples)])
    names = dict.fromkeys(name for one, _ in everyones for name in one)
    totals = {name: [sum(one[name][i] for one, _ in everyones if name in one) for i in (0, 1)] for name in names}
    kept = dict.fromkeys(name for _, one in everyones for name in one)
    return totals, {name: np.concatenate([one[name] for _, one in everyones if name in one]) for name in kept}


def _intervals(
    objective: Objective, means: dict[str, float], examples: dict[str, np.ndarray], names: Collection[str]
) -> dict[str, float]:
    derived = set(names) - means.keys()
    wanted = [name for name in names if name in examples or name in derived]
    if not examples or not wanted:
        return {}
    found = bootstrap_intervals(
        examples, lambda drawn: {name: all_figures(objective, means | drawn)[name] for name in wanted}
    )
    return {f"{name}_{end}": value for name in wanted for end, value in zip(("low", "high"), found[name], strict=True)}


@torch.no_grad()
def metrics_of_first_examples(
    model: nn.Module, objective: Objective, data: Dataset[Any], accelerator: Accelerator
) -> dict[str, float]:
    """:func:`evaluate` on two examples, in each process by itself, without advancing any random generator.

    It lets a training fail before its first update, rather than hours later in its first evaluation.

    Raises:
        ValueError: the objective's result does not follow :class:`~my_custom_ai.custom_train.objective.Objective`.
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
    keep: dict[str, list[torch.Tensor]] | None = None,
    signal: TrainingSignal | None = None,
) -> Meter:
    """The summed metrics; per-example totals and counts (b, 2) of each batch are appended to ``keep``."""
    was_training = model.training
    model.eval()
    meter = Meter()
    for batch in batches:
        if signal is not None and signal.number is not None:
            break
        ratios = measured(objective, model, to_device(batch, accelerator.device))
        meter.add(ratios)
        for name, ratio in ratios.items() if keep is not None else ():
            if by_example(ratio):
                assert keep is not None and isinstance(ratio.count, torch.Tensor)
                keep.setdefault(name, []).append(torch.stack((ratio.total, ratio.count.to(ratio.total)), 1))
    model.train(was_training)
    return meter
