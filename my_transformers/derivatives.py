"""Backward functions whose results cannot be differentiated once more, and say so."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def first_derivatives_only(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorator of a ``backward(ctx, saved_tensors, *gradients)``: differentiating its results raises a RuntimeError.

    ``torch.autograd.function.once_differentiable`` takes the results for constants where the incoming gradient is one,
    as that of a sum is, although they depend on the saved tensors: second derivatives would be wrong without a word.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *gradients: Tensor) -> Gradients:
        saved = ctx.saved_tensors  # asked for once: torch.utils.checkpoint allows no more
        with torch.no_grad():
            found = backward(ctx, saved, *gradients)
        inputs = [x for x in (*saved, *gradients) if x is not None and x.requires_grad]
        if not torch.is_grad_enabled() or not inputs:
            return found
        return tuple(None if x is None else _Once.apply(x, *inputs) for x in found)

    return guarded


class _Once(torch.autograd.Function):
    """A gradient that depends on ``inputs`` in a way that is not known here."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            "second derivatives are not supported here: this backward recomputes what forward did not keep, and cannot "
            "be differentiated (create_graph=True); FullAttention in an EncoderStack has them under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
