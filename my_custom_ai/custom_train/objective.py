"""The interface between the engine and an experiment."""

from typing import Any, Protocol

from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio


class Objective(Protocol):
    """The loss and metrics of an experiment.

    An objective may also have a method ``derived(means)``. It takes the means of all metrics by name, and returns a
    dictionary of further figures that are functions of them, such as a perplexity.
    """

    def measure(self, model: nn.Module, batch: Any) -> dict[str, Ratio]:
        """Run the model on a batch, in training and in evaluation.

        Returns at least ``"loss"``: its sum over the items that it is averaged over (tokens, examples), and their
        number. All other names are metrics. Totals and counts are summed before they are divided: in evaluation over
        all batches, in training over all batches of one update. An update follows the gradient of the mean loss over
        all these items, however they are split into batches and processes.

        Total and count of a metric (not of the loss) may also be vectors with one entry per example, (b,) each. They
        are summed, and allow an evaluation to compute confidence intervals.

        In training every batch must return the same names in the same order: processes sum their values by position.
        """
        ...


def measured(objective: Objective, model: nn.Module, batch: Any) -> dict[str, Ratio]:
    """Call the objective on a batch, and validate the result.

    Raises:
        ValueError: the result is not a dictionary of ratios of scalars, or has no "loss".
    """
    ratios: Any = objective.measure(model, batch)  # Any: a user's objective may return anything
    name = f"{type(objective).__name__}.measure"
    if not isinstance(ratios, dict):
        raise ValueError(f"{name} returned {_a(ratios)}, must return a dict of Ratio(total, count), one of them 'loss'")
    for key, ratio in ratios.items():
        if not isinstance(ratio, Ratio):
            raise ValueError(f"{name} returned {_a(ratio)} as {key!r}, must be a Ratio(total, count)")
        total: Any = ratio.total
        count: Any = ratio.count
        if key != "loss" and by_example(ratio):
            continue
        if not isinstance(total, Tensor) or total.ndim:
            raise ValueError(f"{name}: the total of {key!r} is {_a(total)}, must be a tensor of shape ()")
        if not isinstance(count, int | float) and (not isinstance(count, Tensor) or count.ndim):
            raise ValueError(f"{name}: the count of {key!r} is {_a(count)}, must be a number or a tensor of shape ()")
    if "loss" not in ratios:
        raise ValueError(f"{name} returned no 'loss', only {', '.join(map(repr, ratios)) or 'an empty dict'}")
    return ratios


def by_example(ratio: Ratio) -> bool:
    """Whether a ratio has one total and count per example."""
    parts: tuple[Any, ...] = (ratio.total, ratio.count)
    return all(isinstance(part, Tensor) and part.ndim == 1 for part in parts) and len(parts[0]) == len(parts[1])


def _a(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def all_figures(objective: Objective, means: dict[str, float]) -> dict[str, float]:
    """The means, and the figures that the objective derives from them."""
    return means | objective.derived(means) if hasattr(objective, "derived") else means
