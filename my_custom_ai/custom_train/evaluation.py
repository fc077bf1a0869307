"""An objective's metrics over all examples, and a try on two of them before a training begins."""

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
    """Each of the objective's metrics over all batches; sums and counts are added before dividing, and over processes.

    With what the objective derives from them. For names in ``intervals``, if the objective measures them by example or
    derives them from such, also the ends of a 95 % bootstrap interval, ``<name>_low`` and ``<name>_high``.

    Args:
        model: is put into evaluation mode meanwhile.
        objective: measures.
        batches: those of this process.
        accelerator: of all processes.
        intervals: names of figures, as said above.
        signal: ends the evaluation after a batch.
        finite: refuse figures that are not.

    Raises:
        NonFinite: the sum of a metric is nan or infinite, if it must be ``finite``.
        Stopped: on all processes, if the signal came to one.
        ValueError: the objective does not return what :class:`~my_custom_ai.custom_train.objective.Objective` says.
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
    keep: dict[str, list[torch.Tensor]] | None = None,
    signal: TrainingSignal | None = None,
) -> Meter:
    """The sums; ``keep`` gets, by batch, the (b, 2) totals and counts of what is measured by example."""
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
