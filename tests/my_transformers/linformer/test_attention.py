import math
from collections.abc import Callable

import pytest
import torch
from linformer import LinformerSelfAttention
from torch import Tensor, nn

from my_transformers import (
    BlockCausalLinformerAttention,
    ConvolutionProjection,
    FullAttention,
    LearnedProjection,
    LengthProjection,
    LinformerAttention,
    MaxProjection,
    MeanProjection,
    MultiHeadAttention,
)

KINDS: dict[str, Callable[[int, int], LengthProjection]] = {
    "learned": LearnedProjection,
    "learned-heads": lambda max_len, rank: LearnedProjection(max_len, rank, heads=2),
    "mean": MeanProjection,
    "max": MaxProjection,
    "convolution": lambda max_len, rank: ConvolutionProjection(max_len, rank, head_dim=4),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def projected(projection: LengthProjection, x: Tensor) -> Tensor:
    """(n, d) of head h, all real -> (rank, d); the projection is for this head alone."""
    n = len(x)
    if isinstance(projection, LearnedProjection):
        return torch.stack([sum(row[t] * x[t] for t in range(n)) for row in projection.weight[0]])
    window = math.ceil(projection.max_len / projection.rank)
    parts = [x[start : start + window] for start in range(0, n, window)]
    if isinstance(projection, MeanProjection):
        return torch.stack([part.mean(0) for part in parts])
    if isinstance(projection, MaxProjection):
        return torch.stack([part.max(0).values for part in parts])
    return torch.stack([sum(x @ w for x, w in zip(part, projection.weight[0], strict=False)) for part in parts])


def of_head(projection: LengthProjection, h: int) -> LengthProjection:
    """The same projection as one head has it."""
    if not isinstance(projection, LearnedProjection):
        return projection
    one = LearnedProjection(projection.max_len, projection.rank).double()
    one.weight.data[0] = projection.weight[h % len(projection.weight)]
    return one


def attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """q (d,), keys (s, d), values (s, e) -> (e,)."""
    weights = [math.exp((q @ key).item() / math.sqrt(len(q))) for key in keys]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)


def mechanisms(mechanism: type, kind: str, max_len: int, rank: int, *, own_values: bool) -> nn.Module:
    return mechanism(*(KINDS[kind](max_len, rank) for _ in range(1 + own_values))).double()


def identity(n: int) -> LearnedProjection:
    projection = LearnedProjection(n, n).double()
    projection.weight.data[0] = torch.eye(n)
    return projection


def random(*lengths: int, batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, 2, n, 4, dtype=torch.float64) for n in lengths]


@kinds
@pytest.mark.parametrize("own_values", [False, True], ids=["key-value", "headwise"])
@pytest.mark.parametrize(("n", "m"), [(12, 12), (5, 12), (13, 7)])
def test_linformer_equals_the_formula(kind: str, own_values: bool, n: int, m: int) -> None:
    """softmax(q (E k)^T / sqrt(d)) F v for as many keys as the projection takes or fewer, and for other queries."""
    attend = mechanisms(LinformerAttention, kind, 12, 4, own_values=own_values)
    q, k, v = random(n, m, m)
    out = attend(q, k, v)
    of_values = attend.project_values if own_values else attend.project_keys
    for b in range(2):
        for h in range(2):
            keys, values = (
                projected(of_head(attend.project_keys, h), k[b, h]),
                projected(of_head(of_values, h), v[b, h]),
            )
            expected = torch.stack([attend_one(query, keys, values) for query in q[b, h]])
            torch.testing.assert_close(out[b, h], expected)


@kinds
@pytest.mark.parametrize("length", [3, 12])
def test_linformer_leaves_padded_keys_out(kind: str, length: int) -> None:
    """Of three real tokens only the first window has any: the others get no weight, not that of an empty key."""
    attend = mechanisms(LinformerAttention, kind, 12, 4, own_values=True)
    q, k, v = random(6, 12, 12)
    mask = torch.arange(12).expand(2, -1) < length
    torch.testing.assert_close(attend(q, k, v, mask=mask), attend(q, k[:, :, :length], v[:, :, :length]))


def test_linformer_of_scattered_real_tokens() -> None:
    """Windows of three with two, none, one and three real ones."""
    attend = LinformerAttention(MeanProjection(12, 4))
    q, k, v = random(5, 12, 12, batch=1)
    mask = torch.tensor([[1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1]]).bool()
    windows = [[0, 2], [7], [9, 10, 11]]
    keys, values = (torch.stack([x[:, :, tokens].mean(2) for tokens in windows], dim=2) for x in (k, v))
    torch.testing.assert_close(attend(q, k, v, mask=mask), FullAttention()(q, keys, values))


@kinds
@pytest.mark.parametrize("own_values", [False, True], ids=["key-value", "headwise"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("bias", [False, True], ids=["linear", "affine"])
def test_lengths_are_projected_before_heads_are_made_to_the_same_end(
    kind: str, own_values: bool, padded: bool, bias: bool
) -> None:
    attention = MultiHeadAttention(
        mechanisms(LinformerAttention, kind, 12, 4, own_values=own_values), dim=6, heads=2, head_dim=4, bias=bias
    ).double()
    x = torch.randn(3, 10, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(10) < torch.tensor([[10], [7], [1]]) if padded else None
    q, k, v = attention.to_heads(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = attention.to_out(attention.mechanism(q, k, v, mask=mask).transpose(1, 2).flatten(2))
    out = attention(x, mask=mask)
    torch.testing.assert_close(out, expected)
    weighed = torch.randn_like(out)
    wanted = [x, *attention.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, weighed), torch.autograd.grad(expected, wanted, weighed)
    )


@pytest.mark.parametrize("kind", ["learned", "mean"])
def test_linear_maps_of_keys_and_values_meet_projected_tokens_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = MultiHeadAttention(mechanisms(LinformerAttention, kind, 12, 3, own_values=True), dim=8, heads=2)
    lengths = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda y, *rest: lengths.append(y.shape[1]) or linear(y, *rest))
    attention.double()(torch.randn(1, 12, 8, dtype=torch.float64))
    assert sorted(lengths) == [3, 3, 12, 12]  # keys, values; queries, output


def test_identity_projections_make_linformer_full_attention() -> None:
    q, k, v = random(7, 9, 9)
    for projections in ([identity(9)], [identity(9), identity(9)], [MeanProjection(9, 9)], [MaxProjection(9, 9)]):
        torch.testing.assert_close(LinformerAttention(*projections)(q, k, v), FullAttention()(q, k, v))


@pytest.mark.parametrize("context", [None, 9, 6], ids=["itself", "context", "short-context"])
@pytest.mark.parametrize("n", [10, 7])
def test_parity_with_the_linformer_library(context: int | None, n: int) -> None:
    theirs = LinformerSelfAttention(16, seq_len=10, k=4, heads=2).double()
    mechanism = LinformerAttention(LearnedProjection(10, 4), LearnedProjection(10, 4))
    ours = MultiHeadAttention(mechanism, dim=16, heads=2).double()
    with torch.no_grad():
        ours.to_heads.weight.copy_(torch.cat([layer.weight for layer in (theirs.to_q, theirs.to_k, theirs.to_v)]))
        ours.to_heads.bias.zero_()  # theirs has none
        ours.to_out.load_state_dict(theirs.to_out.state_dict())
        mechanism.project_keys.weight[0] = theirs.proj_k.T
        mechanism.project_values.weight[0] = theirs.proj_v.T
    x = torch.randn(3, n, 16, dtype=torch.float64)
    other = None if context is None else torch.randn(3, context, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x, context=other), theirs(x, context=other))


def test_parity_with_the_linformer_library_where_keys_and_values_share() -> None:
    """Theirs then shares the linear layers as well."""
    theirs = LinformerSelfAttention(16, seq_len=10, k=4, heads=2, share_kv=True).double()
    mechanism = LinformerAttention(LearnedProjection(10, 4))
    ours = MultiHeadAttention(mechanism, dim=16, heads=2).double()
    with torch.no_grad():
        ours.to_heads.weight.copy_(torch.cat([layer.weight for layer in (theirs.to_q, theirs.to_k, theirs.to_k)]))
        ours.to_heads.bias.zero_()
        ours.to_out.load_state_dict(theirs.to_out.state_dict())
        mechanism.project_keys.weight[0] = theirs.proj_k.T
    x = torch.randn(3, 10, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("sharing", "matrices"), [("none", 12 * 12 * 2), ("headwise", 24), ("key-value", 12), ("layerwise", 1)]
)
def test_sharing_leaves_as_many_projection_matrices_as_the_paper_counts(sharing: str, matrices: int) -> None:
    """Section 4, of 12 layers of 12 heads."""
    common = LearnedProjection(32, 4)

    def mechanism() -> LinformerAttention:
        match sharing:
            case "none":
                return LinformerAttention(LearnedProjection(32, 4, heads=12), LearnedProjection(32, 4, heads=12))
            case "headwise":
                return LinformerAttention(LearnedProjection(32, 4), LearnedProjection(32, 4))
            case "key-value":
                return LinformerAttention(LearnedProjection(32, 4))
            case "layerwise":
                return LinformerAttention(common)

    layers = nn.ModuleList(MultiHeadAttention(mechanism(), dim=24, heads=12) for _ in range(12))
    found = [p for name, p in layers.named_parameters() if "project_" in name]  # each parameter once
    assert sum(p.numel() for p in found) == matrices * 32 * 4


def test_shared_keys_and_values_train_the_one_projection_through_both() -> None:
    """Its gradient is the sum of those that equal ones of their own would have."""
    shared = LinformerAttention(LearnedProjection(9, 3).double())
    apart = LinformerAttention(LearnedProjection(9, 3).double(), LearnedProjection(9, 3).double())
    for projection in (apart.project_keys, apart.project_values):
        projection.load_state_dict(shared.project_keys.state_dict())
    q, k, v = random(5, 9, 9)
    for attend in (shared, apart):
        attend(q, k, v).sin().sum().backward()
    both = apart.project_keys.weight.grad + apart.project_values.weight.grad
    torch.testing.assert_close(shared.project_keys.weight.grad, both)


def test_linformer_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="cannot be causal; use BlockCausalLinformerAttention"):
        LinformerAttention(LearnedProjection(8, 2), causal=True)
    with pytest.raises(ValueError, match="keys are projected to rank 2, but values to rank 3"):
        LinformerAttention(LearnedProjection(8, 2), LearnedProjection(8, 3))
    with pytest.raises(ValueError, match="9 tokens, but the projection was made for max_len=8"):
        LinformerAttention(LearnedProjection(8, 2))(*random(4, 9, 9, batch=1))
    with pytest.raises(ValueError, match=r"dropout is 1\.5"):
        LinformerAttention(LearnedProjection(8, 2), dropout=1.5)


def block_causal_twin(attend: BlockCausalLinformerAttention, k: Tensor, v: Tensor, h: int, i: int) -> tuple:
    """Keys and values that query i of a head sees; k and v (n, d)."""
    size, values_by = attend.project_keys.max_len, attend.project_values or attend.project_keys
    start = i // size * size
    keys, values = list(k[start : i + 1]), list(v[start : i + 1])
    for first in range(0, start, size):
        keys += projected(of_head(attend.project_keys, h), k[first : first + size])
        values += projected(of_head(values_by, h), v[first : first + size])
    return torch.stack(keys), torch.stack(values)


@kinds
@pytest.mark.parametrize("own_values", [False, True])
@pytest.mark.parametrize("n", [1, 6, 7, 14])
def test_block_causal_linformer_equals_the_formula(kind: str, own_values: bool, n: int) -> None:
    """Query by query: the keys of its block up to itself, and each finished block's projected ones."""
    attend = mechanisms(BlockCausalLinformerAttention, kind, 6, 3, own_values=own_values)
    q, k, v = random(n, n, n, batch=1)
    out = attend(q, k, v)[0]
    for h in range(2):
        for i in range(n):
            seen = block_causal_twin(attend, k[0, h], v[0, h], h, i)
            torch.testing.assert_close(out[h, i], attend_one(q[0, h, i], *seen))


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_block_causal_linformer_leaves_padding_out_of_finished_blocks(kind: str) -> None:
    """Blocks of six in windows of two: one window without a real token, and one block."""
    attend = mechanisms(BlockCausalLinformerAttention, kind, 6, 3, own_values=False)
    q, k, v = random(18, 18, 18, batch=1)
    mask = torch.ones(1, 18, dtype=torch.bool)
    mask[0, [1, 2, 3, *range(6, 12)]] = False
    windows = [[0], [4, 5]]  # of the first block; of the second there are none
    out = attend(q, k, v, mask=mask)
    for i in range(12, 18):
        for h in range(2):
            seen = []
            for x in (k[0, h], v[0, h]):
                far = [x[w].mean(0) if kind == "mean" else x[w].max(0).values for w in windows]
                seen.append(torch.stack([*far, *x[12 : i + 1]]))
            torch.testing.assert_close(out[0, h, i], attend_one(q[0, h, i], *seen))


@pytest.mark.parametrize("kind", ["learned", "learned-heads", "convolution"])
def test_a_block_of_padding_alone_adds_no_empty_tokens(kind: str) -> None:
    attend = mechanisms(BlockCausalLinformerAttention, kind, 6, 3, own_values=True)
    q, k, v = random(14, 14, 14)
    mask = torch.arange(14).expand(2, -1) >= 6
    bare = attend(*(x[:, :, 6:] for x in (q, k, v)))
    torch.testing.assert_close(attend(q, k, v, mask=mask)[:, :, 6:], bare)


def test_identity_projections_make_block_causal_linformer_full_causal_attention() -> None:
    q, k, v = random(23, 23, 23)
    full = FullAttention(causal=True)
    mask = torch.rand(2, 23) < 0.7
    real = mask[:, None, :, None]
    for projection in (MeanProjection(5, 5), MaxProjection(5, 5)):
        attend = BlockCausalLinformerAttention(projection)
        torch.testing.assert_close(attend(q, k, v), full(q, k, v))
        torch.testing.assert_close(attend(q, k, v, mask=mask) * real, full(q, k, v, mask=mask) * real)
    torch.testing.assert_close(BlockCausalLinformerAttention(identity(5))(q, k, v), full(q, k, v))


@kinds
@pytest.mark.parametrize("n", [16, 9])
def test_one_block_that_holds_all_is_full_causal_attention(kind: str, n: int) -> None:
    q, k, v = random(n, n, n)
    attend = mechanisms(BlockCausalLinformerAttention, kind, 16, 4, own_values=True)
    torch.testing.assert_close(attend(q, k, v), FullAttention(causal=True)(q, k, v))


def test_the_cache_holds_a_block_and_the_finished_ones_projections_alone() -> None:
    """Long sequences: 2 d (B + rank n / B) numbers a head."""
    q = torch.randn(3, 2, 1, 4)
    cache = BlockCausalLinformerAttention(MeanProjection(8, 2)).new_cache(q, 803)
    assert cache.block.numel() + cache.far.numel() == 3 * 2 * 2 * 4 * (8 + 2 * 100)


def test_block_causal_linformer_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="use LinformerAttention for both directions"):
        BlockCausalLinformerAttention(MeanProjection(8, 2), causal=False)
    with pytest.raises(ValueError, match="keys are projected to rank 2, but values to rank 4"):
        BlockCausalLinformerAttention(MeanProjection(8, 2), MeanProjection(8, 4))
    with pytest.raises(ValueError, match="blocks of 8 keys, but of 16 values"):
        BlockCausalLinformerAttention(MeanProjection(8, 2), MeanProjection(16, 2))
    with pytest.raises(ValueError, match=r"dropout is -0\.1"):
        BlockCausalLinformerAttention(MeanProjection(8, 2), dropout=-0.1)
    with pytest.raises(ValueError, match="4 queries and 9 keys"):
        BlockCausalLinformerAttention(MeanProjection(8, 2))(*random(4, 9, 9, batch=1))
