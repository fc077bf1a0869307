"""Every setting of every schema reaches the module that it is about: none is accepted and ignored."""

import math
from dataclasses import fields

import pytest
import torch
from torch import nn

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model
from dl_proj.experiments.images.classification.settings import ClassifierConfig
from dl_proj.experiments.images.classification.train import build_classifier
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.models.attention_settings import SCHEMAS
from dl_proj.models.build import Places, build_autoregressive, build_mechanisms, build_positions, build_stack
from dl_proj.models.settings import (
    AxialPositionsConfig,
    LearnedPositionsConfig,
    LearnedSinusoidalPositionsConfig,
    NoPositionsConfig,
    SinusoidalPositionsConfig,
    StackConfig,
)
from my_custom_ai.custom_train import load_weights
from my_custom_ai.custom_train.checkpoint import count_parameters, save_weights
from my_transformers import (
    AxialPositionalEncoding,
    ConvolutionProjection,
    EncoderStack,
    FullAttention,
    LearnedPositionalEncoding,
    LearnedProjection,
    LearnedSinusoidalPositionalEncoding,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MaxProjection,
    MeanProjection,
    NoPositionalEncoding,
    PerformerAttention,
    ReversibleStack,
    SinusoidalPositionalEncoding,
)

FullConfig, SharedQKConfig, LSHConfig, LocalConfig, TransformersLSHConfig, PerformerConfig = (
    SCHEMAS[kind] for kind in ("full", "shared_qk", "lsh", "local", "transformers_lsh", "performer")
)
RelativeConfig, ClippedRelativeConfig, LinformerConfig, CausalLinformerConfig = (
    SCHEMAS[kind] for kind in ("relative", "clipped_relative", "linformer", "causal_linformer")
)
RANDOM_FEATURES = {
    "dropout": 0.25,
    "n_features": 24,
    "kernel": "hyperbolic",
    "orthogonal": False,
    "epsilon": 0.125,
    "redraw_every": 3,
    "chunk_size": 5,
}
PROJECTED = {"dropout": 0.25, "rank": 3, "projection": "mean", "sharing": "key_value", "start": "identity"}


def another(default):
    """A value that is not a setting's default, where nothing but the default need be known."""
    match default:
        case bool():
            return not default
        case int():
            return default + 3
        case float():
            return default + 0.25
    raise TypeError(f"no other value can be told from the default {default!r}: put one into OTHER_VALUES")


# for each schema and field: another value than the default's, given as it would be in a file; of kinds that are not
# here, see another()
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
    LocalConfig: {"dropout": 0.25, "chunk_size": 6, "back": 2, "ahead": 3, "circle": 128},
    TransformersLSHConfig: {
        "dropout": 0.25,
        "chunk_size": 6,
        "n_rounds": 7,
        "n_buckets": 10,
        "bucket_factors": (2, 4),
        "multiple_of": 192,
        "epsilon": 0.5,
        "keep_rotations": True,
    },
    PerformerConfig: RANDOM_FEATURES,
    RelativeConfig: RANDOM_FEATURES | {"n_scales": 2, "content": False},
    ClippedRelativeConfig: RANDOM_FEATURES | {"distance": 3},
    LinformerConfig: PROJECTED,
    CausalLinformerConfig: PROJECTED | {"block_size": 24},
}
OTHER_VALUES |= {
    schema: {field.name: another(field.default) for field in fields(schema.declared)}
    for schema in SCHEMAS.values()
    if schema not in OTHER_VALUES
}
MODULES = {schema: schema.declared.mechanism() for schema in SCHEMAS.values()}
ONE_WAY = {  # mechanisms that are causal never, or always
    schema: module.directions[0] for schema, module in MODULES.items() if len(module.directions) == 1
}
PROJECTIONS = {
    LearnedProjection: "learned",
    MeanProjection: "mean",
    MaxProjection: "max",
    ConvolutionProjection: "convolution",
}


def attribute(name):
    return lambda m: getattr(m, name)


def both(look):
    """Of the projection of keys and, if it is another, that of values; alike, or None."""

    def seen(m):
        found = {look(p) for p in (m.project_keys, m.project_values) if p is not None}
        return found.pop() if len(found) == 1 else None

    return seen


def the_same(*looks):
    def seen(m):
        found = {look(m) for look in looks}
        return found.pop() if len(found) == 1 else None

    return seen


# where a setting is seen, if not in the module's attribute of its name
INSIDE = {name: lambda m, name=name: getattr(m.mechanism, name) for name in RANDOM_FEATURES}
OF_PROJECTIONS = {
    "rank": both(attribute("rank")),
    "projection": both(lambda p: PROJECTIONS[type(p)]),
    "sharing": lambda m: "key_value" if m.project_values is None else "headwise",
    "start": both(lambda p: "identity" if any((w == 0).any() for w in p.parameters()) else "noise"),
}
LOOKS = {
    TransformersLSHConfig: {"keep_rotations": lambda m: m.rotations is not None},
    RelativeConfig: INSIDE
    | {"n_scales": lambda m: m.frequencies.shape[1], "content": lambda m: m.by_content is not None},
    ClippedRelativeConfig: INSIDE | {"dropout": the_same(INSIDE["dropout"], attribute("dropout"))},
    LinformerConfig: OF_PROJECTIONS | {"dropout": lambda m: m.attend.dropout},
    CausalLinformerConfig: OF_PROJECTIONS,
}
NEEDS = {
    (LSHConfig, "attend_across_buckets"): {"rule": "chunk"},
    (TransformersLSHConfig, "keep_rotations"): {"n_buckets": 8},
    (LocalConfig, "circle"): {"ahead": 2},  # which says that it is not causal
}
FOLLOWS = {
    "back": {"ahead"},
    "bucket_size": {"window"},
    "chunk_size": {"multiple_of"},
    "n_rounds": {"eval_rounds"},
    "projection": {"sharing"},
}  # from the setting

LINE = Places(32)


def mechanism(config, *, causal=True, seed=0, places=LINE):
    """Of the one layer of a model with two heads of four numbers."""
    both_ways = any(getattr(config, name, None) for name in ("ahead", "circle"))
    causal = ONE_WAY.get(type(config), causal and not both_ways)
    (built,) = build_mechanisms(config, depth=1, heads=2, head_dim=4, causal=causal, places=places, seed=seed)
    return built


@pytest.mark.parametrize("schema", OTHER_VALUES, ids=lambda schema: schema.__name__)
def test_the_table_is_complete(schema):
    assert set(OTHER_VALUES[schema]) == set(schema.model_fields) - {"kind"}
    for name, value in OTHER_VALUES[schema].items():
        assert schema.model_fields[name].default != value


@pytest.mark.parametrize(
    ("schema", "name"), [(schema, name) for schema, values in OTHER_VALUES.items() for name in values]
)
def test_each_setting_of_an_attention_arrives(schema, name):
    value, needs = OTHER_VALUES[schema][name], NEEDS.get((schema, name), {})
    default, built = mechanism(schema(**needs)), mechanism(schema(**{name: value} | needs))
    assert type(built) is MODULES[schema]

    def seen(m):
        looks = {field: LOOKS.get(schema, {}).get(field, attribute(field)) for field in OTHER_VALUES[schema]}
        return {field: look(m) for field, look in looks.items()}

    assert seen(built)[name] == value != seen(default)[name]
    changed = {field for field, was in seen(default).items() if seen(built)[field] != was}
    assert changed <= {name} | FOLLOWS.get(name, set())


def test_the_defaults_that_follow_from_others():
    built = mechanism(LSHConfig(bucket_size=5, n_rounds=7))
    assert (built.window, built.eval_rounds, built.n_buckets) == (10, 7, None)
    assert [mechanism(PerformerConfig(kernel=k)).epsilon for k in ("softmax", "hyperbolic", "relu")] == [0, 0, 1e-3]
    assert [mechanism(PerformerConfig(kernel=k)).n_features for k in ("softmax", "unprojected")] == [256, 4]


@pytest.mark.parametrize("schema", MODULES, ids=lambda schema: schema.__name__)
@pytest.mark.parametrize("causal", [True, False])
def test_causal_arrives(schema, causal):
    if ONE_WAY.get(schema, causal) is causal:
        assert mechanism(schema(), causal=causal).causal is causal
    else:
        with pytest.raises(ValueError, match="causal"):
            build_mechanisms(schema(), depth=1, heads=2, head_dim=4, causal=causal, places=LINE)


def test_rotations_that_are_kept_are_the_seeds_and_saved():
    settings = {"chunk_size": 4, "bucket_factors": (2, 4)}
    drawn, kept = (mechanism(TransformersLSHConfig(**settings, keep_rotations=keep), seed=9) for keep in (False, True))
    qk, v = torch.randn(2, 2, 2, 40, 4).unbind(0)
    assert torch.equal(drawn.eval()(qk, v), kept(qk, v))
    assert list(kept.state_dict()) == ["rotations"]
    assert kept.rotations.shape == (2, 4, 4, 3)
    kept.rotations.neg_()
    kept.rotations[..., 0] *= 3
    assert not torch.equal(drawn(qk, v), kept(qk, v)), "it is those that are used"


def test_the_seed_of_hashes_arrives():
    for schema in (LSHConfig, TransformersLSHConfig):
        assert mechanism(schema(), seed=9).seed == 9


@pytest.mark.parametrize("schema", [PerformerConfig, RelativeConfig, ClippedRelativeConfig])
def test_each_layer_has_random_directions_of_its_own(schema):
    built = build_mechanisms(schema(n_features=8), depth=3, heads=2, head_dim=4, causal=True, places=LINE, seed=5)
    performers = built if schema is PerformerConfig else [m.mechanism for m in built]
    assert [m.seed for m in performers] == [5, 6, 7]
    assert not any(torch.equal(performers[i].projection, performers[j].projection) for i, j in ((0, 1), (0, 2), (1, 2)))
    if schema is not RelativeConfig:
        assert torch.equal(performers[1].projection, PerformerAttention(4, n_features=8, seed=6).projection)


def test_a_reversible_stacks_recomputation_redraws_nothing():
    attention = {"kind": "performer", "n_features": 8, "redraw_every": 2}
    seen = []
    for reversible in (False, True):
        built = build(attention=attention, reversible=reversible).train()
        for _ in range(3):
            built(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
        seen.append(first(built).attention.mechanism.projection)
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], first(build(attention=attention)).attention.mechanism.projection)


@pytest.mark.parametrize("schema", [RelativeConfig, ClippedRelativeConfig])
@pytest.mark.parametrize("causal", [True, False])
def test_exact_is_full_attention_inside(schema, causal):
    inside = mechanism(schema(kernel="exact", dropout=0.25), causal=causal).mechanism
    assert (type(inside), inside.causal, inside.dropout) == (FullAttention, causal, 0.25)


@pytest.mark.parametrize(("columns", "longer"), [(None, 12), (5, 20)])
def test_relative_features_make_queries_longer(columns, longer):
    """By a sine and a cosine for each of four frequencies, along each axis; all of these are turned."""
    inside = mechanism(RelativeConfig(n_features=8), places=Places(21, columns)).mechanism
    assert (inside.head_dim, inside.turned) == (longer, longer - 4)
    assert mechanism(ClippedRelativeConfig(), places=Places(21, columns)).mechanism.turned == 0


@pytest.mark.parametrize(
    ("places", "longest"),
    [
        (Places(20), 40),
        (Places(21, off_grid=1), 40),
        (Places(16, 4), 8),
        (Places(17, 4, off_grid=1), 8),
        (Places(18, 4, off_grid=1), 10),
        (Places(12, 6), 12),
        (Places(1), 4),
        (Places(2, 1, off_grid=1), 4),
    ],
)
def test_wavelengths_go_up_to_twice_the_longest_side(places, longest):
    for frequencies in (
        mechanism(RelativeConfig(n_scales=3), places=places).frequencies,
        build_positions(LearnedSinusoidalPositionsConfig(), dim=12, places=places).frequencies,
    ):
        wavelengths = 2 * math.pi / frequencies
        assert wavelengths.shape[0] == (1 if places.columns is None else 2)
        torch.testing.assert_close(wavelengths[:, 0], torch.full_like(wavelengths[:, 0], 4.0))
        torch.testing.assert_close(wavelengths[:, -1], torch.full_like(wavelengths[:, -1], float(longest)))


def test_displacements_have_classes_along_each_axis():
    """Of each axis 3 to either side, and none."""
    for columns, classes in ((None, 7), (5, 49)):
        built = mechanism(ClippedRelativeConfig(distance=3), places=Places(21, columns))
        assert built.displacements.shape == (1, 4, classes)


# -- Linformer: which projections there are, and who shares them --

KINDS = {LinformerConfig: 32, CausalLinformerConfig: 16}  # and the tokens that a projection takes
DEPTH = 3


def projections(schema, **settings):
    """Three layers' (keys', values') projections; rank 4 of a sequence of 32 tokens, or of blocks of 16."""
    settings = {"rank": 4} | ({"block_size": 16} if schema is CausalLinformerConfig else {}) | settings
    built = build_mechanisms(schema(**settings), depth=DEPTH, heads=2, head_dim=4, causal=ONE_WAY[schema], places=LINE)
    return built, [(m.project_keys, m.project_keys if m.project_values is None else m.project_values) for m in built]


def partition(pairs):
    """Who has the same module, in the order keys of layer 0, values of layer 0, keys of layer 1 and so on."""
    modules = [p for pair in pairs for p in pair]
    return [next(i for i, other in enumerate(modules) if other is p) for p in modules]


ALL_APART, OF_A_LAYER, ALL_ONE = [0, 1, 2, 3, 4, 5], [0, 0, 2, 2, 4, 4], [0] * 6


@pytest.mark.parametrize("schema", KINDS)
@pytest.mark.parametrize(
    ("sharing", "heads", "expected"),
    [
        ("none", 2, ALL_APART),
        ("headwise", 1, ALL_APART),
        (None, 1, ALL_APART),
        ("key_value", 1, OF_A_LAYER),
        ("layerwise", 1, ALL_ONE),
    ],
)
def test_who_shares_a_learned_projection(schema, sharing, heads, expected):
    built, pairs = projections(schema, sharing=sharing)
    assert partition(pairs) == expected
    for projection in (p for pair in pairs for p in pair):
        assert type(projection) is LearnedProjection
        assert projection.weight.shape == (heads, 4, KINDS[schema])
    parameters = list(nn.ModuleList(built).parameters())
    assert len(parameters) == len({p.data_ptr() for p in parameters}) == len(set(expected))
    values = torch.stack([p.detach() for p in parameters])
    assert len(values.unique(dim=0)) == len(values), "each drawn by itself"


@pytest.mark.parametrize("schema", KINDS)
@pytest.mark.parametrize(
    ("sharing", "heads", "expected"),
    [
        ("none", 2, ALL_APART),
        ("headwise", 1, ALL_APART),
        (None, 1, ALL_APART),
        ("key_value", 1, OF_A_LAYER),
        ("layerwise", 1, ALL_ONE),
    ],
)
def test_who_shares_a_convolution(schema, sharing, heads, expected):
    built, pairs = projections(schema, projection="convolution", sharing=sharing)
    assert partition(pairs) == expected
    assert {p.weight.shape for pair in pairs for p in pair} == {(heads, KINDS[schema] // 4, 4, 4)}
    assert len(list(nn.ModuleList(built).parameters())) == len(set(expected))


@pytest.mark.parametrize("schema", KINDS)
@pytest.mark.parametrize(("projection", "kind"), [("mean", MeanProjection), ("max", MaxProjection)])
def test_windows_without_parameters(schema, projection, kind):
    built, pairs = projections(schema, projection=projection)
    assert {(type(p), p.rank, p.max_len) for pair in pairs for p in pair} == {(kind, 4, KINDS[schema])}
    assert not list(nn.ModuleList(built).parameters())


@pytest.mark.parametrize("schema", KINDS)
@pytest.mark.parametrize("settings", [{}, {"sharing": "none"}, {"sharing": "key_value"}, {"projection": "convolution"}])
def test_a_rank_a_layer(schema, settings):
    _, pairs = projections(schema, rank=[8, 2, 4], **settings)
    assert [(keys.rank, values.rank) for keys, values in pairs] == [(8, 8), (2, 2), (4, 4)]


def with_shared_projections(seed=0, **changes):
    torch.manual_seed(seed)
    attention = {"kind": "linformer", "rank": 4, "sharing": "layerwise"}
    return classifier({"depth": 3, "heads": 2, "attention": attention} | changes)


def test_what_layers_share_counts_once_and_is_saved_and_loaded(tmp_path):
    shared, apart = with_shared_projections(), with_shared_projections(attention={"kind": "linformer", "rank": 4})
    assert count_parameters(apart) - count_parameters(shared) == 5 * 4 * 16
    assert count_parameters(shared) - count_parameters(with_shared_projections(attention={"kind": "full"})) == 4 * 16
    save_weights(tmp_path / "w.safetensors", shared)
    other = with_shared_projections(seed=1)
    images = torch.randint(256, (2, 1, 8, 8))
    assert not torch.allclose(other(images), shared(images))
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(other(images), shared(images))
    assert len({layer.attention.mechanism.project_keys for layer in other.stack.layers}) == 1


@pytest.mark.parametrize("reversible", [False, True])
def test_what_layers_share_trains_as_one(reversible):
    """Its gradient is the sum of those that each layer's own copy of it would get."""
    shared = with_shared_projections(reversible=reversible).double()
    apart = with_shared_projections(attention={"kind": "linformer", "rank": 4}, reversible=reversible).double()
    names = [f"stack.layers.{i}.attention.mechanism.project_{of}.weight" for i in range(3) for of in ("keys", "values")]
    weight = shared.get_parameter(names[0])
    apart.load_state_dict(shared.state_dict() | {name: weight.detach() for name in names})
    images = torch.randint(256, (2, 1, 8, 8))
    for built in (shared, apart):
        built(images).square().sum().backward()
    torch.testing.assert_close(weight.grad, sum(apart.get_parameter(name).grad for name in names))
    optimizer = torch.optim.SGD(shared.parameters(), lr=0.1)
    before = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight, before - 0.1 * weight.grad)
    assert shared.get_parameter(names[-2]) is weight


# -- positions --


def test_positions():
    learned = build_positions(LearnedPositionsConfig(), dim=6, places=Places(10))
    assert type(learned) is LearnedPositionalEncoding
    assert (learned.weight.shape, learned.max_len) == ((10, 6), 10)
    sinusoidal = build_positions(SinusoidalPositionsConfig(), dim=6, places=Places(10))
    assert type(sinusoidal) is SinusoidalPositionalEncoding
    assert sinusoidal.table().shape == (10, 6)
    assert sinusoidal.table().abs().max().item() == pytest.approx(0.02)  # a cosine of 0
    loud = build_positions(SinusoidalPositionsConfig(amplitude=3), dim=6, places=Places(10))
    assert loud.table().abs().max().item() == pytest.approx(3)
    axial = build_positions(AxialPositionsConfig(shape=(3, 4)), dim=6, places=Places(10))
    assert type(axial) is AxialPositionalEncoding
    assert (axial.rows.shape, axial.columns.shape, axial.max_len) == ((3, 1, 3), (1, 4, 3), 12)
    assert build_positions(AxialPositionsConfig(shape=(2, 6)), dim=6, places=Places(10)).rows.shape == (2, 1, 3)
    apart = build_positions(AxialPositionsConfig(shape=(3, 4), dims=(5, 1)), dim=6, places=Places(10))
    assert (apart.rows.shape, apart.columns.shape) == ((3, 1, 5), (1, 4, 1))
    none = build_positions(NoPositionsConfig(), dim=6, places=Places(10))
    assert (type(none), none.max_len, list(none.parameters())) == (NoPositionalEncoding, 10, [])


def test_learned_sines_know_the_places():
    grid = build_positions(LearnedSinusoidalPositionsConfig(), dim=8, places=Places(13, 4, off_grid=1))
    assert type(grid) is LearnedSinusoidalPositionalEncoding
    assert (grid.max_len, grid.columns, grid.off_grid, grid.frequencies.shape) == (13, 4, 1, (2, 2))
    line = build_positions(LearnedSinusoidalPositionsConfig(), dim=8, places=Places(13))
    assert (line.max_len, line.columns, line.off_grid, line.frequencies.shape) == (13, None, 0, (1, 4))


def where(model):
    """Columns and tokens off the grid, as the mechanism of each layer and the positions know them; all alike."""
    parts = [model.positions, *(layer.attention.mechanism for layer in model.stack.layers)]
    (found,) = {(part.columns, part.off_grid) for part in parts}
    return found


KNOWING = {"dim": 16, "heads": 2, "depth": 2, "ffn_dim": 16, "positions": {"kind": "learned_sinusoidal"}}


@pytest.mark.parametrize("kind", ["relative", "clipped_relative"])
def test_a_classifiers_tokens_are_a_grid_of_patches_behind_its_own(kind):
    model = KNOWING | {"attention": {"kind": kind}}
    assert where(classifier(model)) == (4, 0)
    assert where(classifier(model | {"pooling": "class_token"})) == (4, 1)
    assert where(classifier(model, {"patch_stride": 1})) == (7, 0)
    assert where(classifier(model, {"image_size": 12, "patch_size": 4, "patch_stride": 2})) == (5, 0)
    assert where(classifier(model, {"dataset": "cifar10", "patch_size": 4})) == (8, 0)


@pytest.mark.parametrize("kind", ["relative", "clipped_relative"])
def test_a_generators_tokens_are_a_grid_of_pixels_behind_the_label(kind):
    config = GeneratorTrainConfig.model_validate(
        {
            "experiment_name": "x",
            "data": {"dataset": "digits", "max_len": 25},
            "model": KNOWING | {"attention": {"kind": kind}},
            "optimizer": {"lr": 0.1},
            "train": {"max_steps": 1},
        }
    )
    assert where(build_generator(config, 10)) == (5, 1)
    assert where(build_generator(config, 0)) == (5, 0)


@pytest.mark.parametrize("kind", ["relative", "clipped_relative"])
def test_a_copied_words_tokens_are_a_line(kind):
    config = SynthTrainConfig.model_validate(
        {
            "experiment_name": "x",
            "model": KNOWING | {"attention": {"kind": kind}},
            "optimizer": {"lr": 0.1},
            "train": {"max_steps": 1},
        }
    )
    built = build_copy_model(config)
    assert where(built) == (None, 0)
    assert built.positions.max_len == 195


def test_tokens_of_single_channels_are_no_grid():
    colours = {"dataset": "cifar10", "split_channels": True}
    assert where(classifier(KNOWING | {"attention": {"kind": "relative"}}, colours)) == (None, 0)
    built = classifier({"attention": {"kind": "linformer"}}, colours)
    assert first(built).attention.mechanism.project_keys.max_len == 3 * 16**2


def test_a_linformer_projects_the_class_token_too():
    built = classifier({"pooling": "class_token", "attention": {"kind": "linformer", "rank": 17}})
    assert first(built).attention.mechanism.project_keys.max_len == 17


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
    "attention_bias": (
        False,
        lambda m: [name for name, _ in first(m).attention.named_parameters()],
        ["to_heads.weight", "to_out.weight"],
    ),
    "norm_epsilon": (
        0.25,
        lambda m: {norm.eps for norm in m.stack.modules() if isinstance(norm, nn.LayerNorm)},
        {0.25},
    ),
    "norm": ("post", lambda m: (first(m).norm, type(m.stack.final_norm)), ("post", nn.Identity)),
    "reversible": (True, lambda m: type(m.stack), ReversibleStack),
    "recompute": (True, lambda m: m.stack.recompute, True),
    "attention": (
        {"kind": "full", "dropout": 0.5},
        lambda m: (type(first(m).attention.mechanism), first(m).attention.mechanism.dropout),
        (FullAttention, 0.5),
    ),
    "attentions": (
        [{"kind": "full"}],
        lambda m: type(first(m).attention.mechanism),
        FullAttention,
    ),
    "positions": ({"kind": "sinusoidal"}, lambda m: type(m.positions), SinusoidalPositionalEncoding),
}


SIDE_BY_SIDE = {"streams": ("concatenate", lambda m: (m.stack.out_dim, m.to_logits.in_features), (32, 32))}


def build(**changes):
    config = StackConfig.model_validate({"dim": 16, "ffn_dim": 32} | changes)
    return build_autoregressive(config, vocab_size=7, max_len=12, seed=3)


def test_the_table_of_the_stack_is_complete():
    assert set(STACK_FIELDS) | set(SIDE_BY_SIDE) == set(StackConfig.model_fields)


@pytest.mark.parametrize("name", STACK_FIELDS)
def test_each_setting_of_the_stack_arrives(name):
    value, look, expected = STACK_FIELDS[name]
    assert look(build(**{name: value})) == expected
    assert look(build()) != expected


@pytest.mark.parametrize("norm_epsilon", [1e-5, 0.25])
def test_streams_side_by_side(norm_epsilon):
    value, look, expected = SIDE_BY_SIDE["streams"]
    settings = {"reversible": True, "norm_epsilon": norm_epsilon}
    for make in (lambda changes: build(**changes), classifier):
        assert look(make(settings)) != expected
        model = make(settings | {"streams": value})
        assert look(model) == expected
        assert {norm.eps for norm in model.stack.modules() if isinstance(norm, nn.LayerNorm)} == {norm_epsilon}


def test_all_layers_are_alike_but_for_their_hashes():
    built = build(depth=3, dropout=0.25, norm="post", ffn_chunk_size=2, activation="relu", heads=2)
    assert dropouts(built) == [0.25] * 7
    for layer in built.stack.layers:
        assert (layer.norm, layer.attention.heads, layer.feed_forward.chunk_size) == ("post", 2, 2)
        assert layer.feed_forward.activation == "relu"
    assert [layer.attention.mechanism.seed for layer in built.stack.layers] == [3, 4, 5]


MIXED = [{"kind": "local", "chunk_size": 4}, {"kind": "lsh", "bucket_size": 4}, {"kind": "performer", "n_features": 8}]


@pytest.mark.parametrize("reversible", [True, False])
def test_layers_of_different_kinds_begin_again_where_the_list_ends(reversible):
    built = build(depth=5, attentions=MIXED, reversible=reversible).eval()
    mechanisms = [layer.attention.mechanism for layer in built.stack.layers]
    kinds = [LocalAttention, LSHAttention, PerformerAttention, LocalAttention, LSHAttention]
    assert [type(m) for m in mechanisms] == kinds
    assert [m.seed for m in mechanisms if hasattr(m, "seed")] == [4, 5, 7], "the model's and the layer's number"
    tokens = torch.randint(7, (2, 12))
    steps = built.generate(tokens[:, :3], 9)
    whole = built(torch.cat((tokens[:, :3], steps), dim=1)[:, :11])
    assert torch.equal(whole[:, 2:].argmax(-1), steps)


def test_the_ranks_of_a_mechanism_in_a_list_are_those_of_its_own_layers():
    attentions = [{"kind": "full"}, {"kind": "linformer", "rank": [3, 5], "sharing": "key_value"}]
    config = StackConfig.model_validate({"dim": 16, "depth": 4, "attentions": attentions})
    stack = build_stack(config, causal=False, places=Places(12))
    assert [m.project_keys.rank for m in stack.modules() if isinstance(m, LinformerAttention)] == [3, 5]


@pytest.mark.parametrize("reversible", [True, False])
def test_the_stack_and_its_causality(reversible):
    config = StackConfig(dim=16, reversible=reversible)
    for causal in (True, False):
        stack = build_stack(config, causal=causal, places=Places(12))
        assert type(stack) is (ReversibleStack if reversible else EncoderStack)
        assert stack.layers[0].attention.mechanism.causal is causal


def test_an_autoregressive_model_is_causal_and_as_large_as_asked():
    built = build()
    assert first(built).attention.mechanism.causal is True
    assert (built.embedding.num_embeddings, built.to_logits.out_features, built.positions.max_len) == (7, 7, 12)
    assert built(torch.zeros(2, 12, dtype=torch.int64)).shape == (2, 12, 7)


@pytest.mark.parametrize(("changes", "head_dim"), [({"heads": 2}, 8), ({"heads": 2, "head_dim": 3}, 3)])
def test_a_mechanism_knows_the_width_of_its_heads(changes, head_dim):
    performer, relative, clipped, convolution = (
        first(build(attention=attention, **changes)).attention.mechanism
        for attention in (
            {"kind": "performer"},
            {"kind": "relative"},
            {"kind": "clipped_relative"},
            {"kind": "causal_linformer", "projection": "convolution"},
        )
    )
    assert performer.head_dim == relative.head_dim == clipped.mechanism.head_dim == head_dim
    assert clipped.displacements.shape[1] == head_dim
    assert convolution.project_keys.weight.shape[2:] == (head_dim, head_dim)


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
# how the images are made
NOT_THE_MODELS = {"root", "labels", "val_share", "random_shift", "skip_broken", "streamed", "cache"}


def classifier(model=None, data=None, n_classes=5):
    config = ClassifierConfig.model_validate({"dim": 16, "ffn_dim": 32} | (model or {}))
    images = ClassifierDataConfig.model_validate({"dataset": "digits", "patch_size": 2} | (data or {}))
    return build_classifier(config, images, n_classes=n_classes, seed=3)


def test_the_tables_of_the_classifier_are_complete():
    assert set(STACK_FIELDS) | set(SIDE_BY_SIDE) | set(IMAGE_FIELDS) == set(ClassifierConfig.model_fields) - {"kind"}
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


# what reads the attributes: an attribute that nothing reads would pass the tests above
def what_changes(schema, settings, other):
    """Whether another value changes the output in training, and in evaluation."""
    torch.manual_seed(0)
    qk, v = torch.randn(2, 2, 2, 40, 4, dtype=torch.float64)

    def outputs(**changes):
        built = mechanism(schema(**settings | changes), seed=1)
        found = []
        for training in (True, False):
            built.train(training)
            torch.manual_seed(5)
            found.append(built(qk, v))
        return found

    return [not torch.allclose(one, two) for one, two in zip(outputs(), outputs(**other), strict=True)]


@pytest.mark.parametrize("name", OTHER_VALUES[LSHConfig])
def test_each_setting_of_lsh_changes_the_output(name):
    settings = {"bucket_size": 8, "n_rounds": 4, "window": 3, "rule": "bucket"}
    settings |= NEEDS.get((LSHConfig, name), {})
    other = {name: OTHER_VALUES[LSHConfig][name]}
    if name == "bucket_size":
        other = {name: 2}
    if name == "deduplicate":
        settings["window"] = 16
    in_training, in_evaluation = what_changes(LSHConfig, settings, other)
    assert in_training or name == "eval_rounds"
    assert in_evaluation == (name not in ("dropout", "fresh_rotations"))


@pytest.mark.parametrize("name", OTHER_VALUES[TransformersLSHConfig])
def test_each_setting_of_transformers_lsh_changes_the_output(name):
    settings = {"chunk_size": 4} | NEEDS.get((TransformersLSHConfig, name), {})
    other = {name: OTHER_VALUES[TransformersLSHConfig][name]}
    in_training, in_evaluation = what_changes(TransformersLSHConfig, settings, other)
    assert in_training
    assert in_evaluation == (name not in ("dropout", "keep_rotations"))
