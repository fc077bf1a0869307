"""What the engine asks of an experiment."""

from typing import Any, Protocol

from torch import nn

from my_custom_ai.utils.meters import Ratio


class Task(Protocol):
    """One experiment's loss and metrics."""

    def measure(self, model: nn.Module, batch: Any) -> dict[str, Ratio]:
        """Run the model on a batch.

        Gives at least ``"loss"``, a sum over whatever it is averaged over (tokens, examples) and their count; its mean
        is differentiated. The other names are metrics. Used alike for training and for evaluation, where sums and
        counts of all batches are added before dividing.
        """
        ...
