"""Scratch memory, the size of pieces of work, and the memory layout of outputs."""

import math

import torch
from torch import Tensor


class Scratch:
    """Buffers for temporaries, reused from piece to piece: newly allocated memory costs a page fault per 4 KiB."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of this shape; the same name and dtype return the same memory."""
        size = math.prod(shape)
        kept = self.kept.get((name, dtype))
        if kept is None or len(kept) < size:
            self.kept[name, dtype] = kept = torch.empty(size, dtype=dtype, device=self.device)
        return kept[:size].view(shape)

    def like(self, name: str, x: Tensor) -> Tensor:
        """An uninitialised tensor of x's shape and dtype."""
        return self(name, *x.shape, dtype=x.dtype)


def at_once(device: torch.device, on_cpu: int, elsewhere: int) -> int:
    """Size of a piece of work: on a CPU what fits a core's cache; on other devices few large kernels are fastest."""
    return on_cpu if device.type == "cpu" else elsewhere


def empty_heads(like: Tensor) -> Tensor:
    """Uninitialised (b, h, n, e), laid out in memory as (b, n, h, e): merging the heads then needs no copy."""
    return like.new_empty((like.shape[0], like.shape[2], like.shape[1], like.shape[3])).transpose(1, 2)
