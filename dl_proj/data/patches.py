"""Images as sequences."""

from torch import Tensor


def to_patches(images: Tensor, size: int, *, split_channels: bool = False) -> Tensor:
    """Cut images into squares, row by row.

    Args:
        images: (b, c, height, width), both divisible by ``size``.
        size: side of a square; 1 gives pixels.
        split_channels: a token for each channel of a square, all squares of the first channel coming first, instead
            of one token for all channels.

    Returns:
        (b, n, values): n squares of c * size^2 values, or c * n squares of size^2 values.
    """
    squares = images.unfold(2, size, size).unfold(3, size, size)  # (b, c, rows, columns, size, size)
    if split_channels:
        return squares.flatten(4).flatten(1, 3)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def sequence_length(side: int, channels: int, size: int, *, split_channels: bool) -> int:
    """Tokens that :func:`to_patches` makes of a square image."""
    return (side // size) ** 2 * (channels if split_channels else 1)
