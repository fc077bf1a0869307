from collections.abc import Callable

import pytest
import torch
from decoders import decoder_layers, target_and_context
from torch import Tensor, nn

from my_custom_ai.utils.measure import allocated_peak
from my_transformers import DecoderStack, ReversibleDecoderStack
from my_transformers.lsh import attention as lsh_module
from my_transformers.lsh import hashing as local_sensitive_hashing

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


def reversible(depth: int, *args: str, **settings: float) -> ReversibleDecoderStack:
    return ReversibleDecoderStack(decoder_layers(depth, *args, **settings), dim=16).double()


def two_streams(
    stack: ReversibleDecoderStack,
    x: Tensor,
    context: Tensor,
    mask: Tensor | None = None,
    context_mask: Tensor | None = None,
) -> Tensor:
    """What the stack computes, by ordinary autograd: each sublayer adds to the stream that the one before read."""
    streams = [x, x]
    number = 0
    for layer in stack.layers:
        for norm, f in (
            (layer.norm_attention, lambda y, f=layer.attention: f(y, mask=mask)),
            (layer.norm_cross_attention, lambda y, f=layer.cross_attention: f(y, context=context, mask=context_mask)),
            (layer.norm_feed_forward, layer.feed_forward),
        ):
            to, of = (0, 1) if number % 2 == 0 else (1, 0)
            streams[to] = streams[to] + layer.dropout(f(norm(streams[of])))
            number += 1
    return stack.final_norm((streams[0] + streams[1]) / 2)


def run(
    stack: nn.Module, forward: Callable[..., Tensor], x: Tensor, context: Tensor, seed: int, **masks: Tensor
) -> dict[str, Tensor]:
    """Output, all gradients, and random numbers drawn after forward and after backward."""
    stack.zero_grad()
    x, context = (y.detach().requires_grad_() for y in (x, context))
    torch.manual_seed(seed)
    out = forward(x, context, **masks)
    drawn = torch.rand(1)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    (out * weights).sum().backward()
    found = {"out": out, "x": x.grad, "context": context.grad, "drawn": drawn, "drawn after": torch.rand(1)}
    return found | {name: p.grad for name, p in stack.named_parameters()}


def assert_equal(ours: dict[str, Tensor | None], plain: dict[str, Tensor | None]) -> None:
    for name, expected in plain.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(ours[name], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("own", "across"),
    [("lsh", "full"), ("lsh", "linformer"), ("full", "performer"), ("performer", "full"), ("causal_linformer", "full")],
)
@pytest.mark.parametrize(("depth", "dropout", "seed"), [(1, 0.0, 0), (2, 0.3, 1), (3, 0.3, 2), (4, 0.0, 3)])
@pytest.mark.parametrize("device", DEVICES)
def test_gradients_equal_two_streams_of_autograd(
    own: str, across: str, depth: int, dropout: float, seed: int, device: str
) -> None:
    """Of x, the context and every parameter; dropout and fresh rotations are replayed and move no generator."""
    stack = reversible(depth, own, across, dropout=dropout).to(device).train()
    x, context, masks = target_and_context(n=14 + depth, m=11)
    x, context, masks = x.to(device), context.to(device), {name: mask.to(device) for name, mask in masks.items()}
    ours = run(stack, stack, x, context, seed, **masks)
    plain = run(stack, lambda *given, **m: two_streams(stack, *given, **m), x, context, seed, **masks)
    assert_equal(ours, plain)
    assert all(gradient.any() for name, gradient in ours.items() if "to_heads.bias" not in name)


def test_buckets_are_replayed_even_where_rounding_would_move_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing is asked once a layer; a second answer, here a wrong one, is never used."""
    calls = []

    def moody(qk: Tensor, rotations: Tensor, n_directions: Tensor | None) -> Tensor:
        calls.append(qk.shape)
        buckets = local_sensitive_hashing.bucket_of(qk, rotations, n_directions)
        return buckets if len(calls) <= 3 else buckets.flip(-1)

    stack = reversible(3, "lsh")
    x, context, _ = target_and_context(n=40)
    expected = run(stack, lambda *given: two_streams(stack, *given), x, context, 0)
    monkeypatch.setattr(lsh_module, "bucket_of", moody)
    ours = run(stack, stack, x, context, 0)
    assert len(calls) == 3
    assert_equal(ours, expected)


def test_a_context_that_wants_no_gradient() -> None:
    """As with a frozen encoder: the rest is unchanged. And the other way round, only the context wants one."""
    stack = reversible(3)
    x, context, masks = target_and_context()
    full = run(stack, stack, x, context, 0, **masks)
    alone = run(stack, lambda y, given, **m: stack(y, given.detach(), **m), x, context, 0, **masks)
    assert alone["context"] is None
    assert_equal(alone, full | {"context": None})
    stack.requires_grad_(False)
    only = run(stack, lambda y, given, **m: stack(y.detach(), given, **m), x, context, 0, **masks)
    assert {name for name, found in only.items() if found is not None} == {"out", "context", "drawn", "drawn after"}
    assert_equal(only, {name: full[name] for name in ("out", "context")})


def test_a_context_that_is_also_the_input_gets_both_gradients() -> None:
    stack = reversible(2)
    x, _, _ = target_and_context(n=6)
    ours = run(stack, lambda y, _: stack(y, y), x, x, 0)
    plain = run(stack, lambda y, _: two_streams(stack, y, y), x, x, 0)
    assert_equal(ours, plain)


def test_shared_layers_and_frozen_parameters() -> None:
    (layer,) = decoder_layers(1)
    stack = ReversibleDecoderStack([layer, layer], dim=16).double()
    layer.cross_attention.to_out.weight.requires_grad_(False)
    x, context, masks = target_and_context()
    ours = run(stack, stack, x, context, 0, **masks)
    plain = run(stack, lambda *given, **m: two_streams(stack, *given, **m), x, context, 0, **masks)
    assert sum(gradient is None for gradient in ours.values()) == 1
    assert_equal(ours, plain)


def test_two_forwards_before_backward_do_not_mix() -> None:
    stack = reversible(2, dropout=0.2)
    x, context, _ = target_and_context()
    other = torch.randn_like(context)
    alone = [run(stack, stack, x, given, seed) for given, seed in ((context, 1), (other, 2))]
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    stack.zero_grad()
    torch.manual_seed(1)
    first = stack(x, context)
    torch.manual_seed(2)
    ((first + stack(x, other)) * weights).sum().backward()
    for name, parameter in stack.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[0][name] + alone[1][name])


def peak_of_training(stack_class: type, depth: int) -> int:
    """Bytes at the worst instant of forward and backward; parameters are frozen, whose gradients do grow with depth."""
    stack = stack_class(decoder_layers(depth), dim=16).double().requires_grad_(False)
    x, context, _ = target_and_context(n=256, m=256, batch=1)
    x.requires_grad_()
    context.requires_grad_()
    return allocated_peak(lambda: stack(x, context).sum().backward(), torch.device("cpu"))


def test_memory_does_not_grow_with_depth() -> None:
    """But for the states of the random generator, one a sublayer."""
    activation = 256 * 16 * 8
    states = 3 * torch.get_rng_state().nbytes
    grown = peak_of_training(ReversibleDecoderStack, 6) - peak_of_training(ReversibleDecoderStack, 2)
    assert grown < 4 * states + activation / 10
    assert peak_of_training(DecoderStack, 6) - peak_of_training(DecoderStack, 2) > 4 * 10 * activation


def saved_bytes(depth: int, own: str) -> int:
    """What autograd keeps for backward, parameters aside."""
    stack = reversible(depth, own)
    x, context, _ = target_and_context()
    saved = []
    parameters = {p.data_ptr() for p in stack.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        saved.append(0 if tensor.data_ptr() in parameters else tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stack(x.requires_grad_(), context.requires_grad_())
    return sum(saved)


@pytest.mark.parametrize("own", ["full", "lsh"])
def test_what_is_saved_does_not_grow_with_depth(own: str) -> None:
    assert saved_bytes(6, own) == saved_bytes(1, own) > 0


def test_post_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm='pre'"):
        ReversibleDecoderStack(decoder_layers(2, norm="post"), dim=16)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_around_it() -> None:
    stack = reversible(2, "lsh", dropout=0.3)
    x, context, masks = target_and_context()
    compiled = torch.compile(stack, backend="aot_eager")
    assert_equal(run(stack, compiled, x, context, 0, **masks), run(stack, stack, x, context, 0, **masks))
