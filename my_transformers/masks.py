"""Masks: of padding, as they are given, and of causal attention."""

import torch
from torch import Tensor

HIDDEN = -1e38
"""A score of no weight in float32 and bfloat16, far enough from infinity to be added to another."""


def boolean_mask(mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """The mask of ``tokens`` as every mechanism uses it: boolean, (batch, length), True where a token is real.

    A mask of integers, as tokenizers return it, is True where it is not 0. That they are 0 and 1 is not checked: a GPU
    would have to finish its work first.

    Args:
        mask: boolean or integers, (batch, length), or (1, length) for all samples; None: all are real.
        tokens: (batch, ..., length, any).

    Raises:
        ValueError: a mask of another shape, or of floating-point numbers.
    """
    if mask is None:
        return None
    batch, length = tokens.shape[0], tokens.shape[-2]
    fits = mask.dim() == 2 and mask.shape[1] == length and (mask.shape[0] == batch or mask.shape[0] == 1)
    if not fits or mask.is_floating_point() or mask.is_complex():
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, must be boolean or integer, of shape "
            f"({batch}, {length}) or (1, {length}), True or 1 where a token is real"
        )
    return (mask if mask.dtype == torch.bool else mask != 0).expand(batch, -1)


def causal_mask(n: int, device: torch.device) -> Tensor:
    """(n, n), True where key j stands at or before query i."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def newest_see(new: int, length: int, device: torch.device, *, itself: bool = True) -> Tensor:
    """(new, length), True where the key is earlier than the query, or the query's own if ``itself``.

    The queries are the newest of ``length`` tokens.
    """
    last_seen = length - new - (not itself)
    return torch.ones(new, length, dtype=torch.bool, device=device).tril(last_seen)


def fused_mask(visible: Tensor, q: Tensor) -> Tensor:
    """``visible`` (..., n, m), True where a query sees a key, as ``F.scaled_dot_product_attention`` must get it.

    For queries ``q`` in bfloat16 on a GPU, PyTorch may take cuDNN, and then adds -65504 to the scores of hidden keys
    (``convert_boolean_attn_mask_cudnn``): they would weigh something where the visible ones score lower still. Given as
    numbers, ``HIDDEN`` hides a key from any score. In float16, which has no such number, the limit of 65504 stays.
    """
    if q.device.type != "cuda":
        return visible
    there = q.device.type
    dtype = torch.get_autocast_dtype(there) if torch.is_autocast_enabled(there) else q.dtype
    if dtype != torch.bfloat16:
        return visible
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, HIDDEN)
