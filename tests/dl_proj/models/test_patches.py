"""Images cut into patches, against a loop over every pixel."""

import pytest
import torch

from dl_proj.models.patches import patches_a_side, sequence_length, to_patches


def looped(images, size, stride, split_channels):
    """Rows of patches from the top, each from the left; a patch's pixels in the same order, channel by channel."""
    sequences = []
    for image in images.tolist():
        height, width = len(image[0]), len(image[0][0])

        def values(channel, top, left, image=image):
            return [image[channel][top + i][left + j] for i in range(size) for j in range(size)]

        corners = [
            (top, left)
            for top in range(0, height, stride)
            for left in range(0, width, stride)
            if top + size <= height and left + size <= width
        ]
        channels = range(len(image))
        if split_channels:
            tokens = [values(channel, *corner) for channel in channels for corner in corners]
        else:
            tokens = [[value for channel in channels for value in values(channel, *corner)] for corner in corners]
        sequences.append(tokens)
    return torch.tensor(sequences, dtype=images.dtype)


WHOLE = [(1, 4, 4, 2), (3, 6, 6, 2), (3, 6, 6, 3), (3, 5, 5, 1), (2, 4, 4, 4), (3, 4, 8, 2), (1, 9, 3, 3)]
OVERLAPPING = [(1, 8, 8, 4, 2), (3, 6, 6, 2, 1), (2, 8, 8, 4, 3), (2, 7, 10, 3, 2)]  # the last two leave an edge out


@pytest.mark.parametrize("split_channels", [False, True])
@pytest.mark.parametrize(
    ("channels", "height", "width", "size", "stride"), [*((*sizes, None) for sizes in WHOLE), *OVERLAPPING]
)
def test_as_a_loop_cuts_them(channels, height, width, size, stride, split_channels):
    images = torch.randperm(2 * channels * height * width).view(2, channels, height, width)
    patches = to_patches(images, size, stride=stride, split_channels=split_channels)
    torch.testing.assert_close(patches, looped(images, size, stride or size, split_channels))


@pytest.mark.parametrize("split_channels", [False, True])
@pytest.mark.parametrize("stride", [None, 1, 2, 3])
@pytest.mark.parametrize(("side", "channels", "size"), [(8, 1, 1), (8, 1, 4), (6, 3, 2), (6, 3, 6), (9, 2, 3)])
def test_the_length_is_known_beforehand(side, channels, size, stride, split_channels):
    images = torch.zeros(1, channels, side, side, dtype=torch.uint8)
    patches = to_patches(images, size, stride=stride, split_channels=split_channels)
    assert patches.shape[1] == sequence_length(side, channels, size, stride=stride, split_channels=split_channels)
    one_row = to_patches(images[:, :1, :size], size, stride=stride)
    assert one_row.shape[1] == patches_a_side(side, size, stride=stride)


def test_levels_stay_levels():
    assert to_patches(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2).dtype == torch.uint8
