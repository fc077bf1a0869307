"""Self-attention layers to compare: ours, those of other libraries, PyTorch's kernels; all (b, n, dim) -> (b, n, dim).

Each function takes the length and the sizes, and returns a layer. Libraries are imported where they are used, so only
the measured ones must be installed.
"""

import contextlib
import io
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from my_transformers import (
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    Mechanism,
    MultiHeadAttention,
    PerformerAttention,
    SharedQKAttention,
)
from my_transformers.performer.features import draw_projection, log_features

BUCKET, N_FEATURES = 64, 256
Layer = Callable[[Tensor], Tensor]


class Sizes(NamedTuple):
    """Sizes of a layer."""

    dim: int
    heads: int

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads


SIZES = Sizes(dim=256, heads=4)


def ours(mechanism: Mechanism, sizes: Sizes) -> MultiHeadAttention:
    """Multi-head attention with one of our mechanisms; without biases, as in the libraries."""
    return MultiHeadAttention(mechanism, dim=sizes.dim, heads=sizes.heads, bias=False)


def lsh(
    length: int, sizes: Sizes = SIZES, *, n_rounds: int, window: int = BUCKET, deduplicate: bool = False
) -> MultiHeadAttention:
    """Our strictly causal LSH attention within buckets; ``window`` and duplicates default to those of the libraries."""
    mechanism = LSHAttention(
        bucket_size=BUCKET, n_rounds=n_rounds, window=window, deduplicate=deduplicate, max_len=length, causal=True
    )
    return ours(mechanism, sizes)


def local(length: int, sizes: Sizes = SIZES) -> MultiHeadAttention:
    """Our causal local attention: a query attends to its own chunk of 64 tokens and the previous one."""
    return ours(LocalAttention(chunk_size=BUCKET, causal=True), sizes)


def reformer_pytorch(length: int, sizes: Sizes = SIZES, *, n_rounds: int) -> nn.Module:
    """The reformer-pytorch package: own and previous chunk of 64 tokens, causal by position, duplicates counted."""
    from reformer_pytorch import LSHSelfAttention

    return LSHSelfAttention(sizes.dim, heads=sizes.heads, bucket_size=BUCKET, n_hashes=n_rounds, causal=True)


def transformers_reformer(length: int, sizes: Sizes = SIZES, *, n_rounds: int) -> nn.Module:
    """LSH attention of the transformers library, with the same number of buckets; it has no output projection."""
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=sizes.dim,
        num_attention_heads=sizes.heads,
        attention_head_size=sizes.head_dim,
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
    """Adapts a layer that needs other arguments than x."""

    def __init__(self, layer: nn.Module, call: Layer) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, dim) -> (b, n, dim)."""
        return self.call(x)


class PlainLayer(nn.Module):
    """Plain projections around a function of queries, keys and values."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], sizes: Sizes) -> None:
        super().__init__()
        self.attend = attend
        self.sizes = sizes
        self.to_qkv = nn.Linear(sizes.dim, 3 * sizes.dim, bias=False)
        self.to_out = nn.Linear(sizes.dim, sizes.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, dim) -> (b, n, dim)."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.sizes.heads, self.sizes.head_dim)).permute(2, 0, 3, 1, 4)
        return self.to_out(self.attend(q, k, v).transpose(1, 2).flatten(2))


def sdpa(length: int, sizes: Sizes = SIZES, *, causal: bool, backend: SDPBackend | None = None) -> nn.Module:
    """PyTorch's fused softmax attention, with the kernel that PyTorch chooses or with a given backend."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return PlainLayer(attend, sizes)


def sliding_window(length: int, sizes: Sizes = SIZES, *, keys: int) -> nn.Module:
    """FlexAttention with a sliding window: a query sees itself and the ``keys`` - 1 tokens before it.

    Compiled for this length only.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < keys)

    blocks = None
    torch.compiler.reset()  # each length and window needs a compilation, and PyTorch limits their number per function
    attention = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal blocks
        if blocks is None:
            blocks = create_block_mask(near, None, None, length, length, device=q.device)
        return attention(q, k, v, block_mask=blocks)

    return PlainLayer(attend, sizes)


def fla_performer(length: int, sizes: Sizes = SIZES) -> nn.Module:
    """Chunked causal linear attention from flash-linear-attention, on the Performer's features."""
    from fla.ops.linear_attn import chunk_linear_attn

    return PlainLayer(ByFeatures(lambda q, k, v: chunk_linear_attn(q, k, v, normalize=True)[0], sizes.head_dim), sizes)


class ByFeatures(nn.Module):
    """Calls a function on softmax features of queries and keys (b, n, h, features), and on values (b, n, h, head_dim).

    Features have the dtype of the queries. They are scaled so that the largest of each query, and the largest of all
    keys of a head, is 1.
    """

    projection: Tensor

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], head_dim: int) -> None:
        super().__init__()
        self.attend = attend
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("projection", draw_projection(N_FEATURES, head_dim, generator=generator))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k and v (b, h, n, head_dim) -> (b, h, n, head_dim)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        of_queries = log_features(q, self.projection, up_to_a_factor=True)
        of_keys = log_features(k, self.projection)
        of_queries = (of_queries - of_queries.detach().amax(-1, keepdim=True)).exp()
        of_keys = (of_keys - of_keys.detach().amax((1, -1), keepdim=True)).exp()
        return self.attend(of_queries, of_keys, v).transpose(1, 2)


def explicit_softmax(length: int, sizes: Sizes = SIZES, *, causal: bool) -> nn.Module:
    """softmax(q k^T / sqrt(d)) v without a fused kernel."""
    later = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else torch.zeros((), dtype=torch.bool)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT / sizes.head_dim**0.5).masked_fill(later.to(q.device), -torch.inf)
        return scores.softmax(dim=-1) @ v

    return PlainLayer(attend, sizes)


def full(length: int, sizes: Sizes = SIZES, *, causal: bool) -> MultiHeadAttention:
    """Our full attention."""
    return ours(FullAttention(causal=causal), sizes)


def shared_qk(length: int, sizes: Sizes = SIZES) -> MultiHeadAttention:
    """Our causal full attention with shared queries and keys, which LSH attention approximates."""
    return ours(SharedQKAttention(causal=True), sizes)


def performer(length: int, sizes: Sizes = SIZES, *, causal: bool) -> MultiHeadAttention:
    """Our Performer with softmax features."""
    return ours(PerformerAttention(sizes.head_dim, n_features=N_FEATURES, causal=causal), sizes)


def performer_pytorch(length: int, sizes: Sizes = SIZES, *, causal: bool) -> nn.Module:
    """The performer-pytorch package with the same number of features; causal without its CUDA extension."""
    import setuptools  # noqa: F401  # provides distutils, which the library imports and Python 3.12 lacks

    with contextlib.redirect_stdout(io.StringIO()):
        from performer_pytorch import SelfAttention

        heads = {"heads": sizes.heads, "dim_head": sizes.head_dim}
        return SelfAttention(sizes.dim, causal=causal, **heads, nb_features=N_FEATURES)


def linformer(length: int, sizes: Sizes = SIZES, *, rank: int) -> MultiHeadAttention:
    """Our Linformer with one projection for keys and one for values."""
    return ours(LinformerAttention(LearnedProjection(length, rank), LearnedProjection(length, rank)), sizes)


def linformer_library(length: int, sizes: Sizes = SIZES, *, rank: int) -> nn.Module:
    """The linformer package."""
    from linformer import LinformerSelfAttention

    return LinformerSelfAttention(sizes.dim, length, k=rank, heads=sizes.heads, dim_head=sizes.head_dim)


def linformer_pytorch(length: int, sizes: Sizes = SIZES, *, rank: int) -> nn.Module:
    """The linformer-pytorch package, with the same parameter sharing."""
    from linformer_pytorch import MHAttention

    return MHAttention(
        length, sizes.head_dim, sizes.dim, rank, sizes.heads, 0.0, "C0", "headwise", None, None, False, None
    )
