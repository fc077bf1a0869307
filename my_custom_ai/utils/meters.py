"""Means over many batches in which each token or example, not each batch, has the same weight."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ratio(NamedTuple):
    """A sum over a batch and its divisor: the number of tokens for a token loss, of examples for an accuracy.

    Both may be vectors with one entry per example, which are summed; see
    :class:`~my_custom_ai.custom_train.objective.Objective`.
    """

    total: Tensor
    count: Tensor | int  # type: ignore[assignment]  # hides tuple.count, which is not needed here

    @property
    def value(self) -> Tensor:
        """The batch's mean, differentiable if ``total`` is; 0 if the count is 0."""
        count = self.count.sum().clamp_min(1) if isinstance(self.count, Tensor) else max(self.count, 1)
        return self.total.sum() / count


class Meter:
    """Accumulates ratios by name on their device; the host waits for the device only in :meth:`means`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, ratios: dict[str, Ratio]) -> None:
        """Add one batch."""
        for name, (total, count) in ratios.items():
            total = total.detach().to(_widest(total.device))
            count = count.to(total) if isinstance(count, Tensor) else total.new_full((), count)  # avoids a host copy
            pair = torch.stack((total.sum(), count.sum())) if total.ndim else torch.stack((total, count))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def sums(self) -> dict[str, Tensor]:
        """Each name's (sum, count)."""
        return dict(self._sums)

    def means(self) -> dict[str, float]:
        """Each name's sum / count so far; nan if the count is 0."""
        return {name: (total / count).item() for name, (total, count) in self._sums.items()}

    def reset(self) -> None:
        """Clear all sums."""
        self._sums.clear()

    def restore(self, sums: dict[str, list[float]], device: torch.device) -> None:
        """Restore the sums from the numbers of an earlier :meth:`sums`."""
        self._sums = {name: torch.tensor(pair, dtype=_widest(device), device=device) for name, pair in sums.items()}


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
