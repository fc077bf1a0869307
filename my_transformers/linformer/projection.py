"""Projections of a sequence to fewer tokens, for Linformer (Wang et al. 2020, section 4)."""

import abc
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.derivatives import exporting

Start = Literal["noise", "identity"]
"""What a learned projection is before it has learned."""


class LengthProjection(nn.Module, abc.ABC):
    """From up to max_len tokens to ``rank`` of them (the paper's n to k).

    Keys, values and layers share parameters where they are given the same module.

    Args:
        max_len: tokens at most; shorter inputs use the first columns of the projection.
        rank: tokens that come out.

    Raises:
        ValueError: rank is not in [1, max_len].
    """

    heads: int | None = None
    """that it was made for; None: any"""
    head_dim: int | None = None
    """likewise"""
    commutes = False
    """Every number of a token is treated alike, and linearly, so linear maps of tokens may come before or after."""
    weighs_tokens = True
    """Each output is a sum of tokens, each times a number."""

    def __init__(self, max_len: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= max_len:
            raise ValueError(f"rank is {rank}, must be in [1, max_len], and max_len is {max_len}")
        self.max_len = max_len
        self.rank = rank

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"max_len={self.max_len}, rank={self.rank}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """X (b, h, n, d), mask (b, n) True where a token is real -> (b, h, rank, d), and (b, rank) True where real.

        The second is None if all are.

        Raises:
            ValueError: more than max_len tokens, or other heads than it was made for.
        """
        if x.shape[2] > self.max_len:
            raise ValueError(f"{x.shape[2]} tokens, but the projection was made for max_len={self.max_len}")
        if self.heads not in (None, x.shape[1]) or self.head_dim not in (None, x.shape[3]):
            raise ValueError(
                f"{x.shape[1]} heads of {x.shape[3]} numbers, but the projection was made for heads={self.heads}, "
                f"head_dim={self.head_dim}"
            )
        return self.project(x, mask)

    @abc.abstractmethod
    def project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As :meth:`forward`, for n <= max_len."""


class LearnedProjection(LengthProjection):
    """The paper's E x: a learned matrix (rank, max_len) for all heads, or one for each.

    Args:
        max_len: tokens at most.
        rank: tokens that come out.
        heads: number of matrices, one per head; None: one for all.
        start: "noise" of variance 1 / max_len, which makes each projected token a mixture of all, as large as one
            token; or "identity", repeated: token j goes to projected token j mod rank. That keeps the first ``rank``
            tokens separate from the start, which a small model of short sequences may take long to learn.

    Raises:
        ValueError: another start.
    """

    def __init__(self, max_len: int, rank: int, *, heads: int | None = None, start: Start = "noise") -> None:
        super().__init__(max_len, rank)
        if start not in get_args(Start):
            raise ValueError(f"start is {start!r}, must be one of {', '.join(get_args(Start))}")
        if start == "noise":
            first = torch.randn(heads or 1, rank, max_len) * max_len**-0.5
        else:
            first = torch.eye(rank).repeat(heads or 1, 1, math.ceil(max_len / rank))[:, :, :max_len]
        self.weight = nn.Parameter(first.contiguous())
        self.heads, self.commutes = heads, heads is None

    def project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`LengthProjection.forward`; every output is real, since each mixes all tokens."""
        if mask is not None:
            x = x.masked_fill(~mask[:, None, :, None], 0)
        batch, heads, n, dim = x.shape
        # exported, a slice's strides would make the full length a case of its own
        columns = torch.arange(n, device=x.device) if exporting() else slice(n)
        weight = self.weight[:, :, columns].to(x.dtype)
        if len(weight) > 1:
            return weight @ x, None
        # one matrix for all heads: side by side, as they come from their linear map, they make one larger product
        beside = x.transpose(1, 2).reshape(batch, n, heads * dim)
        return torch.bmm(weight.expand(batch, -1, -1), beside).unflatten(-1, (heads, dim)).transpose(1, 2), None


class _WindowProjection(LengthProjection):
    """Each output comes from a window of ceil(max_len / rank) tokens; it is real if one of these is.

    Raises:
        ValueError: so many windows are more than max_len tokens fill.
    """

    def __init__(self, max_len: int, rank: int) -> None:
        super().__init__(max_len, rank)
        self.window = math.ceil(max_len / rank)
        filled = math.ceil(max_len / self.window)
        if filled < rank:
            raise ValueError(
                f"rank is {rank}, but max_len {max_len} fills only {filled} windows of {self.window} tokens"
            )

    def project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See :meth:`LengthProjection.forward`."""
        n = x.shape[2]
        mask = torch.ones(1, n, dtype=torch.bool, device=x.device) if mask is None else mask
        missing = self.rank * self.window - n
        windows = F.pad(x, (0, 0, 0, missing)).unflatten(2, (self.rank, self.window))
        real = F.pad(mask, (0, missing)).unflatten(1, (self.rank, self.window))
        return self.reduce(windows, real[:, None, :, :, None]), real.any(-1).expand(x.shape[0], -1)

    @abc.abstractmethod
    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """Windows (b, h, rank, window, d), real (b or 1, 1, rank, window, 1) bool -> (b, h, rank, d)."""


class MeanProjection(_WindowProjection):
    """The mean of each window's real tokens; no parameters."""

    commutes = True

    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """See the base class."""
        return windows.masked_fill(~real, 0).sum(3) / real.sum(3).clamp_min(1)


class MaxProjection(_WindowProjection):
    """Each number's maximum over a window's real tokens; no parameters."""

    weighs_tokens = False

    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """See the base class."""
        largest = windows.masked_fill(~real, torch.finfo(windows.dtype).min).amax(3)
        return largest.masked_fill(~real.any(3), 0)


class ConvolutionProjection(_WindowProjection):
    """A convolution over the length whose kernel and stride are a window: one for all heads, or one for each.

    Args:
        max_len: tokens at most.
        rank: tokens that come out.
        head_dim: of the tokens; a kernel has window * head_dim^2 weights.
        heads: number of kernels, one per head; None: one for all.
    """

    weighs_tokens = False  # but multiplies each by a matrix

    def __init__(self, max_len: int, rank: int, *, head_dim: int, heads: int | None = None) -> None:
        super().__init__(max_len, rank)
        self.heads, self.head_dim = heads, head_dim
        kernel = torch.randn(heads or 1, self.window, head_dim, head_dim) * (self.window * head_dim) ** -0.5
        self.weight = nn.Parameter(kernel)

    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """See the base class."""
        kernels = self.weight.to(windows.dtype).flatten(1, 2)
        kernels = kernels if len(kernels) > 1 else kernels[0]  # one product of all heads
        return windows.masked_fill(~real, 0).flatten(3) @ kernels
