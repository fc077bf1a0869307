"""Attention dropout for mechanisms that never compute single weights: whole values are dropped instead."""

import torch
from torch import Tensor, nn


def check_dropout(dropout: float) -> None:
    """Raise ValueError unless ``dropout`` is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")


def drop_values(v: Tensor, probability: float) -> Tensor:
    """Drop whole values: v (b, h, n, e) -> the same shape, each token's value zeroed or divided by 1 - probability.

    A dropped value is dropped for all queries of its head.
    """
    if probability == 0:
        return v
    return v * nn.functional.dropout(torch.ones_like(v[..., :1]), probability)
