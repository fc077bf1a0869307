"""The weights of every mechanism are what it multiplies values by, and reading them changes nothing."""

import pytest
import torch
from mechanisms import CASES

from my_transformers import (
    DecoderLayer,
    EncoderLayer,
    EncoderStack,
    FeedForward,
    FullAttention,
    MultiHeadAttention,
    ReversibleStack,
)
from my_transformers.looking import recorded_weights

DIM, HEADS, N = 16, 2, 23


def attention(mechanism, **settings):
    return MultiHeadAttention(mechanism, dim=DIM, heads=HEADS, **settings).double().eval()


def values_of(made, x):
    """(b, h, n, d), by the definition of the last projection."""
    rows = made.to_heads.weight[-DIM:], made.to_heads.bias[-DIM:]
    return torch.nn.functional.linear(x, *rows).unflatten(-1, (HEADS, -1)).transpose(1, 2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_times_values_are_the_output(case):
    for causal in case.directions:
        made = attention(case.build(causal=causal, heads=HEADS, head_dim=DIM // HEADS))
        x = torch.randn(2, N, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        mask = torch.ones(2, N, dtype=torch.bool)
        mask[1, 17:] = False
        if not made.mechanism.has_weights:
            with pytest.raises(ValueError, match="learned or mean"):
                made.weights(x, mask=mask)
            continue
        weights = made.weights(x, mask=mask)
        expected = made.to_out((weights @ values_of(made, x)).transpose(1, 2).flatten(2))
        real = mask.unsqueeze(-1)
        torch.testing.assert_close(made(x, mask=mask) * real, expected * real, rtol=1e-9, atol=1e-9)
        if causal and not case.leaks_by_design:
            assert not weights[0].triu(1).any()


def test_every_layer_is_recorded_by_its_name_and_nothing_stays_on_the_model():
    def layer():
        return EncoderLayer(attention(FullAttention(causal=True)), FeedForward(DIM), dim=DIM).double()

    for stack in (EncoderStack([layer(), layer()], dim=DIM), ReversibleStack([layer(), layer()], dim=DIM)):
        stack = stack.double().eval()
        x = torch.randn(1, N, DIM, dtype=torch.float64)
        with recorded_weights(stack) as found, torch.no_grad():
            seen = stack(x)
        assert list(found) == ["layers.0.attention", "layers.1.attention"]
        assert all(torch.allclose(weights.sum(-1), torch.ones(()).double()) for weights in found.values())
        assert not torch.equal(*found.values())
        found.clear()
        with torch.no_grad():
            assert torch.equal(stack(x), seen)
        assert not found


def test_cross_attention_has_a_weight_for_each_token_of_the_context():
    layer = DecoderLayer(attention(FullAttention(causal=True)), attention(FullAttention()), FeedForward(DIM), dim=DIM)
    layer = layer.double().eval()
    x, context = (torch.randn(1, n, DIM, dtype=torch.float64) for n in (5, 7))
    context_mask = torch.arange(7) < torch.tensor([[4]])
    with recorded_weights(layer) as found:
        layer(x, context, context_mask=context_mask)
    assert found["cross_attention"].shape == (1, HEADS, 5, 7)
    assert not found["cross_attention"][..., 4:].any()


def test_weights_are_refused_in_training():
    with pytest.raises(ValueError, match="eval"):
        attention(FullAttention()).train().weights(torch.zeros(1, 3, DIM).double())
