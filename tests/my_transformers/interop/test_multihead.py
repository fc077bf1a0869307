"""The stand-in for torch.nn.MultiheadAttention: with full attention it must do what that module does."""

import pytest
import torch
from torch import nn

from my_transformers import (
    FullAttention,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MaxProjection,
    PerformerAttention,
)
from my_transformers.interop import as_multihead_attention

CAUSAL = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
PADDING = torch.arange(9) >= torch.tensor([[9], [6]])  # True where padding, as in torch


def pair(mechanism=None, dim=16, heads=4, **others):
    """Torch's module and ours, with the same weights, in float64."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(dim, heads, dtype=torch.float64, **others)
    ours = as_multihead_attention(mechanism or FullAttention(), dim, heads, dtype=torch.float64, **others)
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).unexpected_keys
    return theirs.eval(), ours.eval()


def tokens(length=9, width=16, seed=1):
    return torch.randn(2, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(theirs, ours, *inputs, **others):
    for one, other in zip(theirs(*inputs, **others), ours(*inputs, **others), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("average_attn_weights", [True, False])
def test_equals_torch_with_padding(need_weights, average_attn_weights):
    x = tokens()
    choice = {"need_weights": need_weights, "average_attn_weights": average_attn_weights}
    theirs, ours = pair(batch_first=True)
    assert_same(theirs, ours, x, x, x, key_padding_mask=PADDING, **choice)
    added = torch.zeros(2, 9, dtype=torch.float64).masked_fill(PADDING, -torch.inf)
    assert_same(theirs, ours, x, x, x, key_padding_mask=added, **choice)


@pytest.mark.parametrize("hint", [True, False])
def test_equals_torch_with_the_causal_mask(hint):
    x = tokens().transpose(0, 1)
    theirs, ours = pair(FullAttention(causal=True), bias=False)
    for mask in (CAUSAL, -torch.inf == CAUSAL):
        assert_same(theirs, ours, x, x, x, attn_mask=mask, is_causal=hint)


def test_equals_torch_on_other_keys_of_another_width_and_without_a_batch():
    theirs, ours = pair(kdim=6, vdim=10)
    query, key, value = tokens(9)[0], tokens(7, 6)[0], tokens(7, 10)[0]
    assert_same(theirs, ours, query, key, value, key_padding_mask=torch.arange(7) > 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_layer_runs_the_mechanism_also_where_torch_has_a_fast_path(training, causal, norm_first):
    """The fast path of evaluation would compute softmax attention from the weights, whatever the module does."""
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "batch_first": True, "dtype": torch.float64, "norm_first": norm_first}
    layer = nn.TransformerEncoderLayer(16, 4, 32, **settings).train(training)
    x, padding = tokens(), None if causal else PADDING
    given = {"src_mask": CAUSAL, "is_causal": True} if causal else {"src_key_padding_mask": padding}
    results = {}
    with torch.no_grad():
        exact = layer(x, **given)
        weights = layer.self_attn.state_dict()
        for name, mechanism in {
            "full": FullAttention(causal=causal),
            "performer": PerformerAttention(4, n_features=4, causal=causal),
        }.items():
            layer.self_attn = as_multihead_attention(mechanism, 16, 4, batch_first=True, dtype=torch.float64)
            layer.self_attn.load_state_dict(weights, strict=False)
            results[name] = layer.train(training)(x, **given)
    shown = ~PADDING if padding is not None else torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(results["full"][shown], exact[shown])
    assert (results["performer"] - exact)[shown].abs().max() > 1e-3


def test_an_encoder_trains_through_it():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    layer.self_attn = as_multihead_attention(LocalAttention(chunk_size=2), 16, 4, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    encoder(tokens().float(), src_key_padding_mask=PADDING).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in encoder.named_parameters() if "in_proj" in n)


def test_weights_belong_to_the_outputs_also_under_dropout():
    """The mechanism draws once: weights times values is the output, before the projection."""
    torch.manual_seed(0)
    ours = as_multihead_attention(FullAttention(dropout=0.5), 4, 1, batch_first=True, bias=False).train()
    nn.init.eye_(ours.out_proj.weight)
    x = tokens(9, 4).float()
    out, weights = ours(x, x, x)
    assert (weights == 0).any()
    torch.testing.assert_close(out, weights @ ours._heads(x, x, x)[2].squeeze(1))


def test_what_the_mechanism_cannot_do_is_refused():
    x = tokens()
    _, both = pair(batch_first=True)
    _, forward = pair(FullAttention(causal=True), batch_first=True)
    _, local = pair(LocalAttention(chunk_size=2), batch_first=True)
    _, largest = pair(LinformerAttention(MaxProjection(9, 3)), batch_first=True)
    cases = (
        ("causal=False", lambda: both(x, x, x, attn_mask=CAUSAL)),
        ("causal mask", lambda: forward(x, x, x)),
        ("causal mask", lambda: forward(x, x, x, attn_mask=CAUSAL.roll(1, 0))),
        ("causal mask", lambda: forward(x, x, x, attn_mask=torch.where(CAUSAL == 0, 0.5, CAUSAL))),
        ("0 and -inf", lambda: both(x, x, x, key_padding_mask=torch.full((2, 9), 0.5, dtype=torch.float64))),
        ("another sequence", lambda: local(x, tokens(seed=2), x)),
        ("need_weights=False", lambda: largest(x, x, x)),
        ("shares queries and keys", lambda: as_multihead_attention(LSHAttention(max_len=9), 16, 4)),
        ("dropout is 0.1", lambda: as_multihead_attention(FullAttention(), 16, 4, dropout=0.1)),
        ("add_bias_kv", lambda: as_multihead_attention(FullAttention(), 16, 4, add_bias_kv=True)),
        ("multiple of num_heads", lambda: as_multihead_attention(FullAttention(), 16, 3)),
    )
    for says, call in cases:
        with pytest.raises(ValueError, match=says):
            call()
