"""Masks of causal attention."""

import torch
from torch import Tensor


def causal_mask(n: int, device: torch.device) -> Tensor:
    """(n, n), True where key j stands at or before query i."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def newest_see(new: int, length: int, device: torch.device, *, itself: bool = True) -> Tensor:
    """(new, length), True where the key is earlier than the query, or the query's own if ``itself``.

    The queries are the newest of ``length`` tokens.
    """
    last_seen = length - new - (not itself)
    return torch.ones(new, length, dtype=torch.bool, device=device).tril(last_seen)
