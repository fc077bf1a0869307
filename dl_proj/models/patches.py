"""Images as sequences."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings import this module, and must not import torch
    from torch import Tensor


def to_patches(images: "Tensor", size: int, *, stride: int | None = None, split_channels: bool = False) -> "Tensor":
    """Cut images into squares, row by row.

    Args:
        images: (b, c, height, width); incomplete squares at the right and lower edge are dropped.
        size: side of a square; 1: pixels.
        stride: pixels from one square to the next; less than ``size``: squares overlap; None: ``size``.
        split_channels: make each channel of a square a token, with all squares of the first channel first.
    """
    step = stride or size
    squares = images.unfold(2, size, step).unfold(3, size, step)  # (b, c, rows, columns, size, size)
    if split_channels:
        return squares.flatten(4).flatten(1, 3)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def patches_a_side(side: int, size: int, *, stride: int | None = None) -> int:
    """Return the squares per row and column that :func:`to_patches` makes of a square image."""
    return (side - size) // (stride or size) + 1


def sequence_length(
    side: int, channels: int, size: int, *, stride: int | None = None, split_channels: bool = False
) -> int:
    """Return the number of tokens that :func:`to_patches` makes of a square image."""
    return patches_a_side(side, size, stride=stride) ** 2 * (channels if split_channels else 1)
