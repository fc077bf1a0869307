"""Attention and positions that do not fit a training: exit code 2 and a line each, that says what would fit."""

import pytest
import yaml
from tiny_scripts import GONE, as_yaml, assert_refused, files_below, tiny, tiny_classifier, tiny_generator

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.images.classification import train
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.models.build import Places, build_stack

TRAININGS = {"cls_train": tiny_classifier, "generation_train": tiny_generator, "synth_train": tiny}
SCHEMAS = {
    "cls_train": ClassifierTrainConfig,
    "generation_train": GeneratorTrainConfig,
    "synth_train": SynthTrainConfig,
}
FILE, BOTH, FLAGS = "c.yaml: ", "c.yaml and flags: ", "flags: "
PIXELS = {"data.patch_size": 1}  # 64 of them; the tiny classifier has 4 patches otherwise
COLOURS = {"data.dataset": "cifar10", "data.split_channels": True}


def attention(kind, **settings):
    return {"model.attention": {"kind": kind, **settings}}


def linformer(**settings):
    return attention("linformer", **{"rank": 2} | settings)


def blocks(**settings):
    return attention("causal_linformer", **{"rank": 2, "block_size": 4} | settings)


def positions(kind, **others):
    return {"model.positions": {"kind": kind}, **others}


# wrong in any training: (changes to the tiny file, what each line says after "c.yaml: ")
WRONG_FEATURES = {
    "no features": (
        attention("performer", n_features=0),
        [("model.attention.n_features", 1, 0)],
    ),
    "half a feature": (
        attention("performer", n_features=1.5),
        [("model.attention.n_features", 1.5)],
    ),
    "unknown kernel": (
        attention("performer", kernel="rbf"),
        [("model.attention.kernel", "'softmax'", "'hyperbolic'", "'relu'", "'unprojected'", "'rbf'")],
    ),
    "a performer that is exact": (
        attention("performer", kernel="exact"),
        [("model.attention.kernel", "'unprojected'", "'exact'")],
    ),
    "relative without projection": (
        attention("relative", kernel="unprojected"),
        [("model.attention.kernel", "'exact'", "'unprojected'")],
    ),
    "clipped without projection": (
        attention("clipped_relative", kernel="unprojected"),
        [("model.attention.kernel", "'exact'", "'unprojected'")],
    ),
    "one direction both ways": (
        attention("performer", n_features=7, kernel="hyperbolic"),
        [("model.attention", "n_features", 7, 2, "hyperbolic")],
    ),
    "clipped, one direction both ways": (
        attention("clipped_relative", n_features=7, kernel="hyperbolic"),
        [("model.attention", "n_features", 7, 2, "hyperbolic")],
    ),
    "directions that are not turned": (
        attention("relative", n_features=6),
        [("model.attention", "n_features", 6, 4, "softmax")],
    ),
    "directions that are not turned both ways": (
        attention("relative", n_features=12, kernel="hyperbolic"),
        [("model.attention", "n_features", 12, 8, "hyperbolic")],
    ),
    "a negative stabiliser": (
        attention("performer", epsilon=-1),
        [("model.attention.epsilon", 0, -1)],
    ),
    "features that vanish": (
        attention("performer", kernel="relu", epsilon=0),
        [("model.attention", "epsilon", 0, "kernel", "relu")],
    ),
    "relative features that vanish": (
        attention("relative", kernel="sigmoid", epsilon=0),
        [("model.attention", "epsilon", 0, "kernel", "sigmoid")],
    ),
    "never redrawn": (
        attention("performer", redraw_every=0),
        [("model.attention.redraw_every", 1, 0)],
    ),
    "empty chunks": (
        attention("performer", chunk_size=0),
        [("model.attention.chunk_size", 1, 0)],
    ),
    "features of the head itself": (
        attention("performer", kernel="unprojected", n_features=4, redraw_every=2),
        [
            ("model.attention", "n_features"),
            ("model.attention", "redraw_every"),
        ],
    ),
    "features of what is exact": (
        attention("relative", kernel="exact", n_features=6, redraw_every=2, epsilon=0.1),
        [
            ("model.attention", "n_features", "exact"),
            ("model.attention", "redraw_every", "exact"),
            ("model.attention", "epsilon", "exact"),
        ],
    ),
    "clipped features of what is exact": (
        attention("clipped_relative", kernel="exact", n_features=8),
        [("model.attention", "n_features", "exact")],
    ),
    "no frequency": (
        attention("relative", n_scales=0),
        [("model.attention.n_scales", 1, 0)],
    ),
    "no distance": (
        attention("clipped_relative", distance=0),
        [("model.attention.distance", 1, 0)],
    ),
    "another kind's key": (
        attention("performer", n_scales=2),
        [("model.attention.n_scales", "dropout", "n_features", 2)],
    ),
    "one head of two kinds": (
        attention("clipped_relative") | {"model.heads": 1},
        [("model.heads", 1, 2, "model.attention.kind", "clipped_relative")],
    ),
    "factors and their product": (
        attention("transformers_lsh", n_buckets=4, bucket_factors=[2, 2]),
        [("model.attention", "n_buckets", 4, "bucket_factors", [2, 2])],
    ),
    "no factors": (
        attention("transformers_lsh", bucket_factors=[]),
        [("model.attention", "bucket_factors")],
    ),
    "odd factors": (
        attention("transformers_lsh", bucket_factors=[2, 3]),
        [("model.attention.bucket_factors.1", 2, 3)],
    ),
    "a factor of nothing": (
        attention("transformers_lsh", bucket_factors=[8, 0]),
        [("model.attention.bucket_factors.1", 2, 0)],
    ),
    "odd buckets": (
        attention("transformers_lsh", n_buckets=3),
        [("model.attention", "n_buckets", 3, 1)],
    ),
    "padding that chunks do not fill": (
        attention("transformers_lsh", chunk_size=4, multiple_of=6),
        [("model.attention", "multiple_of", 6, "chunk_size", 4)],
    ),
    "rotations of no number": (
        attention("transformers_lsh", keep_rotations=True),
        [("model.attention", "keep_rotations", True, "n_buckets", "bucket_factors")],
    ),
    "one stream side by side": (
        {"model.streams": "concatenate"},
        [("model", "streams", "concatenate", "reversible", True)],
    ),
    "no epsilon": ({"model.norm_epsilon": 0}, [("model.norm_epsilon", 0, 0)]),
    "axes that are too wide": (
        positions("axial", **{"model.positions.shape": [4, 4], "model.positions.dims": [3, 4]}),
        [("model", "positions.dims", 3, 4, "dim")],
    ),
    "an axis of no width": (
        positions("axial", **{"model.positions.shape": [4, 4], "model.positions.dims": [16, 0]}),
        [("model.positions.dims.1", 1, 0)],
    ),
    "a shape of no positions": (
        {"model.positions": {"kind": "none", "shape": [2, 2]}},
        [("model.positions.shape",)],
    ),
    "unknown sharing": (
        attention("linformer", sharing="all"),
        [("model.attention.sharing", "'none'", "'headwise'", "'key_value'", "'layerwise'", "'all'")],
    ),
    "unknown projection": (
        attention("linformer", projection="median"),
        [("model.attention.projection", "'learned'", "'mean'", "'max'", "'convolution'", "'median'")],
    ),
    "no block": (
        attention("causal_linformer", block_size=0),
        [("model.attention.block_size", 1, 0)],
    ),
    "an encoder's blocks": (
        attention("linformer", block_size=4),
        [("model.attention.block_size", "dropout", "projection", "sharing")],
    ),
}


@pytest.mark.parametrize("name", ["cls_train", "synth_train"])
@pytest.mark.parametrize("case", WRONG_FEATURES)
def test_mistake_in_any_training(case, name, script):
    changes, expected = WRONG_FEATURES[case]
    as_yaml("c.yaml", TRAININGS[name](changes))
    assert_refused(script(name, "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])
    assert files_below(".") == {"c.yaml"}, "found before anything is made"


ALTERNATIVES = ("causal_linformer", "performer", "relative", "clipped_relative", "local", "lsh", "shared_qk", "full")
NOT_CAUSAL = [("model.attention.kind", "linformer", "causal", *ALTERNATIVES)]
SHARED = {  # sharing that cannot be, with rank 2
    f"{projection} shared {sharing}": (
        {"projection": projection, "sharing": sharing},
        [("model.attention", "sharing", sharing, "learned", "projection", projection)],
    )
    for projection in ("mean", "max")
    for sharing in ("none", "headwise", "key_value", "layerwise")
} | {
    **{
        f"{projection} starting": (
            {"projection": projection, "start": "identity"},
            [("model.attention", "start", "identity", "projection", "learned", "projection", projection)],
        )
        for projection in ("mean", "max", "convolution")
    },
}
WRONG_LINFORMERS = {
    "linformer draws": ("generation_train", linformer(), NOT_CAUSAL),
    "linformer copies": ("synth_train", linformer(), NOT_CAUSAL),
    "linformer copies, whatever its rank": ("synth_train", linformer(rank=99), NOT_CAUSAL),
    "blocks classify": (
        "cls_train",
        blocks(),
        [("model.attention.kind", "causal_linformer", "linformer")],
    ),
    "a rank of more than all": (
        "cls_train",
        linformer(rank=5),
        [("model.attention.rank", 5, 4)],
    ),
    "a rank of more than all and the class token": (
        "cls_train",
        linformer(rank=6) | {"model.pooling": "class_token"},
        [("model.attention.rank", 6, 5)],
    ),
    "a rank of more than the default's": (
        "cls_train",
        {"model.attention": {"kind": "linformer"}},
        [("model.attention.rank", 32, 4)],
    ),
    "a rank of more than a block": (
        "generation_train",
        blocks(rank=5),
        [("model.attention.rank", 5, 4, "model.attention.block_size")],
    ),
    "a copied block's": (
        "synth_train",
        blocks(rank=5),
        [("model.attention.rank", 5, 4, "model.attention.block_size")],
    ),
    "two ranks of more than all": (
        "cls_train",
        linformer(rank=[7, 4, 6]) | {"model.depth": 3},
        [("model.attention.rank", 6, 4), ("model.attention.rank", 7, 4)],
    ),
    "too few ranks": (
        "cls_train",
        linformer(rank=[2, 2]) | {"model.depth": 3},
        [("model.attention.rank", 2, "values", 3, "model.depth")],
    ),
    "too many ranks": (
        "cls_train",
        linformer(rank=[2, 2]),
        [("model.attention.rank", 2, "values", 1, "model.depth")],
    ),
    "no ranks": (
        "synth_train",
        blocks(rank=[]),
        [("model.attention.rank", 0, "values", 1, "model.depth")],
    ),
    "layers that share but differ": (
        "cls_train",
        linformer(rank=[2, 3], sharing="layerwise") | {"model.depth": 2},
        [("model.attention", "sharing", "layerwise", [2, 3])],
    ),
    "blocks' layers that share but differ": (
        "generation_train",
        blocks(rank=[2, 3], sharing="layerwise") | {"model.depth": 2},
        [("model.attention", "sharing", "layerwise", [2, 3])],
    ),
    **{
        f"windows by {projection}": (
            "cls_train",
            linformer(rank=12, projection=projection) | PIXELS,  # 64 tokens fill 11 windows of 6
            [("model.attention.rank", 12, 11, 6, 64, 11)],
        )
        for projection in ("mean", "max", "convolution")
    },
    "windows of a block": (
        "synth_train",
        blocks(rank=3, projection="mean"),
        [("model.attention.rank", 3, 2, 2, 4, "model.attention.block_size", 2)],
    ),
    **{f"{case}": ("cls_train", linformer(**settings), lines) for case, (settings, lines) in SHARED.items()},
    **{
        f"{case}, in blocks": ("synth_train", blocks(**settings), lines)
        for case, (settings, lines) in SHARED.items()
        if "none" in case or "layerwise" in case or "starting" in case
    },
}
WRONG_PLACES = {
    **{
        f"{kind} of single channels": (
            "cls_train",
            attention(kind) | COLOURS,
            [("data.split_channels", True, "model.attention.kind", kind)],
        )
        for kind in ("relative", "clipped_relative")
    },
    "learned sines of single channels": (
        "cls_train",
        positions("learned_sinusoidal") | COLOURS,
        [("data.split_channels", True, "model.positions.kind", "learned_sinusoidal")],
    ),
    "sines in two directions": (
        "cls_train",
        positions("learned_sinusoidal", **{"model.dim": 6}),
        [("model.dim", 6, 4, "model.positions.kind", "learned_sinusoidal")],
    ),
    "a generator's sines in two directions": (
        "generation_train",
        positions("learned_sinusoidal", **{"model.dim": 6}),
        [("model.dim", 6, 4, "model.positions.kind", "learned_sinusoidal")],
    ),
    "sines in one direction": (
        "synth_train",
        positions("learned_sinusoidal", **{"model.dim": 15, "model.heads": 3}),
        [("model.dim", 15, 2, "model.positions.kind", "learned_sinusoidal")],
    ),
    "all at once": (
        "cls_train",
        positions("learned_sinusoidal", **{"model.dim": 6, "model.heads": 1}) | attention("clipped_relative") | COLOURS,
        [
            ("model.heads", 1),
            ("model.dim", 6),
            ("data.split_channels", True, "clipped_relative"),
            ("data.split_channels", True, "learned_sinusoidal"),
        ],
    ),
}
WRONG_IN_ONE = WRONG_LINFORMERS | WRONG_PLACES


@pytest.mark.parametrize("case", WRONG_IN_ONE)
def test_mistake_in_one_training(case, script):
    name, changes, expected = WRONG_IN_ONE[case]
    as_yaml("c.yaml", TRAININGS[name](changes))
    assert_refused(script(name, "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])
    assert files_below(".") == {"c.yaml"}


RIGHT_IN_ALL = [
    attention("performer", n_features=7),
    attention("performer", n_features=6, kernel="hyperbolic"),
    attention("performer", kernel="unprojected", epsilon=0, chunk_size=1),
    *(attention("performer", kernel=kernel, epsilon=0) for kernel in ("softmax", "hyperbolic")),
    *(attention("performer", kernel=kernel) for kernel in ("relu", "elu", "softplus", "sigmoid", "abs")),
    attention("relative", n_features=4),
    attention("relative", n_features=8, kernel="hyperbolic"),
    attention("relative", kernel="exact"),
    attention("clipped_relative", n_features=7, redraw_every=1, distance=99),
    attention("clipped_relative", kernel="exact"),
    positions("learned_sinusoidal", **{"model.dim": 4}),
    positions("none"),
]
RIGHT = {
    "cls_train": [
        linformer(rank=4),
        linformer(rank=[4]),
        linformer(rank=5) | {"model.pooling": "class_token"},
        linformer(rank=[1, 4]) | {"model.depth": 2},
        linformer(rank=[3, 3], sharing="layerwise") | {"model.depth": 2},
        *(linformer(rank=2, sharing=sharing) for sharing in ("none", "headwise", "key_value", "layerwise")),
        *(
            linformer(rank=2, projection="convolution", sharing=s)
            for s in ("none", "headwise", "key_value", "layerwise")
        ),
        *(linformer(rank=11, projection=p) | PIXELS for p in ("mean", "max", "convolution")),
        linformer(rank=12) | PIXELS,
        attention("performer") | COLOURS,
        linformer(rank=192) | COLOURS,
        attention("transformers_lsh", chunk_size=4, bucket_factors=[2, 4], multiple_of=8, keep_rotations=True),
    ],
    "generation_train": [blocks(rank=4), blocks(rank=16, block_size=16), blocks(rank=4, block_size=99)],
    "synth_train": [
        blocks(rank=[4, 2]) | {"model.depth": 2},
        blocks(rank=2, projection="max"),
        attention("transformers_lsh", n_buckets=2, keep_rotations=True),
        positions("learned_sinusoidal", **{"model.dim": 6}),
    ],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_what_is_just_right_is_accepted(name):
    """Or the cases above could fail for a reason of their own, and the bounds be too narrow."""
    for changes in RIGHT_IN_ALL + RIGHT[name]:
        SCHEMAS[name].model_validate(TRAININGS[name](changes))


# flags after --config c.yaml of a classifier with two layers, then the lines
WRONG_FLAGS = {
    "a kind that does not exist": (
        ["--model.attention.kind", "lineformer"],
        [(FLAGS + "model.attention.kind", "'linformer'", "'causal_linformer'", "'clipped_relative'")],
    ),
    "too many ranks": (
        ["--model.attention.kind", "linformer", "--model.attention.rank", "2,2,2"],
        [(BOTH + "model.attention.rank", 3, "values", 2)],
    ),
    "layers that share but differ": (
        ["--model.attention", '{"kind": "linformer", "rank": [2, 3]}', "--model.attention.sharing", "layerwise"],
        [(BOTH + "model.attention", "sharing", "layerwise", [2, 3])],
    ),
    "features": (
        ["--model.attention.kind", "relative", "--model.attention.n_features", "5"],
        [(BOTH + "model.attention", "n_features", 5, 4)],
    ),
    "an unknown embedding": (
        ["--model.embedding", "mpl"],
        [(FLAGS + "model.embedding", "'linear'", "'mlp'", "'lookup'", "'mpl'")],
    ),
}


@pytest.mark.parametrize("case", WRONG_FLAGS)
def test_a_wrong_flag(case, script):
    flags, expected = WRONG_FLAGS[case]
    as_yaml("c.yaml", tiny_classifier({"model.depth": 2}))
    assert_refused(script("cls_train", "--config", "c.yaml", *flags), expected)
    assert files_below(".") == {"c.yaml"}


def test_one_rank_by_a_flag_is_all_layers(monkeypatch, script):
    trained = []
    monkeypatch.setattr(train, "train_classifier", lambda config, resume: trained.append(config.model))
    as_yaml("c.yaml", tiny_classifier({"model.depth": 3}))
    flags = ["--model.attention.kind", "linformer", "--model.attention.rank", "2"]
    assert script("cls_train", "--config", "c.yaml", *flags).code == 0
    assert [
        layer.attention.mechanism.project_keys.rank
        for layer in build_stack(trained[0], causal=False, places=Places(4)).layers
    ] == [2, 2, 2]


WRONG_RANKS = {  # the setting, the place of the wrong number, and how it is shown
    "no token": (0, 0, 0),
    "half a token": (2.5, 0, 2.5),
    "a word": ("x", 0, "'x'"),
    "nothing": (None, 0, None),
    "true": (True, 0, "'true'"),
    "one of several": ([2, 0], 1, 0),
}


@pytest.mark.parametrize("case", WRONG_RANKS)
def test_a_rank_that_is_no_number_of_tokens(case, script):
    rank, place, got = WRONG_RANKS[case]
    as_yaml("c.yaml", tiny_classifier(linformer(rank=rank)))
    outcome = script("cls_train", "--config", "c.yaml")
    assert_refused(outcome, [(FILE + f"model.attention.rank.{place}", got)])
    assert "constrained" not in outcome.lines[0], "pydantic's word for a type"


IGNORED = {
    "relative, exact": attention("relative", kernel="exact", orthogonal=False, chunk_size=4),
    "clipped, exact": attention("clipped_relative", kernel="exact", orthogonal=False, chunk_size=4),
    "unprojected": attention("performer", kernel="unprojected", orthogonal=False),
}


@pytest.mark.parametrize("case", IGNORED)
def test_directions_that_are_not_drawn(case, script):
    as_yaml("c.yaml", tiny(IGNORED[case]))
    keys = [key for key in ("orthogonal", "chunk_size") if key in IGNORED[case]["model.attention"]]
    outcome = script("synth_train", "--config", "c.yaml")
    assert_refused(outcome, [(FILE + "model.attention", key) for key in keys])


LOCAL, FULL = {"kind": "local"}, {"kind": "full"}
WRONG_LISTS = {
    "no mechanism": ("synth_train", [], [("model", "attentions")]),
    "more mechanisms than layers": (
        "synth_train",
        [LOCAL, FULL, LOCAL],
        [("model", "attentions", 3, 2)],
    ),
    "no kind": ("cls_train", [LOCAL, {"chunk_size": 3}], [("model.attentions.1.kind", "'local'")]),
    "a kind that there is not": (
        "cls_train",
        [{"kind": "near"}],
        [("model.attentions.0.kind", "'full'", "'near'")],
    ),
    "no mapping": ("cls_train", [LOCAL, "full"], [("model.attentions.1", "'full'")]),
    "a value": ("cls_train", [LOCAL, LOCAL | {"back": -1}], [("model.attentions.1.back", -1)]),
    "a key": ("cls_train", [{"kind": "local", "chunk": 3}], [("model.attentions.0.chunk", "chunk_size")]),
    "values that do not fit": (
        "cls_train",
        [FULL, {"kind": "local", "chunk_size": 4, "circle": 6}],
        [("model.attentions.1", "circle", 6, "chunk_size", 4)],
    ),
    "what is not causal": (
        "synth_train",
        [{"kind": "linformer"}, LOCAL | {"ahead": 2}],
        [
            ("model.attentions.0.kind", "linformer", "causal", *ALTERNATIVES),
            ("model.attentions.1.ahead", 2, 0, None),
        ],
    ),
    "a circle without an end": (
        "generation_train",
        [FULL, LOCAL | {"circle": 64}],
        [("model.attentions.1.circle", 64, None, "causal")],
    ),
    "buckets for more than there is": (
        "synth_train",
        [{"kind": "lsh", "bucket_size": 4}, {"kind": "lsh", "bucket_size": 400}],
        [("model.attentions.1.bucket_size", 400, 11)],
    ),
    "ranks for layers of another kind": (
        "cls_train",
        [FULL, {"kind": "linformer", "rank": [2, 2]}],
        [("model.attentions.1.rank", 2, "values", 1)],
    ),
    "chunks that move": (
        "generation_train",
        [{"kind": "transformers_lsh"}, {"kind": "lsh", "bucket_size": 2, "rule": "chunk"}],
        [
            ("model.attention.kind", "transformers_lsh", "lsh"),
            ("model.attention.rule", "chunk", "rule"),
        ],
    ),
    "single channels": (
        "cls_train",
        [FULL, {"kind": "relative"}],
        [("data.split_channels", True, "model.attention.kind", "relative")],
    ),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
def test_mistake_in_one_of_several_mechanisms(case, script):
    name, attentions, expected = WRONG_LISTS[case]
    changes = {"model.attention": GONE, "model.attentions": attentions, "model.depth": 2}
    as_yaml("c.yaml", TRAININGS[name](changes | (COLOURS if case == "single channels" else {})))
    assert_refused(script(name, "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])


def test_attention_and_attentions(script):
    """A flag may bring the list as JSON; one of the two would have no effect."""
    as_yaml("c.yaml", tiny())
    outcome = script("synth_train", "--config", "c.yaml", "--model.attentions", '[{"kind": "local"}]')
    assert_refused(outcome, [(BOTH + "model", "attentions", "attention.kind", "shared_qk")])


def test_comparing_models_of_several_mechanisms(script, trained):
    """LSH takes the place of one mechanism in all layers."""
    best = trained["shared_qk"] / "checkpoints/best"
    config = SynthTrainConfig.model_validate(tiny({"model.attention": GONE, "model.attentions": [LOCAL]}))
    (best / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "2", "--device", "cpu"]
    expected = [(f"{best}", "attentions", "attention", "shared_qk")]
    assert_refused(script("synth_models_comparison", *flags), expected)


@pytest.mark.parametrize("kind", ["performer", "relative", "clipped_relative", "causal_linformer"])
def test_comparing_models_without_shared_keys(kind, script, trained):
    """Their weights are not those that LSH evaluates."""
    best = trained["shared_qk"] / "checkpoints/best"
    config = SynthTrainConfig.model_validate(tiny(attention(kind)))
    (best / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    before = files_below(".")
    flags = ["--checkpoints", trained["shared_qk"], "--lsh.bucket_size", "2", "--device", "cpu"]
    expected = [(f"{best}", "kind", kind, "shared_qk")]
    assert_refused(script("synth_models_comparison", *flags), expected)
    assert files_below(".") == before
