"""Positional encodings: modules that add to (b, n, dim) a vector for each position."""

import abc
import math

import torch
from torch import Tensor, nn


class PositionalEncoding(nn.Module, abc.ABC):
    """What all encodings share: a table with one row a position, added to the activations.

    Subclasses give :meth:`table`.
    """

    def __init__(self, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len

    @abc.abstractmethod
    def table(self) -> Tensor:
        """(max_len, dim)."""

    def forward(self, x: Tensor, *, first: int = 0) -> Tensor:
        """Add positions first, first + 1, ... to x (b, n, dim).

        Raises:
            ValueError: a position of max_len or more.
        """
        last = first + x.shape[1]
        if last > self.max_len:
            raise ValueError(f"{last} tokens, but there are positions for max_len={self.max_len} only")
        return x + self.table()[first:last].to(x.dtype)


class LearnedPositionalEncoding(PositionalEncoding):
    """One learned vector a position: max_len * dim parameters."""

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__(max_len)
        self.weight = nn.Parameter(0.02 * torch.randn(max_len, dim))

    def table(self) -> Tensor:
        """(max_len, dim)."""
        return self.weight


class SinusoidalPositionalEncoding(PositionalEncoding):
    """sin and cos of the position at wavelengths from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5).

    Column 2i is sin(position / 10000^(2i / dim)) and column 2i + 1 its cosine; nothing is learned.
    """

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__(max_len)
        frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
        angle = torch.arange(max_len).unsqueeze(-1) * frequency
        both = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
        self.register_buffer("sinusoids", both[:, :dim].contiguous(), persistent=False)

    def table(self) -> Tensor:
        """(max_len, dim)."""
        return self.sinusoids


class AxialPositionalEncoding(PositionalEncoding):
    """Position i of a (rows, columns) grid gets row vector i // columns beside column vector i % columns.

    Kitaev et al. 2020, section 4 and appendix: (rows + columns) * dim / 2 parameters for rows * columns positions.

    Args:
        dim: of the activations.
        shape: (rows, columns); max_len is their product.
        dims: sizes of the two vectors; default two halves of dim.

    Raises:
        ValueError: dims that do not add up to dim.
    """

    def __init__(self, dim: int, shape: tuple[int, int], *, dims: tuple[int, int] | None = None) -> None:
        super().__init__(math.prod(shape))
        dims = (dim - dim // 2, dim // 2) if dims is None else dims
        if sum(dims) != dim:
            raise ValueError(f"axial dims {dims} add up to {sum(dims)}, must be dim {dim}")
        self.rows = nn.Parameter(0.02 * torch.randn(shape[0], 1, dims[0]))
        self.columns = nn.Parameter(0.02 * torch.randn(1, shape[1], dims[1]))

    def table(self) -> Tensor:
        """(max_len, dim)."""
        shape = (self.rows.shape[0], self.columns.shape[1], -1)
        return torch.cat((self.rows.expand(shape), self.columns.expand(shape)), dim=-1).flatten(0, 1)
