"""Small decoders for tests."""

import torch
from torch import Tensor, nn

from my_transformers import (
    BlockCausalLinformerAttention,
    DecoderLayer,
    FeedForward,
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LSHAttention,
    MultiHeadAttention,
    PerformerAttention,
    SharedQKAttention,
)

LONGEST = 24  # tokens of a context

OWN = {  # self-attention: mechanism(layer number, dropout)
    "full": lambda i, dropout: FullAttention(causal=True, dropout=dropout),
    "shared_qk": lambda i, dropout: SharedQKAttention(causal=True, dropout=dropout),
    "lsh": lambda i, dropout: LSHAttention(bucket_size=4, n_rounds=2, max_len=40, causal=True, dropout=dropout, seed=i),
    "performer": lambda i, dropout: PerformerAttention(
        4, n_features=8, causal=True, chunk_size=4, dropout=dropout, seed=i
    ),
    "causal_linformer": lambda i, dropout: BlockCausalLinformerAttention(LearnedProjection(4, 2), dropout=dropout),
}
ACROSS = {  # cross-attention
    "full": lambda i, dropout: FullAttention(dropout=dropout),
    "linformer": lambda i, dropout: LinformerAttention(LearnedProjection(LONGEST, 5), dropout=dropout),
    "performer": lambda i, dropout: PerformerAttention(4, n_features=8, dropout=dropout, seed=50 + i),
}


def decoder_layers(
    depth: int, own: str = "full", across: str = "full", *, dropout: float = 0.0, norm: str = "pre"
) -> list[DecoderLayer]:
    """Layers of width 16 with 4 heads, in float64; the same weights at each call, no two vectors of which are alike."""
    torch.manual_seed(0)
    layers = [
        DecoderLayer(
            MultiHeadAttention(OWN[own](i, dropout), dim=16, heads=4),
            MultiHeadAttention(ACROSS[across](i, dropout), dim=16, heads=4),
            FeedForward(16, 32, dropout=dropout, chunk_size=5),
            dim=16,
            norm=norm,
            dropout=dropout,
        ).double()
        for i in range(depth)
    ]
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if name.startswith("norm"):
                nn.init.normal_(parameter, mean=float("weight" in name), std=0.3)
    return layers


def target_and_context(n: int = 9, m: int = 7, batch: int = 2) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x (b, n, 16), context (b, m, 16), and masks under which the first sample has less of both than the others."""
    x, context = torch.randn(batch, n, 16, dtype=torch.float64), torch.randn(batch, m, 16, dtype=torch.float64)
    masks = {"mask": torch.ones(batch, n).bool(), "context_mask": torch.ones(batch, m).bool()}
    masks["mask"][0, max(1, n - 2) :] = False
    masks["context_mask"][0, max(1, m - 3) :] = False
    return x, context, masks
