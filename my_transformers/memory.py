"""Memory that computations work in."""

import math

import torch
from torch import Tensor


class Scratch:
    """Memory for temporaries, reused from piece to piece: fresh memory costs a page fault every 4 KiB."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of this shape, not cleared; the same memory again for the same name and dtype."""
        size = math.prod(shape)
        kept = self.kept.get((name, dtype))
        if kept is None or len(kept) < size:
            self.kept[name, dtype] = kept = torch.empty(size, dtype=dtype, device=self.device)
        return kept[:size].view(shape)

    def like(self, name: str, x: Tensor) -> Tensor:
        """Memory of another tensor's shape and dtype."""
        return self(name, *x.shape, dtype=x.dtype)


def at_once(device: torch.device, on_cpu: int, elsewhere: int) -> int:
    """How much to work on at once: on a CPU what stays in a core's cache; elsewhere few large kernels are best."""
    return on_cpu if device.type == "cpu" else elsewhere


def empty_heads(like: Tensor) -> Tensor:
    """Empty (b, h, n, e) whose heads lie side by side, as in (b, n, h * e): no copy is needed to merge them."""
    return like.new_empty((like.shape[0], like.shape[2], like.shape[1], like.shape[3])).transpose(1, 2)
