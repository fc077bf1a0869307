"""Dropout that is fast on a CPU, and attention dropout for mechanisms that never compute single weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.derivatives import traced

_LEVELS = 2**16  # four elements share a draw of 64 bits


def check_dropout(dropout: float) -> None:
    """Raise ValueError unless ``dropout`` is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")


def drop(x: Tensor, probability: float) -> Tensor:
    """Zero each element of x with this probability and divide the others by 1 - probability.

    On a CPU, PyTorch's own dropout draws a random number per element, which takes a fifth of the training time of a
    Transformer. Here one draw decides four elements, so the probability is rounded to a multiple of 2^-16; the kept
    elements are divided by the rounded probability of keeping them.
    """
    kept_levels = round((1 - probability) * _LEVELS)
    if x.device.type != "cpu" or kept_levels in (0, _LEVELS) or traced():
        return F.dropout(x, probability)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = (draws[: x.numel()] < kept_levels - _LEVELS // 2).view(x.shape)
    return x * kept.to(x.dtype).mul_(_LEVELS / kept_levels)


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` by :func:`drop`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x in training; in evaluation, return x."""
        return drop(x, self.p) if self.training and self.p > 0 else x


def drop_values(v: Tensor, probability: float) -> Tensor:
    """Drop whole values: v (b, h, n, e) -> the same shape, each token's value zeroed or divided by 1 - probability.

    A dropped value is dropped for all queries of its head.
    """
    if probability == 0:
        return v
    return v * drop(torch.ones_like(v[..., :1]), probability)
