"""What the engine asks of an experiment."""

from typing import Any, Protocol

from torch import nn

from my_custom_ai.utils.meters import Ratio


class Task(Protocol):
    """One experiment's loss and metrics.

    A task may also have a method ``derived``: from the means of all metrics, by name, to further figures that are
    functions of them, such as a perplexity; it gives these alone.
    """

    def measure(self, model: nn.Module, batch: Any) -> dict[str, Ratio]:
        """Run the model on a batch.

        Gives at least ``"loss"``, a sum over whatever it is averaged over (tokens, examples) and their count; its mean
        is differentiated. The other names are metrics. Used alike for training and for evaluation, where sums and
        counts of all batches are added before dividing.
        """
        ...


def all_figures(task: Task, means: dict[str, float]) -> dict[str, float]:
    """The means, and what the task derives from them."""
    return means | task.derived(means) if hasattr(task, "derived") else means
