"""Means over many batches that weigh each token or example, not each batch, alike."""

from typing import NamedTuple

import torch
from torch import Tensor


class Ratio(NamedTuple):
    """A sum over a batch and what it is divided by: tokens for a token loss, examples for an accuracy.

    Both may be vectors, an entry an example, which are added up; see
    :class:`~my_custom_ai.custom_train.objective.Objective`.
    """

    total: Tensor
    count: Tensor | int  # type: ignore[assignment]  # tuples have a method of this name, of no use here

    @property
    def value(self) -> Tensor:
        """The batch's own mean, differentiable if total is; 0 where there was nothing to count."""
        count = self.count.sum().clamp_min(1) if isinstance(self.count, Tensor) else max(self.count, 1)
        return self.total.sum() / count


class Meter:
    """Adds up ratios by name, on their device and without waiting for it, until :meth:`means` is asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, ratios: dict[str, Ratio]) -> None:
        """Take in one batch."""
        for name, (total, count) in ratios.items():
            total = total.detach().to(_widest(total.device))
            count = count.to(total) if isinstance(count, Tensor) else total.new_full((), count)  # no copy from the host
            pair = torch.stack((total.sum(), count.sum())) if total.ndim else torch.stack((total, count))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def sums(self) -> dict[str, Tensor]:
        """Each name's (sum, count)."""
        return dict(self._sums)

    def means(self) -> dict[str, float]:
        """Each name's sum / count so far; nan where nothing was counted."""
        return {name: (total / count).item() for name, (total, count) in self._sums.items()}

    def reset(self) -> None:
        """Forget all."""
        self._sums.clear()

    def restore(self, sums: dict[str, list[float]], device: torch.device) -> None:
        """Go on from the numbers of an earlier :meth:`sums`."""
        self._sums = {name: torch.tensor(pair, dtype=_widest(device), device=device) for name, pair in sums.items()}


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs lack
