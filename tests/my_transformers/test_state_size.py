"""state_size: the bytes of a cache that has decoded, of every mechanism that can, and what their papers say."""

import pytest
import torch
from mechanisms import STRICT

from my_transformers import (
    EncoderLayer,
    EncoderStack,
    FeedForward,
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MultiHeadAttention,
    NystromAttention,
    PerformerAttention,
    ReversibleStack,
)

DTYPES = [torch.float32, torch.float16, torch.float64]


def tensors_in(value):
    """Every tensor that an object holds, however deep; written without the cache's own help."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else vars(value).values() if hasattr(value, "__dict__") else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


@pytest.mark.parametrize("case", STRICT, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_what_a_cache_holds_after_decoding(case, dtype):
    """Memory of the storages, so that a view of something larger would count as that."""
    attention = MultiHeadAttention(case.build(causal=True), dim=16, heads=2).eval().to(dtype)
    cache = attention.new_cache(3, 40)
    with torch.no_grad():
        for n_new in (1, 5, 1):
            attention.step(torch.randn(3, n_new, 16, dtype=dtype), cache)
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_in(cache)}
    assert 3 * attention.state_size(40) == cache.n_bytes == sum(held.values())
    assert attention.float().state_size(40, dtype) == cache.n_bytes // 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 64, 1000])
def test_the_formulas(length, dtype):
    def size(mechanism):
        return MultiHeadAttention(mechanism, dim=48, heads=3).state_size(length, dtype)

    exact = max(4, dtype.itemsize)
    assert size(FullAttention(causal=True)) == 2 * length * 48 * dtype.itemsize
    features = 3 * (20 * (16 + 1) + 1)  # sums of values and of weights, and the scale that was taken out of them
    assert size(PerformerAttention(16, n_features=20, causal=True)) == features * exact
    assert size(LocalAttention(chunk_size=8, causal=True)) == 2 * min(length, 16) * 48 * dtype.itemsize
    lsh = LSHAttention(n_buckets=4, window=6, n_rounds=2, causal=True)
    integers = 3 * 2 * (length + 4 + 4 * min(length, 6))
    assert size(lsh) == 2 * length * 48 * dtype.itemsize + 8 * integers


@pytest.mark.parametrize("kind", [EncoderStack, ReversibleStack])
def test_a_stack_adds_up_its_layers(kind):
    mechanisms = [FullAttention(causal=True), PerformerAttention(8, n_features=4, causal=True)]
    layers = [
        EncoderLayer(MultiHeadAttention(mechanism, dim=16, heads=2), FeedForward(16), dim=16)
        for mechanism in mechanisms
    ]
    stack = kind(layers, dim=16)
    assert stack.state_size(10) == 2 * 10 * 16 * 4 + 2 * (4 * 9 + 1) * 4
    assert stack.state_size(10) == sum(cache.n_bytes for cache in stack.new_cache(1, 10))


@pytest.mark.parametrize(
    ("mechanism", "why"),
    [
        (LinformerAttention(LearnedProjection(40, 4)), "LinformerAttention"),
        (NystromAttention(), "NystromAttention"),
        (FullAttention(), "causal=True"),
        (PerformerAttention(8), "causal=True"),
        (LSHAttention(causal=True, rule="chunk", max_len=40), "rule='chunk'"),
    ],
    ids=["linformer", "nystrom", "full", "performer", "lsh-chunk"],
)
def test_what_cannot_decode_has_none_and_says_why(mechanism, why):
    with pytest.raises(ValueError, match="step-by-step decoding") as refused:
        MultiHeadAttention(mechanism, dim=16, heads=2).state_size(40)
    assert why in str(refused.value)
