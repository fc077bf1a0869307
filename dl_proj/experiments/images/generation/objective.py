"""Autoregressive images: the loss of a pixel, and bits per dim."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio


class PixelObjective:
    """Focal loss, mean over all pixels, and bits per dim: the mean of -log2 p(pixel | pixels before it, label).

    The loss of a pixel of level v with probability p is -weights[v] (1 - p)^gamma ln p (Lin et al. 2017, equation 5).

    Args:
        gamma: 0 for cross-entropy.
        weights: (vocab_size,), one a level; None weighs all alike.
    """

    def __init__(self, gamma: float = 0.0, weights: Tensor | None = None) -> None:
        self.gamma = gamma
        self.weights = weights

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Ratio]:
        """Batch of images (b, 1, side, side) and labels (b,), see Objective."""
        images, labels = batch
        pixels = images.flatten(1).long()
        logits = model(pixels[:, :-1], labels=labels)
        log_p = -F.cross_entropy(logits.float().transpose(1, 2), pixels, reduction="none")
        bits = -log_p.detach().sum() / math.log(2)
        loss = -log_p
        if self.gamma:
            loss = (1 - log_p.exp()).clamp_min(1e-6) ** self.gamma * loss  # a root's gradient at 0 is infinite
        if self.weights is not None:
            self.weights = self.weights.to(loss.device)  # moves once
            loss = self.weights[pixels] * loss
        return {"loss": Ratio(loss.sum(), pixels.numel()), "bits_per_dim": Ratio(bits, pixels.numel())}


def frequency_weights(levels: Tensor, vocab_size: int, power: float) -> Tensor:
    """Weights of pixel levels, c^-power for a level that occurs c times, with mean 1 over the given pixels.

    Args:
        levels: (...) integers in [0, vocab_size).
        vocab_size: levels; one that never occurs is taken to occur once.
        power: 0 gives 1 for all.

    Returns:
        (vocab_size,) float32.
    """
    counts = torch.bincount(levels.flatten().long(), minlength=vocab_size).double()
    weights = counts.clamp_min(1) ** -power
    return (weights * counts.sum() / (weights * counts).sum()).float()
