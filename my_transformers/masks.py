"""Padding masks and causal masks."""

import torch
from torch import Tensor

HIDDEN = -1e38
"""Score of a hidden key: its weight is 0 in float32 and bfloat16, and adding another score cannot overflow."""


def boolean_mask(mask: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Return the mask of ``tokens`` in the form that every mechanism uses: boolean, (batch, length), True where real.

    An integer mask, as tokenizers return it, counts as True where it is not 0. That its values are 0 and 1 is not
    checked, since the check would make the host wait for the GPU.

    Args:
        mask: boolean or integer, (batch, length), or (1, length) for all samples; None: all tokens are real.
        tokens: (batch, ..., length, any).

    Raises:
        ValueError: the mask has another shape, or a floating-point dtype.
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
    """(n, n), True where key j is at or before query i."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def causal_mask_of_newest(new: int, length: int, device: torch.device, *, itself: bool = True) -> Tensor:
    """The last ``new`` rows of a causal mask of ``length`` tokens: (new, length), True where a query sees a key.

    ``itself=False`` hides the query's own key.
    """
    last_seen = length - new - (not itself)
    return torch.ones(new, length, dtype=torch.bool, device=device).tril(last_seen)


def fused_mask(visible: Tensor, q: Tensor) -> Tensor:
    """Convert ``visible`` (..., n, m), True where a query sees a key, for ``F.scaled_dot_product_attention``.

    For bfloat16 queries ``q`` on a GPU, PyTorch may choose cuDNN, which turns a boolean mask into -65504 added to the
    scores of hidden keys (``convert_boolean_attn_mask_cudnn``). A hidden key would then get weight where all visible
    scores are lower still. An additive mask of ``HIDDEN`` rules that out. float16 cannot represent ``HIDDEN``, so there
    scores must stay above -65504.
    """
    if q.device.type != "cuda":
        return visible
    device = q.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    if dtype != torch.bfloat16:
        return visible
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, HIDDEN)
