"""Detect torch.func, torch.export and torch.compile, and refuse second derivatives that would be wrong.

A function with a hand-written backward needs another form under some of these.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Gradients = tuple[Tensor | None, ...]


def transformed() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) or forward-mode differentiation is active.

    Both must trace every operation. A function whose own backward recomputes what forward did not keep must then use
    plain operations, which PyTorch differentiates; that saves no memory.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def exporting() -> bool:
    """Whether torch.export is tracing.

    ``torch.compiler.is_exporting()`` cannot be used: under torch.compile, torch 2.11 evaluates it to True.
    """
    return torch.compiler._is_exporting_flag


def traced() -> bool:
    """:func:`transformed`, or under torch.compile, whose partitioner itself chooses what to recompute in backward."""
    return torch.compiler.is_compiling() or transformed()


def first_derivatives_only(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate a ``backward(ctx, saved_tensors, *gradients)`` so that differentiating its results raises RuntimeError.

    ``torch.autograd.function.once_differentiable`` is not enough. If the incoming gradient does not require grad (that
    of a sum is constant), it returns the results as constants, although they depend on the saved tensors: second
    derivatives would silently miss that part.
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *gradients: Tensor) -> Gradients:
        saved = ctx.saved_tensors  # read only once: torch.utils.checkpoint allows no second access
        with torch.no_grad():
            found = backward(ctx, saved, *gradients)
        inputs = [x for x in (*saved, *gradients) if x is not None and x.requires_grad]
        if not torch.is_grad_enabled() or not inputs:
            return found
        return tuple(None if x is None else _NotDifferentiable.apply(x, *inputs) for x in found)

    return guarded


class _NotDifferentiable(torch.autograd.Function):
    """Identity that marks ``gradient`` as depending on ``inputs``, and raises when that is differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            "second derivatives are not supported here: this backward recomputes what forward did not keep, and cannot "
            "itself be differentiated (create_graph=True); nested torch.func.grad can compute them, for FullAttention "
            "only under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
