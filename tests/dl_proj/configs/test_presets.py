"""Every file under configs/ is valid for its script and builds the model that its numbers say."""

import itertools
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import get_args
from unittest import mock

import pytest
import torch
import yaml
from tiny_scripts import tiny, tiny_classifier, tiny_generator, tiny_language, tiny_long_range, tiny_translation

from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.cli import CONFIGS, training_config
from dl_proj.commands import COMMANDS
from dl_proj.experiments.baselines_settings import BaselinesConfig
from dl_proj.experiments.compare_runs_settings import CompareRunsConfig
from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model
from dl_proj.experiments.evaluate import evaluate_checkpoints
from dl_proj.experiments.evaluate_settings import EvaluateConfig
from dl_proj.experiments.images.classification.objective import ClassificationObjective
from dl_proj.experiments.images.classification.predict_settings import PredictConfig
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.shift_settings import ShiftConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.generation.settings import DrawConfig, GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.language.import_settings import ImportReformerConfig
from dl_proj.experiments.language.settings import ContinueTextConfig, LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.experiments.long_range.data_settings import ImageSequenceConfig, ListOpsConfig
from dl_proj.experiments.long_range.examples_settings import ExamplesConfig
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.experiments.long_range.train import build_sequence_classifier
from dl_proj.experiments.sweep_settings import SweepConfig, nested
from dl_proj.experiments.translation.settings import TranslateConfig, TranslationEvaluateConfig, TranslationTrainConfig
from dl_proj.experiments.translation.train import build_configured as build_translator
from dl_proj.exporting.settings import ExportConfig
from dl_proj.looking.settings import AttentionMapsConfig
from dl_proj.models.build import Places, build_mechanisms
from dl_proj.settings.load import load_config, merge
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.studies.settings import PerformanceConfig, Study
from dl_proj.text.tokenizers import Tokenizer

SCHEMAS = {  # by the beginning of a file's name; the first that fits
    "synth_comparison": SynthComparisonConfig,
    "synth_recall_comparison": SynthComparisonConfig,
    "synth": SynthTrainConfig,
    "demo": SynthTrainConfig,
    "cls_": ClassifierTrainConfig,
    "gen_": GeneratorTrainConfig,
    "evaluate": EvaluateConfig,
    "attention_maps": AttentionMapsConfig,
    "export": ExportConfig,
    "mnist_generator": DrawConfig,
    "shift_test": ShiftConfig,
    "predict": PredictConfig,
    "perf_study": PerformanceConfig,
    "lm_generate": ContinueTextConfig,
    "lm_": LanguageTrainConfig,
    "mlm_": LanguageTrainConfig,
    "lra_examples": ExamplesConfig,
    "lra_": LongRangeTrainConfig,
    "sweep_": SweepConfig,
    "baselines": BaselinesConfig,
    "compare_runs": CompareRunsConfig,
    "import_": ImportReformerConfig,
    "translation_evaluate": TranslationEvaluateConfig,
    "translation_": TranslationTrainConfig,
    "translate": TranslateConfig,
}
TRAININGS = {
    SynthTrainConfig: tiny,
    ClassifierTrainConfig: tiny_classifier,
    GeneratorTrainConfig: tiny_generator,
    LanguageTrainConfig: tiny_language,
    TranslationTrainConfig: tiny_translation,
    LongRangeTrainConfig: tiny_long_range,
}
PRESETS = {
    path: next((schema for start, schema in SCHEMAS.items() if path.stem.startswith(start)), None)
    for path in sorted(CONFIGS.rglob("*.yaml"))
}
COLOURS_AND_SIDE = {"digits": (1, 8), "mnist": (1, 28), "fashion_mnist": (1, 28), "cifar10": (3, 32)}


def of(*schemas):
    return [path for path, schema in PRESETS.items() if schema in schemas]


def name_of(path):
    return str(path.relative_to(CONFIGS))


def n_classes(data):
    if isinstance(data, ListOpsConfig | ImageSequenceConfig):
        return 10
    if not hasattr(data, "labels"):
        return 2
    return len(data.labels) if data.labels else 10


def channels(data):
    return 1 if data.greyscale else COLOURS_AND_SIDE[data.dataset][0]


def linformer_parameters(attention, model, head_dim, tokens):
    """Of one layer's projections, which all layers have together if they are shared layerwise."""
    matrices = {"none": 2 * model.heads, None: 2, "headwise": 2, "key_value": 1, "layerwise": 1 / model.depth}
    (rank,) = {*attention.rank} if isinstance(attention.rank, tuple) else {attention.rank}
    weights = {
        "learned": rank * tokens,
        "convolution": -(-tokens // rank) * head_dim**2,
        "mean": 0,
        "max": 0,
    }
    return round(model.depth * matrices[attention.sharing] * weights[attention.projection]) / model.depth


def mechanism_parameters(attention, model, length, axes):
    """Of one layer's mechanism itself; random directions are no parameters."""
    heads = model.heads
    head_dim = model.head_dim or model.dim // heads
    match attention.kind:
        case "relative":  # frequencies; a cosine's and a sine's coefficient for each, which may depend on the query
            frequencies = axes * attention.n_scales
            return frequencies + 2 * frequencies * heads * (1 + (head_dim if attention.content else 0))
        case "clipped_relative":  # a vector for each displacement, for off and on the grid, and a gate
            return heads // 2 * head_dim * ((2 * attention.distance + 1) ** axes + 2 + 1)
        case "linformer":
            return linformer_parameters(attention, model, head_dim, length)
        case "causal_linformer":
            return linformer_parameters(attention, model, head_dim, attention.block_size)
        case "nystrom":
            return heads * attention.kernel_size
    return 0


def attention_parameters(model, length, axes):
    """Of all layers' attention, counted from the numbers of the configuration alone."""
    dim, inner = model.dim, model.heads * (model.head_dim or model.dim // model.heads)
    found = 0
    for _, attention in zip(range(model.depth), itertools.cycle(model.attentions or [model.attention]), strict=False):
        projections = 2 if attention.kind in ("lsh", "shared_qk") else 3
        biases = projections * inner + dim if model.attention_bias else 0
        own = mechanism_parameters(attention, model, length, axes)
        found += (projections + 1) * inner * dim + biases + own
    return found


def stack_parameters(model, length, axes):
    """Of layers, positions and the last norm, likewise."""
    dim, hidden = model.dim, model.ffn_dim
    positions = {
        "learned": length * dim,
        "sinusoidal": 0,
        "axial": sum(getattr(model.positions, "shape", (0, 0))) * dim // 2,
        "learned_sinusoidal": dim // 2 + dim,  # a frequency for each sine and its cosine, and all their amplitudes
        "none": 0,
    }[model.positions.kind]
    feed_forward = (dim + 1) * hidden + (hidden + 1) * dim
    norms = 2 * 2 * dim
    final_norm = 2 * dim if model.norm == "pre" else 0
    of_attention = attention_parameters(model, length, axes)
    return positions + of_attention + model.depth * (feed_forward + norms) + final_norm


def encoder_decoder_parameters(model, length):
    """Of an encoder, and of a decoder whose layers have one more attention and norm."""

    def part(depth, attention):
        return SimpleNamespace(**dict(model) | {"depth": depth, "attention": attention, "attentions": None})

    return (
        stack_parameters(part(model.encoder_depth, model.encoder_attention), length, axes=1)
        + stack_parameters(part(model.decoder_depth, model.decoder_attention), length, axes=1)
        + attention_parameters(part(model.decoder_depth, model.cross_attention), length, axes=1)
        + model.decoder_depth * 2 * model.dim
    )


def length(config):
    """Inputs of the stack."""
    data = config.data
    match config:
        case SynthTrainConfig():
            return data.length - (data.task == "copy")
        case GeneratorTrainConfig():
            return data.max_len
        case ClassifierTrainConfig():
            side = data.image_size or COLOURS_AND_SIDE[data.dataset][1]
            across = (side - data.patch_size) // (data.patch_stride or data.patch_size) + 1
            patches = across**2 * (channels(data) if data.split_channels else 1)
            return patches + (config.model.pooling == "class_token")
        case LanguageTrainConfig():
            return data.window
        case TranslationTrainConfig():
            return data.max_length
        case LongRangeTrainConfig():
            sides = {"image": lambda: data.image_size**2, "pathfinder": lambda: data.side**2}
            longest = sides.get(data.kind, lambda: data.max_length)()
            return longest + (config.model.pooling == "class_token")


def expected_parameters(config):
    """Stack, what is embedded, and the linear map to logits."""
    data, dim = config.data, config.model.dim
    if isinstance(config, TranslationTrainConfig):
        symbols = data.tokenizer.vocab_size + 1
        matrices = 1 if config.model.tied else 3
        return encoder_decoder_parameters(config.model, data.max_length) + symbols * (matrices * dim + 1)
    on_a_line = isinstance(config, SynthTrainConfig | LanguageTrainConfig | LongRangeTrainConfig)
    stack = stack_parameters(config.model, length(config), axes=1 if on_a_line else 2)
    match config:
        case SynthTrainConfig():
            return data.vocab_size * dim + stack + (dim + 1) * data.vocab_size
        case GeneratorTrainConfig():
            return (data.vocab_size + n_classes(data)) * dim + stack + (dim + 1) * data.vocab_size
        case ClassifierTrainConfig():
            values = data.patch_size**2 * (1 if data.split_channels else channels(data))
            embedded = data.vocab_size * dim if config.model.embedding == "lookup" else (values + 1) * dim
            class_token = dim if config.model.pooling == "class_token" else 0
            return embedded + class_token + stack + (dim + 1) * n_classes(data)
        case LongRangeTrainConfig():
            symbols = 15 if data.kind == "listops" else 256
            class_token = dim if config.model.pooling == "class_token" else 0
            hidden, seen = config.model.classifier_dim or config.model.ffn_dim, 4 if data.kind == "retrieval" else 1
            return symbols * dim + class_token + stack + (seen * dim + 1) * hidden + (hidden + 1) * n_classes(data)
        case LanguageTrainConfig():
            assert data.tokenizer.kind == "bytes"
            symbols = 256 + (config.objective.kind == "masked")
            return symbols * dim + stack + symbols * ((0 if config.model.tied else dim) + 1)


def built(config):
    match config:
        case SynthTrainConfig():
            return build_copy_model(config)
        case GeneratorTrainConfig():
            return build_generator(config, n_classes(config.data))
        case ClassifierTrainConfig():
            return build_classification_model(config, n_classes(config.data))
        case LongRangeTrainConfig():
            return build_sequence_classifier(config, n_classes(config.data))
        case LanguageTrainConfig():
            return build_configured(config, Tokenizer())
        case TranslationTrainConfig():
            side = SimpleNamespace(vocab_size=config.data.tokenizer.vocab_size + 1)
            return build_translator(config, SimpleNamespace(source=side, target=side))


def depths_of(config, model):
    """Of each stack of a model."""
    if isinstance(config, TranslationTrainConfig):
        return {model.encoder: config.model.encoder_depth, model.decoder: config.model.decoder_depth}
    return {model.stack: config.model.depth}


def check_output(config, model):
    """Logits for one example, computed from as many inputs as there should be."""
    data, inputs = config.data, []
    for stack in (stacks := depths_of(config, model)):
        stack.register_forward_pre_hook(lambda _, given: inputs.append(given[0].shape[1]))
    with torch.no_grad():
        match config:
            case SynthTrainConfig():
                tokens = torch.randint(data.vocab_size, (1, length(config)))
                logits, shape = model(tokens), (1, length(config), data.vocab_size)
            case GeneratorTrainConfig():
                pixels, labels = torch.randint(data.vocab_size, (1, data.max_len)), torch.zeros(1, dtype=torch.int64)
                logits, shape = model(pixels[:, :-1], labels=labels), (1, data.max_len, data.vocab_size)
            case ClassifierTrainConfig():
                side = data.image_size or COLOURS_AND_SIDE[data.dataset][1]
                images = torch.randint(data.vocab_size, (1, channels(data), side, side), dtype=torch.uint8)
                logits, shape = model(images), (1, n_classes(data))
            case LongRangeTrainConfig():
                together, n = 2 if data.kind == "retrieval" else 1, length(config)
                tokens = torch.randint(15, (1, together, n - (config.model.pooling == "class_token")))
                logits, shape = model(tokens, tokens >= 0), (1, n_classes(data))
            case LanguageTrainConfig():
                symbols = 257 if config.objective.kind == "masked" else 256
                logits, shape = model(torch.randint(256, (1, data.window))), (1, data.window, symbols)
            case TranslationTrainConfig():
                symbols, n = data.tokenizer.vocab_size + 1, data.max_length
                source, target = torch.randint(symbols, (2, 1, n))
                logits, shape = model(source, target), (1, n, symbols)
    assert inputs == [length(config)] * len(stacks)
    assert logits.shape == shape
    assert logits.isfinite().all()


def large(config):
    """Whether it takes a GPU to run."""
    rows = config.data.tokenizer.vocab_size if isinstance(config, TranslationTrainConfig) else length(config)
    return config.model.dim * rows > 2**20


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_file_is_known_to_some_script():
    assert None not in PRESETS.values(), [name_of(path) for path, schema in PRESETS.items() if schema is None]
    assert all(of(schema) for schema in set(SCHEMAS.values())), "a name that nothing has any more"


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_a_file_is_valid_and_survives_being_dumped(path):
    config = load_config(PRESETS[path], path)
    Path("dumped.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(PRESETS[path], Path("dumped.yaml")) == config


@pytest.mark.parametrize("path", of(*TRAININGS), ids=name_of)
@pytest.mark.parametrize("flags", [["--train.max_steps", "20"], ["--quick"]], ids=" ".join)
def test_a_training_can_be_short(path, flags):
    """Warm-up and epochs give way, as far as the settings themselves can tell."""
    whole = load_config(PRESETS[path], path)
    config, _ = training_config(PRESETS[path], ["--config", str(path), *flags], preset=name_of(path))
    assert config.train.steps_of(10**6) == 20
    assert config.schedule_mistakes(20) == []
    assert config.model == whole.model and config.optimizer == whole.optimizer
    assert config.train.monitor == whole.train.monitor


@pytest.mark.parametrize("path", of(*TRAININGS), ids=name_of)
def test_a_training_builds_its_model(path):
    config = load_config(PRESETS[path], path)
    with torch.device("meta" if large(config) else "cpu"):
        model = built(config)
    assert count(model) == expected_parameters(config)
    assert all(len(stack.layers) == depth for stack, depth in depths_of(config, model).items())
    if not large(config):
        check_output(config, model.eval())


@pytest.mark.parametrize("path", of(SweepConfig), ids=name_of)
def test_a_sweep_builds_the_models_that_its_variants_say(path):
    sweep = load_config(SweepConfig, path)
    base = merge(read_yaml(CONFIGS / sweep.base), nested(sweep.common))
    schema = next(schema for schema in TRAININGS if schema.model_fields["task"].default == base["task"])
    models = []
    for changes in sweep.all_variants.values():
        config = schema.model_validate(merge(merge(base, nested(sweep.common)), nested(changes)))
        assert sweep.metric in config.metrics
        with torch.device("meta"):
            model = built(config)
        assert count(model) == expected_parameters(config)
        models.append(config.model)
    assert len(models) == len({model.model_dump_json() for model in models}) > 1, "no two are one"


TRANSLATED = [path for path in of(ClassifierTrainConfig) if path.stem.startswith(("cls_mnist14", "cls_mnist28"))]


@pytest.mark.parametrize("path", TRANSLATED, ids=name_of)
def test_a_small_one_of_its_kind_learns(path):
    small = {"data": {"image_size": 12}, "model": {"dim": 16, "depth": 2, "ffn_dim": 8, "heads": 4}}
    config = load_config(ClassifierTrainConfig, path, small)
    model = built(config).train()
    images = torch.randint(256, (4, 1, 12, 12)).to(torch.uint8)
    labels, losses = torch.arange(4), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(4):
        loss = ClassificationObjective().measure(model, (images, labels))["loss"].value
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_no_two_trainings_share_a_folder():
    names = [load_config(PRESETS[path], path).experiment_name for path in of(*TRAININGS)]
    assert len(set(names)) == len(names)


NAMES = {  # what a script's default preset trains with some flags
    "synth_train": {
        "": "synth-gen-lsh-r4",
        "--model.attention.n_rounds 2": "synth-gen-lsh-r2",
        "--model.attention.kind shared_qk": "synth-gen-shared-qk",
        "--experiment_name mine --model.attention.kind full": "mine",
        "--config demo.yaml --model.attention.kind full": "demo",
        "--quick": "synth-gen-lsh-r4-quick",
        "--quick --experiment_name mine": "mine",
        "--config demo.yaml --quick": "demo-quick",
    },
    "cls_train": {
        "--model.attention.kind linformer": "mnist-cls-linformer",
        "--data.dataset fashion_mnist --data.image_size 16": "fashion-mnist16-cls-lsh-r4",
        "--data.dataset image_folder --data.root pics/My_Cats --data.image_size 32": "my-cats32-cls-lsh-r4",
    },
    "generation_train": {
        "--data.dataset digits": "digits-gen-lsh-r4-144",
        "--data.dataset digits --data.max_len 64 --model.attention.bucket_size 16": "digits-gen-lsh-r4",
    },
    "lm_train": {
        "": "lm-books-full",
        "--model.attention.kind lsh --data.path texts/Moby.Dick.txt": "lm-moby-dick-lsh-r4",
        "--config mlm_books.yaml": "mlm-books-full",
        "--config lm_books_reformer.yaml": "lm-books-reformer",
        "--config lm_books_reformer.yaml --experiment_name=": "lm-books-local-lsh-r2",
    },
    "lra_train": {
        "": "lra-listops2000-full",
        "--config lra_pathfinder32.yaml --model.attention.kind lsh --data.side 64": "lra-pathfinder64-lsh-r4",
        "--config lra_text.yaml --data.source folder --data.path my/Reviews": "lra-text-reviews-full",
        "--config paper/lra_listops.yaml": "lra-paper-listops",
    },
    "translation_train": {
        "": "translation-multi30k",
        "--model.encoder_attention.kind linformer": "translation-multi30k-linformer",
        "--model.decoder_attention.kind lsh": "translation-multi30k-lsh-r4",
        '--data.corpus {"kind":"csv","train":"my/pairs.csv"}': "translation-pairs",
    },
}


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name, some in NAMES.items() for flags in some])
def test_a_run_is_named_after_what_it_is(name, flags):
    command = COMMANDS[name]
    config, _ = training_config(resolve_name(command.schema), flags.split(), preset=command.preset)
    assert config.experiment_name == NAMES[name][flags]


@pytest.mark.parametrize("path", of(SynthComparisonConfig), ids=name_of)
def test_a_comparison_has_the_papers_columns(path):
    assert load_config(SynthComparisonConfig, path).eval_rounds == (8, 4, 2, 1)


def test_what_is_drawn_with_is_trained_by_some_file():
    trained = {load_config(GeneratorTrainConfig, path).experiment_name for path in of(GeneratorTrainConfig)}
    assert {load_config(DrawConfig, path).checkpoint for path in of(DrawConfig)} | {DrawConfig().checkpoint} <= trained


def test_what_is_translated_with_is_trained_by_some_file():
    trained = {load_config(TranslationTrainConfig, path).experiment_name for path in of(TranslationTrainConfig)}
    named = [load_config(PRESETS[path], path).checkpoint for path in of(TranslateConfig, TranslationEvaluateConfig)]
    assert len(named) == 2 and set(named) <= trained


def test_what_is_evaluated_are_the_shipped_models():
    """From any folder."""
    for path in of(EvaluateConfig):
        assert load_config(EvaluateConfig, path).checkpoint is None
    measured = []
    with mock.patch("dl_proj.experiments.evaluate._measure", lambda name, folder, *_: measured.append(folder) or {}):
        evaluate_checkpoints(EvaluateConfig())
    assert measured == sorted(path.parent for path in SHIPPED.glob("*/model.safetensors"))


STACKS = [
    {"model.attention": {"kind": "full"}, "model.head_dim": 3},
    {"model.attention": {"kind": "lsh", "bucket_size": 2}},
    {"model.norm": "post", "model.depth": 2},
    {"model.attention_bias": False, "model.attention": {"kind": "local", "chunk_size": 3}},
    {"model.reversible": True, "model.depth": 3},
    {"model.positions": {"kind": "sinusoidal"}, "model.ffn_dim": 7},
    {"model.positions": {"kind": "axial", "shape": [4, 5]}},
    {"model.positions": {"kind": "learned_sinusoidal"}},
    {"model.positions": {"kind": "none"}},
    {"model.attention": {"kind": "performer", "n_features": 6}, "model.head_dim": 3},
    {"model.attention": {"kind": "relative", "n_features": 8}, "model.depth": 2},
    {"model.attention": {"kind": "relative", "kernel": "exact", "n_scales": 3, "content": False}, "model.head_dim": 3},
    {"model.attention": {"kind": "clipped_relative", "distance": 2}, "model.heads": 3, "model.head_dim": 5},
    {"model.attention": {"kind": "clipped_relative", "distance": 3, "kernel": "exact"}, "model.reversible": True},
]
LANGUAGE = [
    {"objective": {"kind": "masked"}},
    {"model.tied": True},
    {"model.tied": True, "objective": {"kind": "masked"}, "model.reversible": True},
]
LINFORMERS = [
    {"rank": 3},
    {"rank": 2, "sharing": "none"},
    {"rank": 2, "sharing": "key_value"},
    {"rank": 3, "sharing": "layerwise"},
    {"rank": 2, "projection": "mean"},
    {"rank": 3, "projection": "convolution"},
    {"rank": 2, "projection": "convolution", "sharing": "none"},
    {"rank": 3, "projection": "convolution", "sharing": "layerwise"},
]
CLASSIFIERS = [
    {"model.pooling": "class_token"},
    {"model.embedding": "lookup", "data.patch_size": 1, "data.vocab_size": 17},
    {"data.image_size": 12, "data.labels": [1, 5, 7]},
    {"data.patch_stride": 2},
    {"data.dataset": "cifar10", "data.patch_size": 16},
    {"data.dataset": "cifar10", "data.patch_size": 16, "data.patch_stride": 8, "data.split_channels": True},
    {"data.dataset": "cifar10", "data.patch_size": 16, "data.split_channels": True, "model.pooling": "class_token"},
    {"data.dataset": "cifar10", "data.patch_size": 16, "data.greyscale": True},
]
LONG_RANGE = [
    {"model.pooling": "class_token", "model.classifier_dim": 5},
    {"data": {"kind": "pathfinder", "side": 16}},
    {"data": {"kind": "image", "image_size": 6}, "model.depth": 2},
    {"data": {"kind": "text", "max_length": 19}},
    {"data": {"kind": "retrieval", "max_length": 19}, "model.pooling": "class_token"},
    {"model.attention": {"kind": "nystrom", "n_landmarks": 4, "kernel_size": 3}},
]
GENERATORS = [{"data.max_len": 9, "data.vocab_size": 5}, {"data.labels": ["8", "3"]}]
TRANSLATORS = [
    {"model.encoder_depth": 3, "model.decoder_depth": 2},
    {"model.encoder_depth": 3, "model.reversible": True, "model.tied": True},
    {"model.norm": "post", "model.attention_bias": False, "model.head_dim": 3},
    {"model.positions": {"kind": "learned"}, "data.max_length": 7},
    {"model.encoder_attention": {"kind": "linformer", "rank": 5}, "model.encoder_depth": 2},
    {"model.cross_attention": {"kind": "linformer", "rank": 5, "sharing": "none"}, "model.decoder_depth": 3},
    {"model.cross_attention": {"kind": "linformer", "rank": 5, "sharing": "layerwise"}, "model.decoder_depth": 2},
    {"model.encoder_attention": {"kind": "lsh", "bucket_size": 4}, "model.decoder_attention": {"kind": "shared_qk"}},
    {"model.decoder_attention": {"kind": "clipped_relative", "distance": 2}},
]
OTHERS = [(schema, changes) for schema in TRAININGS if schema != TranslationTrainConfig for changes in STACKS]
OTHERS += [(TranslationTrainConfig, changes) for changes in TRANSLATORS]
OTHERS += [(ClassifierTrainConfig, changes) for changes in CLASSIFIERS]
OTHERS += [(GeneratorTrainConfig, changes) for changes in GENERATORS]
OTHERS += [(LongRangeTrainConfig, changes) for changes in LONG_RANGE]
OTHERS += [(LanguageTrainConfig, changes) for changes in LANGUAGE]
for settings in LINFORMERS:
    deep = {"model.depth": 2, "model.attention": {"kind": "linformer", **settings}}
    OTHERS.append((ClassifierTrainConfig, {**deep, "data.patch_size": 2, "model.pooling": "class_token"}))
    deep = {**deep, "model.attention": {"kind": "causal_linformer", "block_size": 5, **settings}}
    OTHERS += [(SynthTrainConfig, deep), (GeneratorTrainConfig, deep), (LanguageTrainConfig, deep)]


@pytest.mark.parametrize(("schema", "changes"), OTHERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_formula_holds_for_other_models(schema, changes):
    """Or it might fit the presets by what they have in common."""
    config = schema.model_validate(TRAININGS[schema](changes))
    model = built(config)
    assert count(model) == expected_parameters(config)
    check_output(config, model.eval())


def test_positions_of_odd_width():
    config = SynthTrainConfig.model_validate(
        tiny({"model.dim": 7, "model.heads": 1, "model.positions": {"kind": "axial", "shape": [4, 4]}})
    )
    model = build_copy_model(config)
    assert count(model.positions) == 4 * 4 + 4 * 3


@pytest.mark.parametrize("path", of(PerformanceConfig), ids=name_of)
def test_a_preset_of_studies_has_all_of_them_or_is_of_one_and_their_layers_are_built(path):
    config = load_config(PerformanceConfig, path)
    alone = {"perf_study_long": "depth", "perf_study_translation": "model", "perf_study_pretrained": "pretrained"}
    # the pretrained encoder is a package of its own, so only its own preset asks for it
    expected = {alone[path.stem]} if path.stem in alone else {*get_args(Study)} - {"pretrained"}
    assert set(config.studies) == expected
    assert config.reconstruction.length in config.reconstruction.bucket_sizes, "where nothing is missed"
    for own in (config.length, config.depth):
        for variant in own.variants:
            for length in variant.at(own.lengths):
                made = {"causal": variant.causal, "heads": own.heads, "head_dim": own.dim // own.heads}
                (mechanism,) = build_mechanisms(variant.attention, depth=1, places=Places(length), **made)
                assert getattr(mechanism, "causal", False) == variant.causal
