"""Small stacks for tests."""

import torch
from torch import Tensor, nn

from my_transformers import EncoderLayer, FeedForward, LSHAttention, MultiHeadAttention


def lsh(seed: int, dropout: float = 0.0) -> nn.Module:
    return LSHAttention(bucket_size=4, n_rounds=2, max_len=40, causal=True, dropout=dropout, seed=seed)


def layers(depth: int, mechanism: object = lsh, *, dropout: float = 0.0, norm: str = "pre") -> list[EncoderLayer]:
    """Layers of width 16 with 4 heads, the same weights at each call; ``mechanism(layer number, dropout)``."""
    torch.manual_seed(0)
    return [
        EncoderLayer(
            MultiHeadAttention(mechanism(i, dropout), dim=16, heads=4),
            FeedForward(16, 32, dropout=dropout, chunk_size=5),
            dim=16,
            norm=norm,
            dropout=dropout,
        )
        for i in range(depth)
    ]


def plain_reversible(stack: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What a reversible stack computes, by ordinary autograd."""
    x1 = x2 = x
    for layer in stack.layers:
        x1 = x1 + layer.attend(x2, mask=mask)
        x2 = x2 + layer.transform(x1)
    return stack.final_norm(torch.cat((x1, x2), dim=-1) if stack.streams == "concatenate" else (x1 + x2) / 2)
