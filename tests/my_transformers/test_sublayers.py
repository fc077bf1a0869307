import pytest
import torch
from torch import nn

from my_transformers import (
    BlockCausalLinformerAttention,
    FeedForward,
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LSHAttention,
    MeanProjection,
    MultiHeadAttention,
    PerformerAttention,
    RelativeAttention,
    SharedQKAttention,
)


def test_multi_head_attention_equals_torchs() -> None:
    """torch.nn.MultiheadAttention with the same weights; its key_padding_mask is True at padding."""
    ours = MultiHeadAttention(FullAttention(causal=True), dim=24, heads=3).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.to_heads.weight)
        theirs.in_proj_bias.copy_(ours.to_heads.bias)
        theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    x = torch.randn(2, 11, 24, dtype=torch.float64)
    mask = torch.arange(11).expand(2, -1) < 8
    future = torch.ones(11, 11).triu(1).bool()
    expected, _ = theirs(x, x, x, key_padding_mask=~mask, attn_mask=future)
    torch.testing.assert_close(ours(x, mask=mask)[:, :8], expected[:, :8])


def test_heads_are_split_by_the_papers_formula_also_when_head_dim_is_free() -> None:
    """Concat(heads) W_o with heads * head_dim unequal dim; an earlier system applied W_o twice and crashed."""
    attention = MultiHeadAttention(SharedQKAttention(), dim=10, heads=3, head_dim=4).double()
    x = torch.randn(2, 7, 10, dtype=torch.float64)
    qk, v = attention.to_heads(x).split(12, dim=-1)
    qk = 2 * qk  # the root of head_dim: keys of unit length would make scores that much smaller
    heads = [
        attention.mechanism(qk[..., 4 * h : 4 * h + 4].unsqueeze(1), v[..., 4 * h : 4 * h + 4].unsqueeze(1)).squeeze(1)
        for h in range(3)
    ]
    torch.testing.assert_close(attention(x), attention.to_out(torch.cat(heads, dim=-1)))


def test_shared_query_key_mechanisms_exchange_weights() -> None:
    trained = MultiHeadAttention(SharedQKAttention(causal=True), dim=16, heads=2)
    other = MultiHeadAttention(LSHAttention(bucket_size=32, max_len=20, causal=True), dim=16, heads=2)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(2, 20, 16)
    torch.testing.assert_close(other(x), trained(x))


def test_shared_queries_and_keys_score_as_in_the_authors_implementation() -> None:
    """q . k / ||k||, without another division by the root of head_dim."""
    attention = MultiHeadAttention(SharedQKAttention(), dim=8, heads=1).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    q, v = attention.to_heads(x).chunk(2, dim=-1)
    scores = (q @ (q / q.norm(dim=-1, keepdim=True)).mT).masked_fill(torch.eye(9).bool(), -torch.inf)
    torch.testing.assert_close(attention(x), attention.to_out(scores.softmax(-1) @ v))


CROSSING = [
    FullAttention(),
    LinformerAttention(LearnedProjection(12, 4), LearnedProjection(12, 4)),
    LinformerAttention(MeanProjection(12, 4)),
    PerformerAttention(8, n_features=16),
]
crossing = pytest.mark.parametrize("mechanism", CROSSING, ids=["full", "learned", "mean", "performer"])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_cross_attention_equals_torchs(padded: bool, bias: bool) -> None:
    ours = MultiHeadAttention(FullAttention(), dim=24, heads=3, bias=bias).double()
    theirs = nn.MultiheadAttention(24, 3, batch_first=True, bias=bias).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.to_heads.weight)
        if bias:
            theirs.in_proj_bias.copy_(ours.to_heads.bias)
        theirs.out_proj.load_state_dict(ours.to_out.state_dict())
    x, context = torch.randn(2, 5, 24, dtype=torch.float64), torch.randn(2, 11, 24, dtype=torch.float64)
    mask = torch.arange(11).expand(2, -1) < torch.tensor([[8], [11]])
    expected, _ = theirs(x, context, context, key_padding_mask=~mask if padded else None)
    torch.testing.assert_close(ours(x, context=context, mask=mask if padded else None), expected)


@crossing
@pytest.mark.parametrize("lengths", [(5, 11), (11, 5), (7, 7)])
def test_cross_attention_takes_queries_of_x_and_keys_and_values_of_the_context(
    mechanism: nn.Module, lengths: tuple[int, int]
) -> None:
    """By three projections, head by head; head_dim is free."""
    attention = MultiHeadAttention(mechanism, dim=10, heads=3, head_dim=8).double()
    x, context = (torch.randn(2, n, 10, dtype=torch.float64) for n in lengths)
    mask = torch.rand(2, lengths[1]) < 0.7
    mask[:, 0] = True
    weights, biases = attention.to_heads.weight.split(24), attention.to_heads.bias.split(24)
    q, k, v = (y @ w.T + b for y, w, b in zip((x, context, context), weights, biases, strict=True))
    heads = [mechanism(*(y[..., 8 * h : 8 * h + 8].unsqueeze(1) for y in (q, k, v)), mask=mask) for h in range(3)]
    expected = attention.to_out(torch.cat([head.squeeze(1) for head in heads], dim=-1))
    torch.testing.assert_close(attention(x, context=context, mask=mask), expected)


@crossing
def test_a_context_equal_to_x_is_self_attention(mechanism: nn.Module) -> None:
    attention = MultiHeadAttention(mechanism, dim=24, heads=3).double()
    x = torch.randn(2, 9, 24, dtype=torch.float64)
    mask = torch.arange(9).expand(2, -1) < 6
    torch.testing.assert_close(attention(x, context=x.clone(), mask=mask), attention(x, mask=mask))


@crossing
def test_padding_of_the_context_is_invisible(mechanism: nn.Module) -> None:
    attention = MultiHeadAttention(mechanism, dim=24, heads=3).double()
    x, context = torch.randn(2, 4, 24, dtype=torch.float64), torch.randn(2, 9, 24, dtype=torch.float64)
    mask = torch.arange(9).expand(2, -1) < 6
    other = torch.where(mask.unsqueeze(-1), context, 50)
    out = attention(x, context=other, mask=mask)
    torch.testing.assert_close(out, attention(x, context=context, mask=mask), rtol=0, atol=1e-12)
    torch.testing.assert_close(out, attention(x, context=context[:, :6]))


@pytest.mark.parametrize("mechanism", [SharedQKAttention(), LSHAttention(bucket_size=4)], ids=["shared", "lsh"])
def test_shared_queries_and_keys_refuse_a_context(mechanism: nn.Module) -> None:
    attention = MultiHeadAttention(mechanism, dim=24, heads=3)
    with pytest.raises(ValueError, match="shared queries and keys cannot attend to a context"):
        attention(torch.randn(1, 5, 24), context=torch.randn(1, 5, 24))


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (FullAttention(causal=True), "got 5 queries and 9 keys"),
        (PerformerAttention(8, causal=True), "got 5 queries and 9 keys"),
        (
            BlockCausalLinformerAttention(MeanProjection(8, 2)),
            "BlockCausalLinformer.* cannot attend to a context",
        ),
        (RelativeAttention(FullAttention(), heads=3, head_dim=8), "RelativeAttention cannot attend to a context"),
    ],
    ids=["full", "performer", "block-causal", "relative"],
)
def test_causal_and_relative_mechanisms_refuse_a_context_of_another_length(mechanism: nn.Module, message: str) -> None:
    attention = MultiHeadAttention(mechanism, dim=24, heads=3)
    with pytest.raises(ValueError, match=message):
        attention(torch.randn(1, 5, 24), context=torch.randn(1, 9, 24))


def test_dim_must_be_divisible_by_heads() -> None:
    with pytest.raises(ValueError, match="dim 10 is not divisible by heads 4"):
        MultiHeadAttention(FullAttention(), dim=10, heads=4)


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11, 64])
def test_chunked_feed_forward_equals_the_whole(chunk_size: int) -> None:
    whole = FeedForward(6, 20, activation="relu").double()
    chunked = FeedForward(6, 20, activation="relu", chunk_size=chunk_size).double()
    chunked.load_state_dict(whole.state_dict())
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    torch.testing.assert_close(chunked(x), whole(x))
    torch.testing.assert_close(whole(x), whole.contract(whole.expand(x).clamp_min(0)))


def test_chunks_bound_the_hidden_layer() -> None:
    sizes = []
    feed_forward = FeedForward(6, 20, chunk_size=4)
    feed_forward.expand.register_forward_hook(lambda _, __, out: sizes.append(out.shape[1]))
    feed_forward(torch.randn(2, 11, 6))
    assert sizes == [4, 4, 3]


def test_feed_forward_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="activation is 'swish'"):
        FeedForward(4, activation="swish")
    with pytest.raises(ValueError, match="chunk_size is -1"):
        FeedForward(4, chunk_size=-1)
