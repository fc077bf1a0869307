from itertools import product

import pytest
import torch
from decoders import ACROSS, LONGEST, OWN, decoder_layers, target_and_context
from torch import Tensor, nn

from my_transformers import (
    DecoderLayer,
    DecoderStack,
    FeedForward,
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LSHAttention,
    MultiHeadAttention,
    PerformerAttention,
    ReversibleDecoderStack,
    SharedQKAttention,
)
from my_transformers.performer import features as performer_features

norms = pytest.mark.parametrize("norm", ["pre", "post"])
pairs = pytest.mark.parametrize(("own", "across"), list(product(OWN, ACROSS)))
STACKS = [(DecoderStack, "pre"), (DecoderStack, "post"), (ReversibleDecoderStack, "pre")]
stacks = pytest.mark.parametrize(("stack_class", "norm"), STACKS)


def formula(
    layer: DecoderLayer, x: Tensor, context: Tensor, mask: Tensor | None = None, context_mask: Tensor | None = None
) -> Tensor:
    """Written out; dropout where Vaswani et al. 2017, section 5.4 put it."""
    sublayers = [
        (layer.norm_attention, lambda y: layer.attention(y, mask=mask)),
        (layer.norm_cross_attention, lambda y: layer.cross_attention(y, context=context, mask=context_mask)),
        (layer.norm_feed_forward, layer.feed_forward),
    ]
    for norm, f in sublayers:
        x = x + layer.dropout(f(norm(x))) if layer.norm == "pre" else norm(x + layer.dropout(f(x)))
    return x


@pairs
@norms
def test_a_layer_equals_the_formula_also_with_dropout(own: str, across: str, norm: str) -> None:
    (layer,) = decoder_layers(1, own, across, norm=norm, dropout=0.3)
    x, context, masks = target_and_context()
    torch.manual_seed(1)
    out = layer(x, context, **masks)
    torch.manual_seed(1)
    torch.testing.assert_close(out, formula(layer, x, context, **masks))


@norms
@pytest.mark.parametrize("padded", [False, True])
def test_a_layer_equals_torchs(norm: str, padded: bool) -> None:
    """torch.nn.TransformerDecoderLayer with the same weights."""
    ours = DecoderLayer(
        MultiHeadAttention(FullAttention(causal=True), dim=12, heads=3),
        MultiHeadAttention(FullAttention(), dim=12, heads=3),
        FeedForward(12, 20, activation="relu"),
        dim=12,
        norm=norm,
    ).double()
    theirs = nn.TransformerDecoderLayer(
        12, 3, 20, dropout=0, activation="relu", batch_first=True, norm_first=norm == "pre"
    ).double()
    for mine, other in ((ours.attention, theirs.self_attn), (ours.cross_attention, theirs.multihead_attn)):
        other.in_proj_weight.data = mine.to_heads.weight.data
        other.in_proj_bias.data = mine.to_heads.bias.data
        other.out_proj.load_state_dict(mine.to_out.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward.expand.state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward.contract.state_dict())
    for mine, other in (
        (ours.norm_attention, theirs.norm1),
        (ours.norm_cross_attention, theirs.norm2),
        (ours.norm_feed_forward, theirs.norm3),
    ):
        mine.weight.data = other.weight.data = torch.randn(12, dtype=torch.float64)
    x, context = torch.randn(2, 9, 12, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.arange(9).expand(2, -1) < (7 if padded else 9)
    context_mask = torch.arange(5) < torch.tensor([[3], [5]]) if padded else torch.ones(2, 5).bool()
    expected = theirs(
        x,
        context,
        tgt_mask=torch.ones(9, 9).triu(1).bool(),
        tgt_key_padding_mask=~mask,
        memory_key_padding_mask=~context_mask,
    )
    given = {"mask": mask, "context_mask": context_mask} if padded else {}
    torch.testing.assert_close(ours(x, context, **given)[mask], expected[mask])


@norms
def test_a_stack_is_its_layers_in_order_and_a_norm_if_they_are_pre_norm(norm: str) -> None:
    stack = DecoderStack(decoder_layers(3, norm=norm), dim=16).double()
    x, context, masks = target_and_context()
    expected = x
    for layer in stack.layers:
        expected = formula(layer, expected, context, **masks)
    if norm == "pre":
        nn.init.normal_(stack.final_norm.weight)
        mean, variance = expected.mean(-1, keepdim=True), expected.var(-1, keepdim=True, correction=0)
        expected = (expected - mean) / (variance + 1e-5).sqrt() * stack.final_norm.weight
    torch.testing.assert_close(stack(x, context, **masks), expected)


@stacks
@pytest.mark.parametrize("own", OWN)
def test_a_token_sees_none_behind_it(stack_class: type, norm: str, own: str) -> None:
    stack = stack_class(decoder_layers(2, own, norm=norm), dim=16).double().eval()
    x, context, _ = target_and_context(n=20)
    changed = torch.cat((x[:, :11], torch.randn(2, 9, 16, dtype=torch.float64)), dim=1)
    out, other = stack(x, context), stack(changed, context)
    torch.testing.assert_close(other[:, :11], out[:, :11], rtol=0, atol=1e-12)
    assert (other[:, 11:] - out[:, 11:]).abs().amax(-1).min() > 1e-3


@stacks
@pytest.mark.parametrize(
    ("own", "across"), [*((own, "full") for own in OWN), ("full", "linformer"), ("full", "performer")]
)
def test_padding_of_both_sides_is_invisible_and_the_rest_is_seen(
    stack_class: type, norm: str, own: str, across: str
) -> None:
    stack = stack_class(decoder_layers(2, own, across, norm=norm), dim=16).double().eval()
    x, context, masks = target_and_context(n=12, m=10)
    real = masks["mask"]
    out = stack(x, context, **masks)

    def with_noise(y: Tensor, where: Tensor) -> Tensor:
        return torch.where(where.unsqueeze(-1), 3 * torch.randn_like(y), y)

    other = stack(with_noise(x, ~real), with_noise(context, ~masks["context_mask"]), **masks)
    torch.testing.assert_close(other[real], out[real], rtol=0, atol=1e-11)
    last = torch.zeros_like(masks["context_mask"])
    last[:, 6] = True  # the first sample's last real one
    seen = stack(x, with_noise(context, last), **masks)
    assert (seen - out)[real].abs().amax(-1).min() > 1e-6


@stacks
@pairs
def test_steps_equal_the_whole(stack_class: type, norm: str, own: str, across: str) -> None:
    """Of a sample with padding in its context, and of one without."""
    stack = stack_class(decoder_layers(3, own, across, norm=norm), dim=16).double().eval()
    x, context, masks = target_and_context(n=19, m=LONGEST - 3)
    context_mask = masks["context_mask"]
    caches = stack.new_cache(2, 19, context, context_mask)
    one_by_one = torch.cat([stack.step(token, caches) for token in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(one_by_one, stack(x, context, context_mask=context_mask), rtol=0, atol=1e-12)


def test_a_step_does_not_project_the_context_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = DecoderStack(decoder_layers(3), dim=16).double().eval()
    x, context, _ = target_and_context(m=7)
    caches = stack.new_cache(2, 9, context)
    lengths = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda y, *rest: lengths.append(y.shape[1]) or linear(y, *rest))
    stack.step(x[:, :1], caches)
    assert set(lengths) == {1}


def test_a_performer_across_computes_features_of_the_context_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (layer,) = decoder_layers(1, across="performer")
    x, context, _ = target_and_context(n=3, m=7)
    lengths, features = [], performer_features.log_features

    def counted(y: torch.Tensor, *rest: object, **settings: object) -> torch.Tensor:
        lengths.append(y.shape[2])
        return features(y, *rest, **settings)

    monkeypatch.setattr(performer_features, "log_features", counted)
    cache = layer.new_cache(2, 3, context)
    assert lengths == [7]
    for place in range(3):
        layer.step(x[:, place : place + 1], cache)
    assert lengths == [7, 1, 1, 1]


@pytest.mark.parametrize("across", ACROSS)
def test_keys_and_values_stand_for_their_context(across: str) -> None:
    attention = MultiHeadAttention(ACROSS[across](0, 0.0), dim=10, heads=3, head_dim=4).double()
    x, context = torch.randn(2, 3, 10, dtype=torch.float64), torch.randn(2, 8, 10, dtype=torch.float64)
    mask = torch.arange(8) < torch.tensor([[5], [8]])
    q, k, v = (
        (tokens @ weight.T + bias).view(2, -1, 3, 4).transpose(1, 2)
        for tokens, weight, bias in zip(
            (x, context, context), attention.to_heads.weight.chunk(3), attention.to_heads.bias.chunk(3), strict=True
        )
    )
    expected = attention.to_out(attention.mechanism(q, k, v, mask=mask).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, context=attention.keys_and_values(context, mask)), expected)
    torch.testing.assert_close(attention(x, context=context, mask=mask), expected)
    with pytest.raises(ValueError, match="a mask of their own"):
        attention(x, context=attention.keys_and_values(context, mask), mask=mask)


@norms
def test_gradients_of_target_and_context(norm: str) -> None:
    (layer,) = decoder_layers(1, norm=norm)
    x, context, masks = target_and_context(n=3, m=4, batch=1)
    inputs = (x.requires_grad_(), context.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: layer(a, b, **masks), inputs, fast_mode=True)
    (gradient,) = torch.autograd.grad(layer(x, context, **masks).square().sum(), context)
    assert [bool(token.any()) for token in gradient[0]] == [True, False, False, False]  # the others are padding


def test_dropout_reaches_every_place() -> None:
    stack = DecoderStack(decoder_layers(2, dropout=0.25), dim=16)
    rates = [module.p for module in stack.modules() if isinstance(module, nn.Dropout)]
    rates += [module.dropout for module in stack.modules() if isinstance(module, FullAttention)]
    assert rates == [0.25] * 8


def test_a_layers_parameters_have_the_names_of_the_encoders() -> None:
    """So that a decoder-only model's weights fit the two sublayers that both have."""
    names = {name.split(".")[0] for name, _ in decoder_layers(1)[0].named_parameters()}
    shared = {"attention", "feed_forward", "norm_attention", "norm_feed_forward"}
    assert names == shared | {"cross_attention", "norm_cross_attention"}


@pytest.mark.parametrize(
    ("own", "across", "message"),
    [
        (FullAttention(), FullAttention(), "FullAttention lets a target token .* use a mechanism with causal=True"),
        (
            LinformerAttention(LearnedProjection(8, 2)),
            FullAttention(),
            "LinformerAttention lets a target token .* use a mechanism with causal=True",
        ),
        (FullAttention(causal=True), FullAttention(causal=True), "FullAttention is causal, .* with causal=False"),
        (
            FullAttention(causal=True),
            PerformerAttention(4, causal=True),
            "PerformerAttention is causal, .* with causal=False",
        ),
        (FullAttention(causal=True), SharedQKAttention(), "SharedQKAttention shares .* use FullAttention, Linformer"),
        (FullAttention(causal=True), LSHAttention(), "LSHAttention shares .* use FullAttention, Linformer"),
    ],
)
def test_mechanisms_that_do_not_fit_are_refused(own: nn.Module, across: nn.Module, message: str) -> None:
    attentions = [MultiHeadAttention(mechanism, dim=16, heads=4) for mechanism in (own, across)]
    with pytest.raises(ValueError, match=message):
        DecoderLayer(*attentions, FeedForward(16), dim=16)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is 'rms'"):
        decoder_layers(1, norm="rms")


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_cache_needs_equally_many_targets_of_each_context(batch: int) -> None:
    stack = DecoderStack(decoder_layers(1), dim=16).double()
    with pytest.raises(ValueError, match=f"{batch} targets, but 2 contexts"):
        stack.new_cache(batch, 9, torch.randn(2, 7, 16, dtype=torch.float64))


@stacks
@pytest.mark.parametrize("across", ACROSS)
def test_targets_share_a_context_and_are_picked_anew(stack_class: type, norm: str, across: str) -> None:
    """Three targets of each of two contexts, of which one leaves, against targets with a context each."""
    stack = stack_class(decoder_layers(2, "lsh", across, norm=norm), dim=16).double().eval()
    _, context, masks = target_and_context(m=LONGEST - 3)
    x = torch.randn(6, 5, 16, dtype=torch.float64)
    caches = stack.new_cache(6, 9, context, masks["context_mask"])
    for token in x.split(1, dim=1):
        stack.step(token, caches)
    order, new = torch.tensor([1, 0, 1, 5, 3, 3]), torch.randn(6, 2, 16, dtype=torch.float64)
    for layer in caches:
        layer.select_rows(order)
    found = stack.step(new[:, :1], caches)
    second = torch.tensor([5, 3, 4])
    for layer in caches:
        layer.select_rows(second, torch.tensor([1]))
    found = torch.cat((found[second], stack.step(new[second, 1:], caches)), dim=1)
    whole = torch.cat((x[order], new), dim=1)[second]
    whole = nn.functional.pad(whole, (0, 0, 0, 2))  # to the 9 tokens from which the number of buckets follows
    expected = stack(whole, context[[1, 1, 1]], context_mask=masks["context_mask"][[1, 1, 1]])
    torch.testing.assert_close(found, expected[:, 5:7], rtol=0, atol=1e-12)


def test_two_caches_do_not_mix() -> None:
    """One context's keys must not reach another's steps, nor one layer's the next layer's."""
    stack = DecoderStack(decoder_layers(2), dim=16).double().eval()
    x, context, _ = target_and_context()
    contexts = [context, torch.randn_like(context)]
    caches = [stack.new_cache(2, 9, given) for given in contexts]
    steps = [[stack.step(token, cache) for cache in caches] for token in x.split(1, dim=1)]
    for given, found in zip(contexts, zip(*steps, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(found, dim=1), stack(x, given), rtol=0, atol=1e-12)
