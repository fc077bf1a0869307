import pytest
import torch
from decoders import decoder_layers, target_and_context
from stacks import layers, lsh
from torch import nn

from my_transformers import (
    DecoderStack,
    EncoderLayer,
    EncoderStack,
    FeedForward,
    FullAttention,
    MultiHeadAttention,
    PerformerAttention,
    ReversibleStack,
    SharedQKAttention,
)


def full(_: int, dropout: float) -> FullAttention:
    return FullAttention(causal=True, dropout=dropout)


def shared(_: int, dropout: float) -> SharedQKAttention:
    return SharedQKAttention(causal=True, dropout=dropout)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_layer_equals_torchs(norm: str) -> None:
    """torch.nn.TransformerEncoderLayer with the same weights: residuals, norms and W_o each where they belong, once."""
    ours = EncoderLayer(
        MultiHeadAttention(FullAttention(), dim=12, heads=3), FeedForward(12, 20), dim=12, norm=norm
    ).double()
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0, activation="gelu", batch_first=True, norm_first=norm == "pre"
    ).double()
    theirs.self_attn.in_proj_weight.data = ours.attention.to_heads.weight.data
    theirs.self_attn.in_proj_bias.data = torch.randn_like(ours.attention.to_heads.bias)
    ours.attention.to_heads.bias.data = theirs.self_attn.in_proj_bias.data
    theirs.self_attn.out_proj.load_state_dict(ours.attention.to_out.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.contract.state_dict())
    for mine, other in ((ours.norm_attention, theirs.norm1), (ours.norm_feed_forward, theirs.norm2)):
        mine.weight.data = other.weight.data = torch.randn(12, dtype=torch.float64)
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    mask = torch.arange(9).expand(2, -1) < 7
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask=mask)[:, :7], expected[:, :7])


@pytest.mark.parametrize("stack_class", [EncoderStack, ReversibleStack])
@pytest.mark.parametrize("mechanism", [lsh, full, shared])
def test_masks_reach_every_layer(stack_class: type, mechanism: object) -> None:
    """An earlier system dropped them on the way into its reversible encoder."""
    stack = stack_class(layers(3, mechanism), dim=16).double().eval()
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    mask = torch.rand(30).expand(2, -1) < 0.7
    changed = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x))
    out, other = stack(x, mask=mask), stack(changed, mask=mask)
    torch.testing.assert_close(other[:, mask[0]], out[:, mask[0]], rtol=0, atol=1e-11)


@pytest.mark.parametrize("stack_class", [EncoderStack, ReversibleStack])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("mechanism", [lsh, full])
def test_steps_equal_the_whole(stack_class: type, norm: str, mechanism: object) -> None:
    if stack_class is ReversibleStack and norm == "post":
        with pytest.raises(ValueError, match="norm='pre'"):
            stack_class(layers(2, mechanism, norm=norm), dim=16)
        return
    stack = stack_class(layers(3, mechanism, norm=norm), dim=16).double().eval()
    x = torch.randn(2, 33, 16, dtype=torch.float64)
    caches = stack.new_cache(2, 33)
    one_by_one = torch.cat([stack.step(x[:, t : t + 1], caches) for t in range(33)], dim=1)
    torch.testing.assert_close(one_by_one, stack(x), rtol=0, atol=1e-12)


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is 'rms'"):
        layers(1, norm="rms")


def test_dropout_reaches_every_place() -> None:
    stack = EncoderStack(layers(2, dropout=0.25), dim=16)
    rates = [module.p for module in stack.modules() if isinstance(module, nn.Dropout)]
    rates += [module.dropout for module in stack.modules() if hasattr(module, "n_rounds")]
    assert rates == [0.25] * 6


def redrawing(_: int, dropout: float) -> PerformerAttention:
    return PerformerAttention(4, n_features=8, causal=True, redraw_every=1, dropout=dropout)


def seen(stack: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Output, random numbers drawn after forward and after backward, gradients, and the mechanisms' states."""
    torch.manual_seed(1)
    x = inputs[0].detach().requires_grad_()
    out = stack(x, *inputs[1:])
    drawn = torch.rand(1)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out, drawn, torch.rand(1), x.grad, *(p.grad for p in stack.parameters()), *stack.buffers()]


@pytest.mark.parametrize("mechanism", [lsh, redrawing])
def test_recomputed_layers_are_the_same_bit_for_bit(mechanism: object) -> None:
    """With dropout, fresh hashes and directions that are drawn anew at each call."""
    kept, recomputed = (
        EncoderStack(layers(3, mechanism, dropout=0.3), dim=16, recompute=recompute) for recompute in (False, True)
    )
    x = torch.randn(2, 20, 16)
    for a, b in zip(seen(kept, x), seen(recomputed, x), strict=True):
        assert torch.equal(a, b)


def test_recomputed_decoder_is_the_same_bit_for_bit() -> None:
    kept, recomputed = (
        DecoderStack(decoder_layers(2, "lsh", "linformer", dropout=0.3), dim=16, recompute=recompute).double()
        for recompute in (False, True)
    )
    x, context, _ = target_and_context()
    contexts = [context.clone().requires_grad_() for _ in range(2)]
    ours, theirs = (seen(stack, x, one) for stack, one in zip((recomputed, kept), contexts, strict=True))
    for a, b in zip([*ours, contexts[0].grad], [*theirs, contexts[1].grad], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputation_keeps_inputs_alone_and_calls_each_layer_again(recompute: bool) -> None:
    calls, kept = [], []
    stacks = (
        EncoderStack(layers(3), dim=16, recompute=recompute),
        DecoderStack(decoder_layers(3), dim=16, recompute=recompute),
    )
    x, context, _ = target_and_context()
    for stack, inputs in zip(stacks, ((x,), (x, context)), strict=True):
        for layer in stack.layers:
            layer.feed_forward.register_forward_pre_hook(lambda *_: calls.append(1))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            out = stack.double()(*inputs)
        assert len(calls) == 3
        out.sum().backward()
        assert len(calls) == (6 if recompute else 3)
        assert (sum(kept) > 20 * x.numel()) != recompute
        calls.clear(), kept.clear()


@pytest.mark.slow
def test_recomputed_layers_are_compiled() -> None:
    torch.compiler.reset()
    stack = EncoderStack(layers(2, full), dim=16, recompute=True)
    x = torch.randn(2, 20, 16)
    compiled = torch.compile(stack, backend="aot_eager", fullgraph=True)
    expected = [tensor.clone() for tensor in seen(stack, x)]
    stack.zero_grad()
    for a, b in zip(seen(compiled, x), expected, strict=True):
        torch.testing.assert_close(a, b)
    gradients = torch.func.grad(lambda y: stack(y).square().sum())(x)
    x.requires_grad_()
    assert torch.allclose(gradients, torch.autograd.grad(stack(x).square().sum(), x)[0], atol=1e-6)
