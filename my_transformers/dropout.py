"""Dropout in attention: of weights where there are single ones, else of whole values."""

import torch
from torch import Tensor, nn


def check_dropout(dropout: float) -> None:
    """Raise ValueError for what is no probability."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")


def drop_values(v: Tensor, probability: float) -> Tensor:
    """Dropout of whole values: v (b, h, n, e) -> the same, each token's value zero or divided by 1 - probability.

    For mechanisms that never hold single weights. A value is dropped for all queries of a head at once.
    """
    if probability == 0:
        return v
    return v * nn.functional.dropout(torch.ones_like(v[..., :1]), probability)
