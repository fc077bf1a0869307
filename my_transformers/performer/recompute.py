"""Recomputing features in backward instead of saving them; used by bidirectional.py and causal.py."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LogFeatures = Callable[[Tensor], Tensor]
"""A function (..., d) -> (..., f) that returns log phi(x), with f features per vector."""


def hide_padding(log_k: Tensor, mask: Tensor | None) -> Tensor:
    """Set the log features of keys (b, h, m, f) so low that the features are 0, where the mask (b, m) is False."""
    return log_k if mask is None else log_k.masked_fill(~mask[:, None, :, None], torch.finfo(log_k.dtype).min)


def with_graph(log_phi: LogFeatures, x: Tensor) -> tuple[Tensor, Tensor]:
    """For use in backward: x as a leaf, and its log features, with an autograd graph between them."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return x, log_phi(x)


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``backward(ctx, saved, grad)`` that recomputes features.

    Forward computes them without autocast, but backward may be called under autocast, in a replay by a reversible
    stack.
    """

    @functools.wraps(backward)
    def exactly(ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, saved, grad)

    return exactly
