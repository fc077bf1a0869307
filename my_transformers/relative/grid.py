"""Coordinates of a sequence's tokens: on a line, or on a grid that the sequence fills row by row."""

import torch
from torch import Tensor


def places(tokens: Tensor, columns: int | None, off_grid: int) -> Tensor:
    """Coordinates of tokens.

    Args:
        tokens: (n,) int64, positions in the sequence.
        columns: width of the grid; None: a line.
        off_grid: the number of leading tokens that are not on the grid (a class token, a label); their coordinates are
            meaningless.

    Returns:
        (n, axes) int64: the place on the line, or row and column.
    """
    place = tokens - off_grid
    if columns is None:
        return place.unsqueeze(-1)
    return torch.stack((place.div(columns, rounding_mode="floor"), place % columns), dim=-1)


def check_grid(columns: int | None, off_grid: int) -> None:
    """Raise ValueError unless ``columns`` is None or at least 1, and ``off_grid`` at least 0."""
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns}, must be at least 1, or None for a line")
    if off_grid < 0:
        raise ValueError(f"off_grid is {off_grid}, must be 0 or more tokens")
