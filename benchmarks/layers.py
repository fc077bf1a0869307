"""Self-attention layers to compare: ours and other libraries', all from (b, n, DIM) to the same, with 4 heads of 64.

Each function takes the length and gives a layer. Libraries are imported where they are used: a process measures one.
"""

import contextlib
import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers import (
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LSHAttention,
    MultiHeadAttention,
    PerformerAttention,
)

DIM, HEADS, HEAD_DIM = 256, 4, 64
BUCKET, N_FEATURES = 64, 256
Layer = Callable[[Tensor], Tensor]


def ours(mechanism: nn.Module) -> Layer:
    """Around one of our mechanisms; the libraries' projections have no biases either."""
    return MultiHeadAttention(mechanism, dim=DIM, heads=HEADS, bias=False)


def lsh(length: int, n_rounds: int, window: int = BUCKET, deduplicate: bool = False) -> Layer:
    """Strictly causal LSH attention inside buckets; ``window`` and duplicates as the libraries have them."""
    settings = {"bucket_size": BUCKET, "n_rounds": n_rounds, "window": window, "deduplicate": deduplicate}
    return ours(LSHAttention(**settings, max_len=length, causal=True))


def reformer_pytorch(length: int, n_rounds: int) -> Layer:
    """Chunks of 64 and the one before, causal by position, duplicates counted."""
    from reformer_pytorch import LSHSelfAttention

    return LSHSelfAttention(DIM, heads=HEADS, bucket_size=BUCKET, n_hashes=n_rounds, causal=True)


def transformers_reformer(length: int, n_rounds: int) -> Layer:
    """The same in transformers, with as many buckets; it has no output projection."""
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        attention_head_size=HEAD_DIM,
        lsh_attn_chunk_length=BUCKET,
        num_buckets=max(2, length // BUCKET),
        num_hashes=n_rounds,
        is_decoder=True,
        lsh_attention_probs_dropout_prob=0.0,
        max_position_embeddings=length,
        axial_pos_embds=False,
    )
    attention = LSHSelfAttention(config)
    return Call(attention, lambda x: attention(x, num_hashes=n_rounds).hidden_states)


class Call(nn.Module):
    """A layer that is called in its own way."""

    def __init__(self, layer: nn.Module, call: Layer) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, DIM) -> the same."""
        return self.call(x)


class PlainLayer(nn.Module):
    """Projections around a function of queries, keys and values, as one would write it without a library."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.to_qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.to_out = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, DIM) -> the same."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return self.to_out(self.attend(q, k, v).transpose(1, 2).flatten(2))


def sdpa(length: int, causal: bool) -> Layer:
    """PyTorch's fused softmax attention."""
    return PlainLayer(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal))


def explicit_softmax(length: int, causal: bool) -> Layer:
    """softmax(q k^T / sqrt(d)) v as in the textbook."""
    later = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else torch.zeros((), dtype=torch.bool)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / HEAD_DIM**0.5).masked_fill(later.to(q.device), -torch.inf)
        return scores.softmax(dim=-1) @ v

    return PlainLayer(attend)


def full(length: int, causal: bool) -> Layer:
    """Our full attention."""
    return ours(FullAttention(causal=causal))


def performer(length: int, causal: bool) -> Layer:
    """Our Performer, softmax features."""
    return ours(PerformerAttention(HEAD_DIM, n_features=N_FEATURES, causal=causal))


def performer_pytorch(length: int, causal: bool) -> Layer:
    """With as many features; causal without its CUDA extension."""
    with contextlib.redirect_stdout(io.StringIO()):
        from performer_pytorch import SelfAttention

        return SelfAttention(DIM, causal=causal, heads=HEADS, dim_head=HEAD_DIM, nb_features=N_FEATURES)


def linformer(length: int, rank: int) -> Layer:
    """Ours, one projection for keys and one for values."""
    return ours(LinformerAttention(LearnedProjection(length, rank), LearnedProjection(length, rank)))


def linformer_library(length: int, rank: int) -> Layer:
    """The linformer package."""
    from linformer import LinformerSelfAttention

    return LinformerSelfAttention(DIM, length, k=rank, heads=HEADS, dim_head=HEAD_DIM)


def linformer_pytorch(length: int, rank: int) -> Layer:
    """The linformer-pytorch package, with the same sharing."""
    from linformer_pytorch import MHAttention

    return MHAttention(length, HEAD_DIM, DIM, rank, HEADS, 0.0, "C0", "headwise", None, None, False, None)
