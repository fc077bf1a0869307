import pytest
import torch
from torch import nn

from my_transformers import FeedForward, FullAttention, LSHAttention, MultiHeadAttention, SharedQKAttention


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
    other = MultiHeadAttention(LSHAttention(bucket_size=32, causal=True), dim=16, heads=2)
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
