"""Positional encodings: modules that add a vector per position to activations (b, n, dim)."""

import abc
import math

import torch
from torch import Tensor, nn

from my_transformers.derivatives import exporting
from my_transformers.relative.grid import check_grid, places


class PositionalEncoding(nn.Module, abc.ABC):
    """Base of the positional encodings. Subclasses define :meth:`table`.

    Args:
        max_len: the maximum number of tokens.
    """

    def __init__(self, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len

    @abc.abstractmethod
    def table(self) -> Tensor | None:
        """The vectors added at each position, (max_len, dim), or None for nothing."""

    def forward(self, x: Tensor, *, first: int = 0) -> Tensor:
        """Add the vectors of positions first, first + 1, ... to x (b, n, dim).

        Raises:
            ValueError: a position is max_len or more.
        """
        last = first + x.shape[1]
        if last > self.max_len:
            raise ValueError(f"{last} tokens, but there are positions for max_len={self.max_len} tokens only")
        added = self.between(first, last)
        return x if added is None else x + added.to(x.dtype)

    def between(self, first: int, last: int) -> Tensor | None:
        """Rows first to last - 1 of the table, (last - first, dim), or None for nothing."""
        table = self.table()
        return None if table is None else table[first:last]


class NoPositionalEncoding(PositionalEncoding):
    """Adds nothing: for a mechanism with relative positions of its own, or as an ablation."""

    def table(self) -> None:
        """None."""


class LearnedPositionalEncoding(PositionalEncoding):
    """One learned vector per position: max_len * dim parameters."""

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__(max_len)
        self.weight = nn.Parameter(0.02 * torch.randn(max_len, dim))

    def table(self) -> Tensor:
        """(max_len, dim)."""
        return self.weight


class SinusoidalPositionalEncoding(PositionalEncoding):
    """sin and cos of the position at wavelengths from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5).

    Column 2i is amplitude * sin(position / 10000^(2i / dim)) and column 2i + 1 its cosine; nothing is learned.

    Args:
        dim: width of the activations.
        max_len: the maximum number of tokens.
        amplitude: 1 in the paper, whose embeddings have about that scale. Match the scale of yours: sinusoids that
            are much larger drown out the tokens.
    """

    sinusoids: Tensor

    def __init__(self, dim: int, max_len: int, *, amplitude: float = 1.0) -> None:
        super().__init__(max_len)
        frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000) / dim))
        angle = torch.arange(max_len).unsqueeze(-1) * frequency
        both = amplitude * torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
        self.register_buffer("sinusoids", both[:, :dim].contiguous(), persistent=False)

    def table(self) -> Tensor:
        """(max_len, dim)."""
        return self.sinusoids


class LearnedSinusoidalPositionalEncoding(PositionalEncoding):
    """Sines and cosines whose frequencies and amplitudes are learned (Horn et al. 2021, absolute positions).

    On a line, half of the components are amplitude * sin(frequency * position) and half are the cosines. On a grid,
    half of each depend on the row and half on the column. Wavelengths are initialised from 4 to ``longest`` tokens,
    evenly on a log scale, and amplitudes to 0.02.

    Args:
        dim: width of the activations, divisible by 2, or by 4 on a grid.
        max_len: the maximum number of tokens.
        columns: width of the grid that the sequence fills row by row; None: positions on a line.
        off_grid: the number of leading tokens that are not on the grid (a class token); nothing is added to them.
        longest: the longest initial wavelength, in tokens.

    Raises:
        ValueError: dim is not divisible as required, or the grid is invalid.
    """

    def __init__(
        self, dim: int, max_len: int, *, columns: int | None = None, off_grid: int = 0, longest: float = 64
    ) -> None:
        super().__init__(max_len)
        check_grid(columns, off_grid)
        axes = 1 if columns is None else 2
        if dim % (2 * axes):
            raise ValueError(f"dim {dim} is not divisible by {2 * axes}, for a sine and a cosine along each axis")
        self.columns = columns
        self.off_grid = off_grid
        wavelengths = torch.logspace(math.log2(4), math.log2(longest), dim // (2 * axes), base=2)
        self.frequencies = nn.Parameter((2 * math.pi / wavelengths).expand(axes, -1).clone())
        self.amplitudes = nn.Parameter(torch.full((dim,), 0.02))

    def table(self) -> Tensor:
        """(max_len, dim)."""
        tokens = torch.arange(self.max_len, device=self.frequencies.device)
        angle = places(tokens, self.columns, self.off_grid).to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies
        both = torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(1)
        return both * self.amplitudes * (tokens >= self.off_grid).unsqueeze(-1)


class AxialPositionalEncoding(PositionalEncoding):
    """Position i of a (rows, columns) grid gets row vector i // columns, concatenated with column vector i % columns.

    Kitaev et al. 2020, section 4 and appendix: (rows + columns) * dim / 2 parameters for rows * columns positions.

    Args:
        dim: width of the activations.
        shape: (rows, columns); max_len is their product.
        dims: sizes of the row and the column vectors; default: two halves of dim.

    Raises:
        ValueError: dims do not sum to dim.
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
        return self.between(0, self.max_len)

    def between(self, first: int, last: int) -> Tensor:
        """As in PositionalEncoding, but builds only the rows of the grid that are needed: the table may be large."""
        width = self.columns.shape[1]
        first_row, end_row = first // width, -(-last // width)
        if exporting():  # all rows: in a graph for any length their number must not depend on the length
            first_row, end_row = 0, len(self.rows)
        rows = self.rows[first_row:end_row]
        both = torch.cat((rows.expand(-1, width, -1), self.columns.expand(len(rows), -1, -1)), dim=-1)
        return both.flatten(0, 1)[first - first_row * width : last - first_row * width]
