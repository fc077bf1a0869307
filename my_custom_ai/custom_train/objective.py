"""What the engine asks of an experiment."""

from typing import Any, Protocol

from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio


class Objective(Protocol):
    """One experiment's loss and metrics.

    An objective may also have a method ``derived``: from the means of all metrics, by name, to further figures that are
    functions of them, such as a perplexity; it gives these alone.
    """

    def measure(self, model: nn.Module, batch: Any) -> dict[str, Ratio]:
        """Run the model on a batch.

        Returns at least ``"loss"``, a sum over whatever it is averaged over (tokens, examples) and their count. The
        other names are metrics. Used alike for training and for evaluation. Sums and counts are added before dividing:
        in evaluation over all batches, in training over all batches of one update. It is the gradient of the loss's
        mean over these that an update follows, however they are split into batches and over processes.

        A metric's total and count may also be vectors of an entry for each example of the batch, (b,) both: they are
        added up, and an evaluation can tell how far the metric would move with other examples; never the loss's.

        In training every batch must return the same names in the same order; processes add up their values by place.
        """
        ...


def measured(objective: Objective, model: nn.Module, batch: Any) -> dict[str, Ratio]:
    """What the objective returns for a batch, after a look at it.

    Raises:
        ValueError: it is no dictionary of ratios of single numbers, or has no "loss".
    """
    ratios: Any = objective.measure(model, batch)  # one's own may return anything
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
    """Whether it has a total and a count for each example."""
    parts: tuple[Any, ...] = (ratio.total, ratio.count)
    return all(isinstance(part, Tensor) and part.ndim == 1 for part in parts) and len(parts[0]) == len(parts[1])


def _a(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def all_figures(objective: Objective, means: dict[str, float]) -> dict[str, float]:
    """The means, and what the objective derives from them."""
    return means | objective.derived(means) if hasattr(objective, "derived") else means
