"""The objective of autoregressive images: the loss of a pixel, and bits per dim."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio


class PixelObjective:
    """Focal loss, averaged over all pixels, and bits per dim: the mean of -log2 p(pixel | earlier pixels, label).

    The loss of a pixel of level v with probability p is -weights[v] (1 - p)^gamma ln p (Lin et al. 2017, equation 5).

    Args:
        gamma: 0 for cross-entropy.
        weights: (vocab_size,), a weight per level; None: equal weights.
    """

    def __init__(self, gamma: float = 0.0, weights: Tensor | None = None) -> None:
        self.gamma = gamma
        self.weights = weights

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Ratio]:
        """Measure a batch of images (b, 1, side, side) and labels (b,); see Objective."""
        images, labels = batch
        pixels = images.flatten(1).long()
        logits = model(pixels[:, :-1], labels=labels)
        log_p = -F.cross_entropy(logits.float().transpose(1, 2), pixels, reduction="none")
        bits = -log_p.detach().sum() / math.log(2)
        loss = -log_p
        if self.gamma:
            loss = (1 - log_p.exp()).clamp_min(1e-6) ** self.gamma * loss  # if gamma < 1, infinite gradient at 0
        if self.weights is not None:
            self.weights = self.weights.to(loss.device)  # copies on the first call only
            loss = self.weights[pixels] * loss
        return {"loss": Ratio(loss.sum(), pixels.numel()), "bits_per_dim": Ratio(bits, pixels.numel())}


def count_levels(images: Iterable[Tensor], vocab_size: int) -> Tensor:
    """Return how often each level occurs: (vocab_size,) int64.

    Args:
        images: each (...) integers in [0, vocab_size).
        vocab_size: number of levels.
    """
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for levels in images:
        counts += torch.bincount(levels.flatten().long(), minlength=vocab_size)
    return counts


def frequency_weights(counts: Tensor, power: float) -> Tensor:
    """Return weights proportional to c^-power for a level that occurs c times, with mean 1 over all these pixels.

    Args:
        counts: (vocab_size,) from :func:`count_levels`; a level that never occurs is counted once.
        power: with 0, all weights are 1.

    Returns:
        (vocab_size,) float32.
    """
    counts = counts.double()
    weights = counts.clamp_min(1) ** -power
    return (weights * counts.sum() / (weights * counts).sum()).float()
