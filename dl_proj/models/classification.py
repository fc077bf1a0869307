"""Classifiers with attention over image patches (Dosovitskiy et al. 2021) or over tokens."""

from typing import Literal

import torch
from torch import Tensor, nn

from dl_proj.models.patches import to_patches
from my_transformers import EncoderStack, ReversibleStack
from my_transformers.dropout import Dropout
from my_transformers.positional_encoding import PositionalEncoding


class PatchEmbedding(nn.Module):
    """An embedding of images of pixel levels: one vector per patch.

    Args:
        dim: width of the vectors.
        values: pixel values per patch.
        vocab_size: number of pixel levels.
        kind: "linear" maps the values, scaled to [-1, 1]; "mlp" applies two linear maps with a gelu between; "lookup"
            learns a vector per level, for patches of one value.
        patch_size: side of a patch.
        patch_stride: pixels from one patch to the next; None: patch_size.
        split_channels: make each channel a patch; see :func:`~dl_proj.models.patches.to_patches`.

    Raises:
        ValueError: "lookup" with patches of more than one value.
    """

    def __init__(
        self,
        *,
        dim: int,
        values: int,
        vocab_size: int,
        kind: Literal["linear", "mlp", "lookup"] = "linear",
        patch_size: int = 1,
        patch_stride: int | None = None,
        split_channels: bool = False,
    ) -> None:
        super().__init__()
        if kind == "lookup" and values != 1:
            raise ValueError(f"kind 'lookup' needs patches of one value (got {values})")
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.split_channels = split_channels
        self.kind = kind
        self.vocab_size = vocab_size
        self.hidden = nn.Sequential(nn.Linear(values, dim), nn.GELU()) if kind == "mlp" else nn.Identity()
        self.embed: nn.Embedding | nn.Linear = (
            nn.Embedding(vocab_size, dim) if kind == "lookup" else nn.Linear(dim if kind == "mlp" else values, dim)
        )
        nn.init.normal_(self.embed.weight, std=0.02)  # larger ones would drown the positions, which start at 0.02
        if isinstance(self.embed, nn.Linear):
            nn.init.zeros_(self.embed.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, side, side) levels -> (b, n, dim)."""
        patches = to_patches(images, self.patch_size, stride=self.patch_stride, split_channels=self.split_channels)
        if self.kind == "lookup":
            return self.embed(patches.squeeze(-1).long())
        return self.embed(self.hidden(patches.to(self.embed.weight.dtype) * (2 / (self.vocab_size - 1)) - 1))


class ClassificationModel(nn.Module):
    """Embedded patches, positions, a stack, and a linear map from one vector per image to logits.

    Args:
        embedding: maps images to (b, n, dim).
        stack: bidirectional layers.
        positions: positional encoding of n positions, or n + 1 with a class token.
        dim: width of the activations.
        n_classes: number of classes.
        pooling: "mean" over the outputs, or the output at a "class_token", a learned vector before the patches. With
            LSH attention, a class token attends only to the patches of one bucket per round and layer.
        dropout: dropout on the embedded input.
    """

    def __init__(
        self,
        embedding: PatchEmbedding,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        n_classes: int,
        pooling: Literal["mean", "class_token"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.class_token = nn.Parameter(0.02 * torch.randn(dim)) if pooling == "class_token" else None
        self.positions = positions
        self.dropout = Dropout(dropout)
        self.stack = stack
        self.to_logits = nn.Linear(stack.out_dim, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, side, side) levels -> logits (b, n_classes)."""
        x = self.embedding(images)
        if self.class_token is not None:
            x = torch.cat((self.class_token.to(x.dtype).expand(len(x), 1, -1), x), dim=1)
        x = self.stack(self.dropout(self.positions(x)))
        return self.to_logits(x.mean(1) if self.class_token is None else x[:, 0])


class SequenceClassifier(nn.Module):
    """Embedded tokens, positions, a stack, and two layers from one vector per sequence to logits.

    If an example consists of two sequences, both go through the same stack, and their vectors a and b become
    [a, b, a b, a - b], as in the Long Range Arena (Tay et al. 2021, section 2.2.3).

    Args:
        stack: bidirectional layers.
        positions: positional encoding of n positions, or n + 1 with a class token.
        dim: width of the activations.
        vocab_size: number of symbols.
        n_classes: number of classes.
        hidden: width of the layer before the logits.
        together: sequences per example, 1 or 2.
        pooling: "mean" over the outputs at real tokens, or the output at a "class_token" before the sequence.
        dropout: dropout on the embedded input.
    """

    def __init__(
        self,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        vocab_size: int,
        n_classes: int,
        hidden: int,
        together: int = 1,
        pooling: Literal["mean", "class_token"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # torch's 1 would drown the positions, which start at 0.02
        self.class_token = nn.Parameter(0.02 * torch.randn(dim)) if pooling == "class_token" else None
        self.positions = positions
        self.dropout = Dropout(dropout)
        self.stack = stack
        width = stack.out_dim * (1 if together == 1 else 4)
        self.to_logits = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits of examples.

        Args:
            tokens: (b, sequences per example, n) int64.
            mask: of the same shape, True for real tokens, at least one per sequence; None if all are real.

        Returns:
            (b, n_classes).
        """
        pooled = self._pooled(tokens.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
        if tokens.shape[1] == 1:
            return self.to_logits(pooled)
        one, other = pooled.unflatten(0, tokens.shape[:2]).unbind(1)
        return self.to_logits(torch.cat((one, other, one * other, one - other), dim=-1))

    def _pooled(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(sequences, n) -> (sequences, dim)."""
        x = self.embedding(tokens)
        if self.class_token is not None:
            x = torch.cat((self.class_token.to(x.dtype).expand(len(x), 1, -1), x), dim=1)
            mask = None if mask is None else torch.cat((mask.new_ones(len(mask), 1), mask), dim=1)
        x = self.stack(self.dropout(self.positions(x)), mask=mask)
        if self.class_token is not None:
            return x[:, 0]
        if mask is None:
            return x.mean(1)
        return x.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True)
