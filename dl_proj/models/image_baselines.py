"""Image classifiers without attention, as baselines."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from my_transformers.dropout import Dropout


class LinearClassifier(nn.Module):
    """Multinomial logistic regression on all pixels, scaled to [-1, 1]; initial probabilities are equal.

    Args:
        channels: channels of an image.
        side: height and width of an image.
        vocab_size: number of pixel levels.
        n_classes: number of classes.
    """

    def __init__(self, *, channels: int, side: int, vocab_size: int, n_classes: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.to_logits = nn.Linear(channels * side**2, n_classes)
        nn.init.zeros_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(b, channels, side, side) levels -> logits (b, n_classes)."""
        return self.to_logits(_scaled(images, self.vocab_size, self.to_logits.weight).flatten(1))


class ConvolutionalClassifier(nn.Module):
    """Alternating convolutions and pooling, then a linear map (LeCun et al. 1998, section II).

    Each 3 x 3 convolution is zero-padded and followed by a relu and 2 x 2 max pooling, with partial windows at the
    edges, so that images of any size are accepted.

    Args:
        channels: channels of an image.
        side: height and width of an image.
        vocab_size: number of pixel levels.
        n_classes: number of classes.
        widths: channels of each convolution.
        dropout: dropout on the input of the linear map.
    """

    def __init__(
        self,
        *,
        channels: int,
        side: int,
        vocab_size: int,
        n_classes: int,
        widths: Sequence[int] = (32, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.features = nn.Sequential(*(_block(*pair) for pair in itertools.pairwise((channels, *widths))))
        self.dropout = Dropout(dropout)
        for _ in widths:
            side = -(-side // 2)
        self.to_logits = nn.Linear(widths[-1] * side**2, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(b, channels, side, side) levels -> logits (b, n_classes)."""
        features = self.features(_scaled(images, self.vocab_size, self.to_logits.weight))
        return self.to_logits(self.dropout(features.flatten(1)))


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))


def _scaled(images: Tensor, vocab_size: int, like: Tensor) -> Tensor:
    """Scale levels in [0, vocab_size) to [-1, 1], with the dtype of ``like``."""
    return images.to(like.dtype) * (2 / (vocab_size - 1)) - 1
