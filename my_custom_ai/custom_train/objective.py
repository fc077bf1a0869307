"""What the engine asks of an experiment."""

from typing import Any, Protocol

from torch import nn

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

        In training every batch must return the same names in the same order; processes add up their values by place.
        """
        ...


def all_figures(objective: Objective, means: dict[str, float]) -> dict[str, float]:
    """The means, and what the objective derives from them."""
    return means | objective.derived(means) if hasattr(objective, "derived") else means
