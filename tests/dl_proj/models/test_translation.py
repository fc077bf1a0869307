"""The encoder-decoder: what it computes, that decoding with a cache gives its logits, and what its settings reach."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dl_proj.models.build import build_encoder_decoder
from dl_proj.models.settings import EncoderDecoderConfig
from my_custom_ai.custom_train import load_weights
from my_custom_ai.custom_train.checkpoint import save_weights
from my_transformers import (
    SETTINGS,
    DecoderStack,
    EncoderStack,
    LSHAttention,
    PerformerAttention,
    ReversibleDecoderStack,
    ReversibleStack,
    SinusoidalPositionalEncoding,
)

SOURCE, TARGET = 19, 15  # tokens at most
SIZES = {"max_source_len": SOURCE, "max_target_len": TARGET, "source_vocab_size": 13, "target_vocab_size": 11}

ENCODER = {
    "full": {"kind": "full"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "linformer": {"kind": "linformer", "rank": 5},
    "clipped_relative": {"kind": "clipped_relative", "n_features": 8, "distance": 2},
}
DECODER = {
    "full": {"kind": "full"},
    "shared_qk": {"kind": "shared_qk"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "performer": {"kind": "performer", "n_features": 8, "chunk_size": 4},
    "relative": {"kind": "relative", "n_features": 16, "n_scales": 2},
    "causal_linformer": {"kind": "causal_linformer", "block_size": 4, "rank": 2},
}
ACROSS = {
    "full": {"kind": "full"},
    "linformer": {"kind": "linformer", "rank": 5},
    "performer": {"kind": "performer", "n_features": 8},
}
KINDS = [  # each once at least, with the others
    *((encoder, "full", "full") for encoder in ENCODER),
    *(("full", decoder, "full") for decoder in DECODER),
    *(("lsh", "lsh", across) for across in ACROSS),
]
kinds = pytest.mark.parametrize(("encoder", "decoder", "across"), KINDS)
STACKS = {
    "plain": {},
    "reversible": {"reversible": True},
    "post-norm": {"norm": "post", "positions": {"kind": "sinusoidal"}},
    "axial": {"positions": {"kind": "axial", "shape": (4, 5)}, "head_dim": 3, "ffn_chunk_size": 4},
    "no positions": {"positions": {"kind": "none"}},
}


def config(encoder="full", decoder="full", across="full", **changes):
    sizes = {"dim": 12, "heads": 2, "encoder_depth": 2, "decoder_depth": 3, "ffn_dim": 20, "dropout": 0.3}
    attention = {"encoder_attention": ENCODER[encoder], "decoder_attention": DECODER[decoder]}
    return EncoderDecoderConfig.model_validate(sizes | attention | {"cross_attention": ACROSS[across]} | changes)


def build(settings, **changes):
    return build_encoder_decoder(settings, **SIZES | changes)


def model(*args, **changes):
    """With weights large enough that what it says depends on what it saw, in float64 and eval mode."""
    built = build(config(*args, **changes)).double().eval()
    for name, parameter in built.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=3.0 if "embedding" in name else 0.6)
    return built


def batch(n=TARGET, m=SOURCE - 2):
    """Sources, targets, and masks: of three sources one is shorter."""
    masks = torch.ones(3, m).bool(), torch.ones(3, n).bool()
    masks[0][1, m - 4 :] = False
    masks[1][1, n - 3 :] = False
    return torch.randint(13, (3, m)), torch.randint(11, (3, n)), *masks


@pytest.mark.parametrize("tied", [False, True])
def test_the_forward_is_embeddings_positions_stacks_logits(tied):
    """Instead of dropout, which eval mode leaves out, both sides' inputs are doubled."""
    built = build(config(tied=tied), source_vocab_size=11).double().eval()
    built.dropout.register_forward_hook(lambda module, inputs, output: 2 * output)
    source, target, source_mask, target_mask = batch()
    source = source % 11
    of_source, of_target = built.source_embedding.weight, built.target_embedding.weight
    x = 2 * (of_source[source] + built.source_positions.weight[: source.shape[1]])
    context = built.encoder(x, mask=source_mask)
    x = 2 * (of_target[target] + built.target_positions.weight)
    x = built.decoder(x, context, mask=target_mask, context_mask=source_mask)
    expected = x @ (of_source if tied else built.to_logits.weight).T + built.to_logits.bias
    torch.testing.assert_close(built(source, target, source_mask=source_mask, target_mask=target_mask), expected)
    torch.testing.assert_close(built.encode(source, source_mask), context)


@pytest.mark.parametrize(
    ("stack", "encoder", "decoder", "across"),
    [("reversible", *names) for names in KINDS] + [(stack, "full", "lsh", "linformer") for stack in STACKS],
)
def test_steps_give_the_logits_of_the_whole(stack, encoder, decoder, across):
    built = model(encoder, decoder, across, **STACKS[stack])
    source, target, source_mask, _ = batch()
    cache = built.new_cache(built.encode(source, source_mask), source_mask, max_len=TARGET)
    steps = torch.stack([built.step(tokens, cache) for tokens in target.unbind(1)], dim=1)
    torch.testing.assert_close(steps, built(source, target, source_mask=source_mask), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"max_len=(15|20)"):
        built.step(target[:, 0], cache)


def test_lsh_hashes_alike_at_every_length_of_targets_and_caches():
    """With the buckets of the greatest length, or with those that are asked for."""
    for own in ({}, {"n_buckets": 2}):
        built = model(decoder_attention=DECODER["lsh"] | own)
        source, target, _, _ = batch(n=5)
        for max_len in (5, None):
            cache = built.new_cache(built.encode(source), max_len=max_len)
            steps = torch.stack([built.step(tokens, cache) for tokens in target.unbind(1)], dim=1)
            torch.testing.assert_close(steps, built(source, target))


ALIKE_IN_EVERY_BATCH = {
    **ENCODER,
    "shared_qk": {"kind": "shared_qk"},
    "local": {"kind": "local", "chunk_size": 4},
    "chunks": {"kind": "lsh", "bucket_size": 3, "n_rounds": 2, "rule": "chunk"},
    "chunks across": {"kind": "lsh", "bucket_size": 3, "rule": "chunk", "attend_across_buckets": True},
    "performer": {"kind": "performer", "n_features": 8},
    "relative": {"kind": "relative", "n_features": 16, "n_scales": 2},
    **{name: {"kind": "linformer", "rank": 5, "projection": name} for name in ("mean", "max", "convolution")},
}


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("attention", ALIKE_IN_EVERY_BATCH.values(), ids=ALIKE_IN_EVERY_BATCH)
def test_how_far_a_batch_is_padded_changes_no_source(attention, reversible):
    built = model(encoder_attention=attention, reversible=reversible)
    source = torch.randint(13, (4, SOURCE))
    for n in (1, 3, 4, 11, SOURCE):
        mask = torch.arange(SOURCE) < torch.tensor([[5], [n], [SOURCE], [1]])
        in_batch, alone = built.encode(source, mask)[1, :n], built.encode(source[1:2, :n])[0]
        torch.testing.assert_close(in_batch, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"encoder_attention": {"kind": "lsh", "rule": "chunk"}}, []),
        ({"encoder_attention": {"kind": "local"}}, []),
        (
            {"encoder_attention": {"kind": "transformers_lsh"}, "decoder_attention": {"kind": "transformers_lsh"}},
            [
                ("model.decoder_attention.kind: transformers_lsh cannot translate", "use kind: lsh"),
                ("model.encoder_attention.kind: transformers_lsh", "padded", "use kind: lsh"),
            ],
        ),
        (
            {
                "encoder_attention": {"kind": "local", "chunk_size": 4, "circle": 8},
                "decoder_attention": {"kind": "lsh", "rule": "chunk"},
            },
            [
                ("model.decoder_attention.rule: chunk cannot translate", "use rule: bucket"),
                ("model.encoder_attention.circle 8 must be null", "padded"),
            ],
        ),
    ],
)
def test_what_cannot_translate_alike_in_every_batch_is_told(changes, expected):
    assert_lines(config(**changes).mistakes_in_translation(), expected)


def test_decoding_leaves_no_graph_behind():
    built = model()
    source, target, _, _ = batch()
    cache = built.new_cache(built.encode(source))
    assert not built.step(target[:, 0], cache).requires_grad
    assert not cache.layers[0].context[0].requires_grad
    assert torch.is_grad_enabled()


@kinds
@pytest.mark.parametrize("reversible", [False, True])
def test_a_target_sees_its_past_and_its_source_alone(reversible, encoder, decoder, across):
    built = model(encoder, decoder, across, reversible=reversible)
    source, target, source_mask, target_mask = batch()

    def logits(source=source, target=target):
        return built(source, target, source_mask=source_mask, target_mask=target_mask)

    before = logits()
    later = target.clone()
    later[:, 8:] = (later[:, 8:] + 1) % 11
    torch.testing.assert_close(logits(target=later)[:, :8], before[:, :8], rtol=0, atol=1e-11)
    assert (logits(target=later) - before)[0, 8:].abs().amax(-1).min() > 1e-6
    padding = [torch.where(mask, tokens, 1) for tokens, mask in ((source, source_mask), (target, target_mask))]
    torch.testing.assert_close(logits(*padding)[target_mask], before[target_mask], rtol=0, atol=1e-11)
    other = source.clone()
    other[0] = (other[0] + 1) % 13
    assert (logits(source=other) - before)[0].abs().amax(-1).min() > 1e-6
    torch.testing.assert_close(logits(source=other)[1:], before[1:])


def test_a_tied_model_has_one_matrix_which_all_three_uses_train(tmp_path):
    built = build(config(tied=True, dropout=0.0), source_vocab_size=11).double()
    apart = build(config(dropout=0.0), source_vocab_size=11).double()
    apart.load_state_dict(built.state_dict())
    source, target, _, _ = batch()
    for net in (built, apart):
        net(source % 11, target).square().sum().backward()
    shapes = [tuple(p.shape) for p in built.parameters()]
    assert shapes.count((11, 12)) == 1
    three = (apart.source_embedding, apart.target_embedding, apart.to_logits)
    torch.testing.assert_close(built.source_embedding.weight.grad, sum(use.weight.grad for use in three))
    save_weights(tmp_path / "model.safetensors", built)
    again = build(config(tied=True), source_vocab_size=11).double().eval()
    load_weights(tmp_path / "model.safetensors", again)
    torch.testing.assert_close(again(source % 11, target), built(source % 11, target))
    assert again.to_logits.weight is again.source_embedding.weight is again.target_embedding.weight


def test_two_vocabularies_cannot_be_tied():
    with pytest.raises(ValueError, match="13 and 11 symbols; use tied=False"):
        build(config(tied=True))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_start_as_small_as_the_positions(tied):
    built = build(config(tied=tied, dim=200), source_vocab_size=300, target_vocab_size=300)
    for embedding in (built.source_embedding, built.target_embedding):
        assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(embedding.weight.mean()) < 1e-3


# -- what each setting reaches --


def dropouts(built):
    layers = [*built.encoder.layers, *built.decoder.layers]
    return [built.dropout.p, *(d.p for layer in layers for d in (layer.feed_forward.dropout, layer.dropout))]


def attentions(built):
    both = [layer.attention for layer in [*built.encoder.layers, *built.decoder.layers]]
    return both + [layer.cross_attention for layer in built.decoder.layers]


def feed_forwards(built):
    return [layer.feed_forward for layer in [*built.encoder.layers, *built.decoder.layers]]


# field: (another value, what of the model shows it, what is seen with that value)
FIELDS = {
    "dim": (
        24,
        lambda m: {
            m.source_embedding.embedding_dim,
            m.target_embedding.embedding_dim,
            m.source_positions.weight.shape[1],
            m.target_positions.weight.shape[1],
            *(a.to_heads.in_features for a in attentions(m)),
            *(f.expand.in_features for f in feed_forwards(m)),
            *(n.normalized_shape[0] for n in m.modules() if isinstance(n, nn.LayerNorm)),
            m.to_logits.in_features,
        },
        {24},
    ),
    "heads": (3, lambda m: {(a.heads, a.head_dim) for a in attentions(m)}, {(3, 4)}),
    "head_dim": (5, lambda m: {(a.head_dim, a.to_out.in_features) for a in attentions(m)}, {(5, 10)}),
    "encoder_depth": (4, lambda m: len(m.encoder.layers), 4),
    "decoder_depth": (4, lambda m: len(m.decoder.layers), 4),
    "ffn_dim": (10, lambda m: {f.expand.out_features for f in feed_forwards(m)}, {10}),
    "ffn_chunk_size": (4, lambda m: {f.chunk_size for f in feed_forwards(m)}, {4}),
    "activation": ("relu", lambda m: {f.activation for f in feed_forwards(m)}, {"relu"}),
    "dropout": (0.25, dropouts, [0.25] * 11),
    "attention_bias": (
        False,
        lambda m: {a.to_heads.bias is None and a.to_out.bias is None for a in attentions(m)},
        {True},
    ),
    "norm_epsilon": (0.25, lambda m: {n.eps for n in m.modules() if isinstance(n, nn.LayerNorm)}, {0.25}),
    "norm": ("post", lambda m: {layer.norm for layer in [*m.encoder.layers, *m.decoder.layers]}, {"post"}),
    "reversible": (True, lambda m: (type(m.encoder), type(m.decoder)), (ReversibleStack, ReversibleDecoderStack)),
    "recompute": (True, lambda m: (m.encoder.recompute, m.decoder.recompute), (True, True)),
    "positions": (
        {"kind": "sinusoidal"},
        lambda m: {type(m.source_positions), type(m.target_positions)},
        {SinusoidalPositionalEncoding},
    ),
    "encoder_attention": (
        {"kind": "performer", "dropout": 0.5},
        lambda m: [(type(layer.attention.mechanism), layer.attention.mechanism.dropout) for layer in m.encoder.layers],
        [(PerformerAttention, 0.5)] * 2,
    ),
    "decoder_attention": (
        {"kind": "lsh", "dropout": 0.5},
        lambda m: [(type(layer.attention.mechanism), layer.attention.mechanism.dropout) for layer in m.decoder.layers],
        [(LSHAttention, 0.5)] * 3,
    ),
    "cross_attention": (
        {"kind": "performer", "dropout": 0.5},
        lambda m: [
            (type(layer.cross_attention.mechanism), layer.cross_attention.mechanism.dropout)
            for layer in m.decoder.layers
        ],
        [(PerformerAttention, 0.5)] * 3,
    ),
    "tied": (True, lambda m: m.to_logits.weight is m.source_embedding.weight, True),
}


def test_the_table_of_settings_is_complete():
    assert {*FIELDS, "attention"} == set(EncoderDecoderConfig.model_fields)


@pytest.mark.parametrize("kind", [one.kind for one in SETTINGS if False in one.directions])
def test_attention_is_the_encoders_and_if_it_can_be_causal_step_by_step_the_decoders(kind):
    given = EncoderDecoderConfig.model_validate({"attention": {"kind": kind, "dropout": 0.25}})
    own = {"kind": kind, "dropout": 0.25}
    decoder = {"kind": "full"} if kind in ("linformer", "nystrom", "transformers_lsh") else own
    assert given.model_dump(exclude={"attention"}) == EncoderDecoderConfig.model_validate(
        {"encoder_attention": own, "decoder_attention": decoder}
    ).model_dump(exclude={"attention"})
    assert EncoderDecoderConfig.model_validate(given.model_dump(mode="json")) == given


@pytest.mark.parametrize("side", ["encoder_attention", "decoder_attention"])
def test_attention_and_another_one_of_a_side(side):
    both = {"attention": {"kind": "lsh"}, side: {"kind": "full"}}
    with pytest.raises(ValidationError) as refused:
        EncoderDecoderConfig.model_validate(both)
    (error,) = refused.value.errors()
    assert_lines(str(error["ctx"]["error"]).splitlines(), [("attention.kind: lsh", f"{side}.kind: full")])
    one = EncoderDecoderConfig.model_validate(
        {"attention": {"kind": "linformer"}, "decoder_attention": {"kind": "lsh"}}
    )
    assert (one.encoder_attention.kind, one.decoder_attention.kind) == ("linformer", "lsh")


def test_a_mistake_in_attention_is_told_once():
    with pytest.raises(ValidationError) as refused:
        EncoderDecoderConfig.model_validate({"attention": {"kind": "lsh", "n_rounds": 0}})
    assert [error["loc"] for error in refused.value.errors()] == [("attention", "lsh", "n_rounds")]


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_arrives(name):
    value, look, expected = FIELDS[name]
    assert look(build(config(**{name: value}), source_vocab_size=11)) == expected
    assert look(build(config(), source_vocab_size=11)) != expected


def test_each_random_mechanism_has_a_seed_of_its_own():
    performer = {"kind": "performer", "n_features": 8}
    built = build(config(decoder="lsh", across="performer", encoder_attention=performer), seed=7)
    assert [attention.mechanism.seed for attention in attentions(built)] == list(range(7, 7 + 2 + 3 + 3))


def test_lengths_and_vocabularies_arrive():
    built = build(config("linformer", "full", "linformer"))
    assert type(built.encoder) is EncoderStack
    assert type(built.decoder) is DecoderStack
    assert (built.source_positions.max_len, built.target_positions.max_len) == (SOURCE, TARGET)
    projections = [a.mechanism.project_keys for a in attentions(built) if hasattr(a.mechanism, "project_keys")]
    assert [(projection.max_len, projection.rank) for projection in projections] == [(SOURCE, 5)] * 5
    assert (built.source_embedding.num_embeddings, built.target_embedding.num_embeddings) == (13, 11)
    assert built.to_logits.out_features == 11
    relative = build(config(decoder="relative")).decoder.layers[0].attention.mechanism
    assert 2 * math.pi / relative.frequencies.min().item() == pytest.approx(2 * TARGET)  # the longest wavelength
    assert [a.mechanism.causal for a in attentions(built)] == [False] * 2 + [True] * 3 + [False] * 3


# -- what does not fit: the changes, lengths, and what each line says --

CAN_CROSS = [one.kind for one in SETTINGS if one.cross]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cross_attention": {"kind": one.kind}}, [(f"cross_attention.kind: {one.kind} cannot attend", *CAN_CROSS)])
        for one in SETTINGS
        if not one.cross
    ]
    + [
        ({"norm": "post", "reversible": True}, [("reversible: true needs norm: pre",)]),
        ({"heads": 5, "cross_attention": {"kind": "lsh"}}, [("dim 12", "heads 5"), ("cross_attention.kind",)]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, expected):
    with pytest.raises(ValidationError) as refused:
        config(**changes)
    (error,) = refused.value.errors()
    assert_lines(str(error["ctx"]["error"]).splitlines(), expected)


def assert_lines(lines, expected):
    assert len(lines) == len(expected), lines
    for line, parts in zip(lines, expected, strict=True):
        assert all(part in line for part in parts), line


LINFORMER = {"kind": "linformer", "rank": [2, 3]}


@pytest.mark.parametrize(
    ("changes", "lengths", "expected"),
    [
        ({}, (SOURCE, TARGET), []),
        (
            {"encoder_attention": DECODER["causal_linformer"]},
            (9, 9),
            [("model.encoder_attention.kind: causal_linformer", "use linformer")],
        ),
        (
            {"decoder_attention": ENCODER["linformer"]},
            (9, 9),
            [("model.decoder_attention.kind: linformer", "cannot be causal; use causal_linformer")],
        ),
        (
            {"encoder_attention": {"kind": "lsh"}},
            (27, 99),
            [("model.encoder_attention.bucket_size 28", "of 27 tokens")],
        ),
        (
            {"decoder_attention": {"kind": "lsh"}},
            (99, 27),
            [("model.decoder_attention.bucket_size 28", "of 27 tokens")],
        ),
        ({"cross_attention": ACROSS["linformer"]}, (4, 99), [("model.cross_attention.rank 5", "the 4 tokens")]),
        ({"cross_attention": ACROSS["linformer"]}, (99, 4), []),
        (
            {"encoder_attention": LINFORMER, "encoder_depth": 3},
            (9, 9),
            [("model.encoder_attention.rank has 2 values", "3 layers (model.encoder_depth)")],
        ),
        (
            {"cross_attention": LINFORMER, "encoder_depth": 2, "decoder_depth": 3},
            (9, 9),
            [("model.cross_attention.rank has 2 values", "3 layers (model.decoder_depth)")],
        ),
        (
            {"decoder_attention": DECODER["causal_linformer"] | {"rank": [1, 2]}, "encoder_depth": 2},
            (9, 9),
            [("model.decoder_attention.rank has 2 values", "3 layers (model.decoder_depth)")],
        ),
        (
            {"positions": {"kind": "axial", "shape": (2, 4)}},
            (9, 8),
            [("model.positions.shape 2 x 4", "at least 9 positions")],
        ),
        (
            {"positions": {"kind": "axial", "shape": (2, 4)}},
            (8, 9),
            [("model.positions.shape 2 x 4", "at least 9 positions")],
        ),
        ({"positions": {"kind": "learned_sinusoidal"}, "dim": 9, "heads": 3}, (8, 9), [("model.dim 9", "by 2")]),
        (
            {"decoder_attention": ENCODER["clipped_relative"], "heads": 1},
            (9, 9),
            [("model.heads 1 must be at least 2 for model.decoder_attention.kind: clipped_relative",)],
        ),
    ],
)
def test_what_does_not_fit_the_lengths_is_said_by_its_key(changes, lengths, expected):
    assert_lines(config(**changes).mistakes_at(*lengths), expected)


@kinds
def test_kinds_that_fit_are_let_through(encoder, decoder, across):
    assert config(encoder, decoder, across).mistakes_at(SOURCE, TARGET) == []
