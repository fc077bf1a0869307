"""What follows a computation besides autograd: torch.func, torch.export, derivatives of derivatives.

Which of them need another form of a function, and an error where a second derivative would be wrong.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Gradients = tuple[Tensor | None, ...]


def transformed() -> bool:
    """Whether torch.func (grad, vmap, jvp, ...) or forward-mode differentiation follows what is computed.

    Both need to see each operation. A function with a backward of its own, which recomputes what forward did not keep,
    then takes another form that leaves it to PyTorch and saves no memory.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def exporting() -> bool:
    """Whether torch.export makes a graph of what is computed.

    As ``torch.compiler.is_exporting()``, which torch.compile of torch 2.11 takes for True, though nothing is exported.
    """
    return torch.compiler._is_exporting_flag


def traced() -> bool:
    """:func:`transformed`, or under torch.compile, whose partitioner chooses what to keep and what to compute again."""
    return torch.compiler.is_compiling() or transformed()


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
            "be differentiated (create_graph=True); torch.func.grad has them, with FullAttention only under "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
