"""What both forms of kernel attention share: log features that backward computes again instead of keeping them."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LogFeatures = Callable[[Tensor], Tensor]
"""A function (..., d) -> (..., f) that returns log phi(x), f features of each vector."""


def hide_padding(log_k: Tensor, mask: Tensor | None) -> Tensor:
    """Log features of keys (b, h, m, f), so low where the mask (b, m) is False that the features are 0."""
    return log_k if mask is None else log_k.masked_fill(~mask[:, None, :, None], torch.finfo(log_k.dtype).min)


def with_graph(log_phi: LogFeatures, x: Tensor) -> tuple[Tensor, Tensor]:
    """In backward: x as a leaf, and its log features, from which torch.autograd.grad leads back to it."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return x, log_phi(x)


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a ``backward(ctx, saved, grad)`` that computes features again.

    Forward runs without autocast; backward may run under it, where a reversible stack replays a layer.
    """

    @functools.wraps(backward)
    def exactly(ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, saved, grad)

    return exactly
