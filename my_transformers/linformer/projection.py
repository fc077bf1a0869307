"""Projections of a sequence to fewer tokens, for Linformer (Wang et al. 2020, section 4)."""

import abc
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.derivatives import exporting

Start = Literal["noise", "identity"]
"""Initialisation of a learned projection."""


class LengthProjection(nn.Module, abc.ABC):
    """Base of projections from at most max_len tokens to ``rank`` tokens (the paper's n to k).

    Keys, values and layers share parameters if they are given the same module.

    Args:
        max_len: the maximum number of input tokens; shorter inputs use the first columns of the projection.
        rank: the number of projected tokens.

    Raises:
        ValueError: rank is not in [1, max_len].
    """

    heads: int | None = None
    """required number of heads; None: any"""
    head_dim: int | None = None
    """required size of the tokens; None: any"""
    commutes = False
    """The projection is linear and treats all components of a token alike: it commutes with linear maps of tokens."""
    weighs_tokens = True
    """Each projected token is a weighted sum of tokens."""

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
        """Project x (b, h, n, d), with a mask (b, n) that is True where a token is real.

        Returns:
            (b, h, rank, d), and a mask (b, rank), True where a projected token is real; None: all are.

        Raises:
            ValueError: more than max_len tokens, or heads of another number or size than it was made for.
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
        """:meth:`forward` after its checks: n is at most max_len."""


class LearnedProjection(LengthProjection):
    """The paper's E x: a learned matrix (rank, max_len) for all heads, or one for each.

    Args:
        max_len: the maximum number of input tokens.
        rank: the number of projected tokens.
        heads: the number of heads, each with its own matrix; None: one matrix for all heads.
        start: initialisation. "noise", of variance 1 / max_len: each projected token is a random mixture of all tokens,
            of about the size of a token. "identity", repeated: token j goes to projected token j mod rank, so that at
            most ceil(max_len / rank) tokens are mixed; small models of short sequences may be slow to learn that from
            noise.

    Raises:
        ValueError: an unknown start, or a rank that is not in [1, max_len].
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
        # under torch.export, a slice is contiguous only at full length, which would specialise the graph to that length
        columns = torch.arange(n, device=x.device) if exporting() else slice(n)
        weight = self.weight[:, :, columns].to(x.dtype)
        if len(weight) > 1:
            return weight @ x, None
        # one matrix for all heads: concatenating these, which is their memory layout anyway, makes one larger product
        all_heads = x.transpose(1, 2).reshape(batch, n, heads * dim)
        return torch.bmm(weight.expand(batch, -1, -1), all_heads).unflatten(-1, (heads, dim)).transpose(1, 2), None


class _WindowProjection(LengthProjection):
    """Reduces each window of ceil(max_len / rank) tokens to one, which is real if any token of the window is.

    Raises:
        ValueError: max_len tokens fill fewer than ``rank`` windows.
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
    """The componentwise maximum over each window's real tokens; no parameters."""

    weighs_tokens = False

    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """See the base class."""
        largest = windows.masked_fill(~real, torch.finfo(windows.dtype).min).amax(3)
        return largest.masked_fill(~real.any(3), 0)


class ConvolutionProjection(_WindowProjection):
    """A convolution over the length, with one window as kernel size and stride.

    Args:
        max_len: the maximum number of input tokens.
        rank: the number of projected tokens.
        head_dim: size of the tokens; a kernel has window * head_dim^2 weights.
        heads: the number of heads, each with its own kernel; None: one kernel for all heads.
    """

    weighs_tokens = False  # multiplies each token by a matrix, not by a number

    def __init__(self, max_len: int, rank: int, *, head_dim: int, heads: int | None = None) -> None:
        super().__init__(max_len, rank)
        self.heads, self.head_dim = heads, head_dim
        kernel = torch.randn(heads or 1, self.window, head_dim, head_dim) * (self.window * head_dim) ** -0.5
        self.weight = nn.Parameter(kernel)

    def reduce(self, windows: Tensor, real: Tensor) -> Tensor:
        """See the base class."""
        kernels = self.weight.to(windows.dtype).flatten(1, 2)
        kernels = kernels if len(kernels) > 1 else kernels[0]  # one kernel: a single product for all heads
        return windows.masked_fill(~real, 0).flatten(3) @ kernels
