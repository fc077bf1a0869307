"""Images as sequences."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings ask for lengths, without torch
    from torch import Tensor


def to_patches(images: "Tensor", size: int, *, stride: int | None = None, split_channels: bool = False) -> "Tensor":
    """Cut images into squares, row by row.

    Args:
        images: (b, c, height, width); pixels at the right and lower edge that fill no square are left out.
        size: side of a square; 1 gives pixels.
        stride: pixels from one square to the next; less than ``size`` makes them overlap. None: ``size``.
        split_channels: a token for each channel of a square, all squares of the first channel coming first, instead
            of one token for all channels.

    Returns:
        (b, n, values): n squares of c * size^2 values, or c * n squares of size^2 values.
    """
    step = stride or size
    squares = images.unfold(2, size, step).unfold(3, size, step)  # (b, c, rows, columns, size, size)
    if split_channels:
        return squares.flatten(4).flatten(1, 3)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def patches_a_side(side: int, size: int, *, stride: int | None = None) -> int:
    """Squares in each row and column that :func:`to_patches` makes of a square image."""
    return (side - size) // (stride or size) + 1


def sequence_length(
    side: int, channels: int, size: int, *, stride: int | None = None, split_channels: bool = False
) -> int:
    """Tokens that :func:`to_patches` makes of a square image."""
    return patches_a_side(side, size, stride=stride) ** 2 * (channels if split_channels else 1)
