"""Every setting of every schema reaches the module that it is about: none is accepted and ignored."""

import pytest
import torch
from torch import nn

from dl_proj.configs.attention import FullConfig, LSHConfig, SharedQKConfig
from dl_proj.configs.images import ClassifierDataConfig
from dl_proj.configs.model import (
    AxialPositionsConfig,
    ClassifierConfig,
    LearnedPositionsConfig,
    SinusoidalPositionsConfig,
    StackConfig,
)
from dl_proj.models.build import (
    build_autoregressive,
    build_classifier,
    build_mechanism,
    build_positions,
    build_stack,
)
from my_transformers import (
    AxialPositionalEncoding,
    EncoderStack,
    FullAttention,
    LearnedPositionalEncoding,
    LSHAttention,
    ReversibleStack,
    SharedQKAttention,
    SinusoidalPositionalEncoding,
)

# for each schema and field: another value than the default's, given as it would be in a file
OTHER_VALUES = {
    FullConfig: {"dropout": 0.25},
    SharedQKConfig: {"dropout": 0.25},
    LSHConfig: {
        "dropout": 0.25,
        "bucket_size": 5,
        "n_rounds": 7,
        "eval_rounds": 3,
        "n_buckets": 10,
        "window": 9,
        "rule": "chunk",
        "attend_across_buckets": True,
        "deduplicate": False,
        "fresh_rotations": False,
    },
}
MODULES = {FullConfig: FullAttention, SharedQKConfig: SharedQKAttention, LSHConfig: LSHAttention}


@pytest.mark.parametrize("schema", OTHER_VALUES, ids=lambda schema: schema.__name__)
def test_the_table_is_complete(schema):
    assert set(OTHER_VALUES[schema]) == set(schema.model_fields) - {"kind"}
    for name, value in OTHER_VALUES[schema].items():
        assert schema.model_fields[name].default != value


@pytest.mark.parametrize(
    ("schema", "name"), [(schema, name) for schema, values in OTHER_VALUES.items() for name in values]
)
def test_each_setting_of_an_attention_arrives(schema, name):
    value = OTHER_VALUES[schema][name]
    others = {"rule": "chunk"} if name == "attend_across_buckets" else {}
    default = build_mechanism(schema(**others), causal=True)
    built = build_mechanism(schema(**{name: value} | others), causal=True)
    assert type(built) is MODULES[schema]
    assert getattr(built, name) == value != getattr(default, name)
    changed = {key for key, seen in public(built).items() if seen != public(default)[key]}
    assert changed <= {name, *{"bucket_size": ["window"], "n_rounds": ["eval_rounds"]}.get(name, [])}


def public(module):
    return {key: value for key, value in vars(module).items() if not key.startswith("_")}


def test_the_defaults_that_follow_from_others():
    built = build_mechanism(LSHConfig(bucket_size=5, n_rounds=7), causal=True)
    assert (built.window, built.eval_rounds, built.n_buckets) == (10, 7, None)


@pytest.mark.parametrize("schema", MODULES, ids=lambda schema: schema.__name__)
@pytest.mark.parametrize("causal", [True, False])
def test_causal_arrives(schema, causal):
    assert build_mechanism(schema(), causal=causal).causal is causal


def test_the_seed_of_hashes_arrives():
    assert build_mechanism(LSHConfig(), causal=True, seed=9).seed == 9


def test_positions():
    learned = build_positions(LearnedPositionsConfig(), dim=6, max_len=10)
    assert type(learned) is LearnedPositionalEncoding
    assert (learned.weight.shape, learned.max_len) == ((10, 6), 10)
    sinusoidal = build_positions(SinusoidalPositionsConfig(), dim=6, max_len=10)
    assert type(sinusoidal) is SinusoidalPositionalEncoding
    assert sinusoidal.table().shape == (10, 6)
    axial = build_positions(AxialPositionsConfig(shape=(3, 4)), dim=6, max_len=10)
    assert type(axial) is AxialPositionalEncoding
    assert (axial.rows.shape, axial.columns.shape, axial.max_len) == ((3, 1, 3), (1, 4, 3), 12)
    assert build_positions(AxialPositionsConfig(shape=(2, 6)), dim=6, max_len=10).rows.shape == (2, 1, 3)


def first(model):
    return model.stack.layers[0]


def dropouts(model):
    """Of the embedding, and in each layer of the feed-forward network and the sublayers' outputs."""
    layers = model.stack.layers
    return [model.dropout.p, *(d.p for layer in layers for d in (layer.feed_forward.dropout, layer.dropout))]


# field: (another value, what of the model shows it, what is seen with that value)
STACK_FIELDS = {
    "dim": (
        24,
        lambda m: {
            m.embedding.embedding_dim,
            m.positions.weight.shape[1],
            first(m).attention.to_heads.in_features,
            first(m).attention.to_out.out_features,
            first(m).feed_forward.expand.in_features,
            first(m).feed_forward.contract.out_features,
            first(m).norm_attention.normalized_shape[0],
            first(m).norm_feed_forward.normalized_shape[0],
            m.stack.final_norm.normalized_shape[0],
            m.to_logits.in_features,
        },
        {24},
    ),
    "heads": (8, lambda m: (first(m).attention.heads, first(m).attention.head_dim), (8, 2)),
    "head_dim": (5, lambda m: (first(m).attention.head_dim, first(m).attention.to_out.in_features), (5, 20)),
    "depth": (3, lambda m: len(m.stack.layers), 3),
    "ffn_dim": (
        10,
        lambda m: (first(m).feed_forward.expand.out_features, first(m).feed_forward.contract.in_features),
        (10, 10),
    ),
    "ffn_chunk_size": (4, lambda m: first(m).feed_forward.chunk_size, 4),
    "activation": ("relu", lambda m: first(m).feed_forward.activation, "relu"),
    "dropout": (0.25, dropouts, [0.25, 0.25, 0.25]),
    "norm": ("post", lambda m: (first(m).norm, type(m.stack.final_norm)), ("post", nn.Identity)),
    "reversible": (True, lambda m: type(m.stack), ReversibleStack),
    "attention": (
        {"kind": "full", "dropout": 0.5},
        lambda m: (type(first(m).attention.mechanism), first(m).attention.mechanism.dropout),
        (FullAttention, 0.5),
    ),
    "positions": ({"kind": "sinusoidal"}, lambda m: type(m.positions), SinusoidalPositionalEncoding),
}


def build(**changes):
    config = StackConfig.model_validate({"dim": 16, "ffn_dim": 32} | changes)
    return build_autoregressive(config, vocab_size=7, max_len=12, seed=3)


def test_the_table_of_the_stack_is_complete():
    assert set(STACK_FIELDS) == set(StackConfig.model_fields)


@pytest.mark.parametrize("name", STACK_FIELDS)
def test_each_setting_of_the_stack_arrives(name):
    value, look, expected = STACK_FIELDS[name]
    assert look(build(**{name: value})) == expected
    assert look(build()) != expected


def test_all_layers_are_alike_but_for_their_hashes():
    built = build(depth=3, dropout=0.25, norm="post", ffn_chunk_size=2, activation="relu", heads=2)
    assert dropouts(built) == [0.25] * 7
    for layer in built.stack.layers:
        assert (layer.norm, layer.attention.heads, layer.feed_forward.chunk_size) == ("post", 2, 2)
        assert layer.feed_forward.activation == "relu"
    assert [layer.attention.mechanism.seed for layer in built.stack.layers] == [3, 4, 5]


@pytest.mark.parametrize("reversible", [True, False])
def test_the_stack_and_its_causality(reversible):
    config = StackConfig(dim=16, reversible=reversible)
    for causal in (True, False):
        stack = build_stack(config, causal=causal)
        assert type(stack) is (ReversibleStack if reversible else EncoderStack)
        assert stack.layers[0].attention.mechanism.causal is causal


def test_an_autoregressive_model_is_causal_and_as_large_as_asked():
    built = build()
    assert first(built).attention.mechanism.causal is True
    assert (built.embedding.num_embeddings, built.to_logits.out_features, built.positions.max_len) == (7, 7, 12)
    assert built(torch.zeros(2, 12, dtype=torch.int64)).shape == (2, 12, 7)


@pytest.mark.parametrize("n_labels", [1, 3])
def test_a_generator_has_a_vector_a_label(n_labels):
    built = build_autoregressive(StackConfig(dim=16), vocab_size=7, max_len=12, n_labels=n_labels, seed=3)
    assert built.label_embedding.weight.shape == (n_labels, 16)
    assert first(built).attention.mechanism.seed == 3
    assert (built.positions.max_len, built.to_logits.out_features) == (12, 7)
    assert build().label_embedding is None


# field: (another value, what of the model shows it, what is seen with that value); of the stack's fields, what is
# the classifier's own
IMAGE_FIELDS = {
    "pooling": (
        "class_token",
        lambda m: (m.class_token is not None, m.positions.max_len),
        (True, 17),
    ),
    "embedding": ("lookup", lambda m: type(m.embedding.embed), nn.Embedding),
    "dim": (
        24,
        lambda m: (m.embedding.embed.out_features, m.positions.weight.shape[1], m.to_logits.in_features),
        (24, 24, 24),
    ),
    "dropout": (0.25, dropouts, [0.25] * 3),
    "positions": ({"kind": "sinusoidal"}, lambda m: type(m.positions), SinusoidalPositionalEncoding),
}
DATA_FIELDS = {
    "dataset": (
        "cifar10",
        lambda m: (m.embedding.embed.in_features, m.positions.max_len),
        (3 * 2**2, 16**2),
    ),
    "image_size": (12, lambda m: m.positions.max_len, 36),
    "greyscale": (True, lambda m: m.embedding.embed.in_features, 4),
    "patch_size": (
        4,
        lambda m: (m.embedding.patch_size, m.embedding.embed.in_features, m.positions.max_len),
        (4, 16, 4),
    ),
    "patch_stride": (1, lambda m: (m.embedding.patch_stride, m.positions.max_len), (1, 49)),
    "split_channels": (
        True,
        lambda m: (m.embedding.split_channels, m.embedding.embed.in_features, m.positions.max_len),
        (True, 4, 3 * 16**2),
    ),
    "vocab_size": (9, lambda m: m.embedding.vocab_size, 9),
}
NOT_THE_MODELS = {"root", "labels", "val_share", "random_shift"}  # fields of data that the images are made with


def classifier(model=None, data=None, n_classes=5):
    config = ClassifierConfig.model_validate({"dim": 16, "ffn_dim": 32} | (model or {}))
    images = ClassifierDataConfig.model_validate({"dataset": "digits", "patch_size": 2} | (data or {}))
    return build_classifier(config, images, n_classes=n_classes, seed=3)


def test_the_tables_of_the_classifier_are_complete():
    assert set(STACK_FIELDS) | set(IMAGE_FIELDS) == set(ClassifierConfig.model_fields)
    assert set(DATA_FIELDS) | NOT_THE_MODELS == set(ClassifierDataConfig.model_fields)


@pytest.mark.parametrize("name", IMAGE_FIELDS)
def test_each_setting_of_the_classifier_arrives(name):
    value, look, expected = IMAGE_FIELDS[name]
    data = {"patch_size": 1} if name == "embedding" else None
    assert look(classifier({name: value}, data)) == expected
    assert look(classifier()) != expected


@pytest.mark.parametrize("name", sorted(set(STACK_FIELDS) - set(IMAGE_FIELDS)))
def test_each_setting_of_the_stack_arrives_in_the_classifier(name):
    value, look, expected = STACK_FIELDS[name]
    assert look(classifier({name: value})) == expected
    assert look(classifier()) != expected


@pytest.mark.parametrize("name", DATA_FIELDS)
def test_each_setting_of_the_images_arrives(name):
    value, look, expected = DATA_FIELDS[name]
    others = {"dataset": "cifar10"} if name in ("greyscale", "split_channels") else {}
    assert look(classifier(data={name: value} | others)) == expected
    assert look(classifier(data=others)) != expected


def test_a_lookup_has_a_vector_a_level():
    built = classifier({"embedding": "lookup"}, {"dataset": "cifar10", "patch_size": 1, "split_channels": True})
    assert built.embedding.embed.weight.shape == (256, 16)
    images = torch.randint(256, (2, 3, 32, 32))
    assert built.embedding(images).shape == (2, 3 * 32 * 32, 16)


def test_a_classifier_sees_both_ways_and_has_an_output_a_class():
    built = classifier({"depth": 2}, n_classes=5)
    assert built.to_logits.out_features == 5
    assert [layer.attention.mechanism.causal for layer in built.stack.layers] == [False, False]
    assert [layer.attention.mechanism.seed for layer in built.stack.layers] == [3, 4]


# what reads the attributes: each setting of LSH changes what is computed
@pytest.mark.parametrize("name", sorted(OTHER_VALUES[LSHConfig]))
def test_each_setting_of_lsh_changes_the_output(name):
    """An attribute that nothing reads would pass the tests above."""
    settings = {"bucket_size": 8, "n_rounds": 4, "window": 3, "rule": "bucket"}
    other = {name: OTHER_VALUES[LSHConfig][name]}
    if name == "attend_across_buckets":
        settings["rule"] = "chunk"
    if name == "bucket_size":
        other = {name: 2}
    if name == "deduplicate":
        settings["window"] = 16
    torch.manual_seed(0)
    qk, v = torch.randn(2, 2, 2, 40, 4, dtype=torch.float64)

    def outputs(**changes):
        mechanism = build_mechanism(LSHConfig(**settings | changes), causal=True, seed=1)
        found = []
        for training in (True, False):
            mechanism.train(training)
            torch.manual_seed(5)
            found.append(mechanism(qk, v))
        return found

    in_training, in_evaluation = (
        not torch.allclose(one, two) for one, two in zip(outputs(), outputs(**other), strict=True)
    )
    assert in_training or name == "eval_rounds"
    assert in_evaluation == (name not in ("dropout", "fresh_rotations"))
