"""A user's mistakes with shift_test.py and performance_studies.py: exit code 2 and a line each, nothing written."""

import json
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml
from tiny_scripts import assert_refused, assert_states, files_below, tiny_classifier, tiny_generator
from torchvision.datasets import mnist

import dl_proj.experiments.images.data
from dl_proj.cli import CONFIGS
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from my_custom_ai.custom_train.checkpoint import save_weights


def leave(name, config, model):
    Path(name).mkdir()
    Path(name, "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    save_weights(Path(name) / "model.safetensors", model)


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch):
    """Fresh models: of all digits, of two of them, of MNIST without its files, and a generator."""

    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", fail)
    for name, changes, n_classes in (
        ("digits", {}, 10),
        ("two", {"data.labels": [7, 1]}, 2),
        ("mnist", {"data.dataset": "mnist"}, 10),
        ("folder", {"data.dataset": "image_folder", "data.root": "gone", "data.image_size": 8}, 2),
    ):
        config = ClassifierTrainConfig.model_validate(tiny_classifier(changes))
        leave(name, config, build_classification_model(config, n_classes))
    config = GeneratorTrainConfig.model_validate(tiny_generator())
    leave("generator", config, build_generator(config, 10))


@pytest.fixture
def refused(script):
    """Runs a script that must refuse, with these lines."""

    def check(name, flags, expected):
        before = files_below(".")
        assert_refused(script(name, "--device", "cpu", *flags.split()), expected)
        assert files_below(".") == before

    return check


def places(name):
    """How lines begin that a rule over several settings of a preset and flags found."""
    return f"{CONFIGS / name} and flags: "


SHIFTS = {
    "unknown checkpoint": (
        "--checkpoints digits,nothing --max_shift 1",
        [("'nothing'", "checkpoints")],
    ),
    "no checkpoint": ("--checkpoints []", [(places("shift_test.yaml") + "checkpoints",)]),
    "no label": (
        "--checkpoints digits --labels []",
        [(places("shift_test.yaml") + "labels",)],
    ),
    "neither": (
        "--checkpoints [] --labels []",
        [(places("shift_test.yaml") + "checkpoints",), (places("shift_test.yaml") + "labels",)],
    ),
    "a nameless checkpoint": ('--checkpoints ["digits",""]', [("flags: checkpoints.1", 1, "''")]),
    "unknown label": (
        "--checkpoints two,digits --labels 1,eleven",
        [("labels: two: 'eleven'", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)],
    ),
    "a label twice": ("--checkpoints digits --labels 1,3,1", [("labels: digits: '1'",)]),
    "a label that a model was not trained on": (
        "--checkpoints digits,two --labels 1,0,3 --max_shift 1",
        [("labels: two", 0, 3, 7, 1)],
    ),
    "no shift": ("--checkpoints digits --max_shift 0", [("flags: max_shift", 1, "'0'")]),
    "missing files": (
        "--checkpoints digits,mnist --data.root none --max_shift 1",
        [("data.root: MNIST", "none/MNIST/raw"), ("data.dataset: without",)],
    ),
    "a missing folder": ("--checkpoints folder", [("data.root: gone/train",)]),
    "a missing folder elsewhere": (
        "--checkpoints folder --data.root none",
        [("data.root: none/train",)],
    ),
    "unknown setting": ("--checkpoints digits --max_shifts 2", [("flags: --max_shifts: no",)]),
}


@pytest.mark.parametrize("case", SHIFTS)
def test_mistake_in_shift_test(case, refused):
    refused("shift_test", *SHIFTS[case])


@pytest.mark.parametrize("labels", ["7", "null", "1,7"])
def test_a_shift_for_which_no_image_has_room(labels, refused):
    """The widest margin is named, and would do."""
    pixels, numbers = dl_proj.experiments.images.data._READERS["digits"](Path())["test"]
    some = [int(label) for label in labels.split(",")] if labels != "null" else range(10)
    images = [image for image, label in zip(pixels, numbers.tolist(), strict=True) if label in some]
    inked = [image.any(0).any(0).nonzero().flatten().tolist() for image in images]
    widest = max(min(min(columns), 7 - max(columns)) for columns in inked)
    complaint = ("max_shift", len(images), "digits", widest + 1, widest)
    refused("shift_test", f"--checkpoints digits --labels {labels} --max_shift {widest + 1}", [complaint])


def test_a_shift_for_which_just_one_image_has_room(script):
    flags = ("--device", "cpu", "--checkpoints", "digits", "--labels", "7", "--max_shift", 1)
    assert script("shift_test", *flags).code == 0


@pytest.mark.parametrize(("name", "task"), [("generator", "generation"), ("synth-gen-full", "copy")])
def test_a_checkpoint_that_is_no_classifier(name, task, script):
    outcome = script("shift_test", "--checkpoints", f"digits,{name}", "--max_shift", 1, "--device", "cpu")
    assert outcome.code == 2
    (line,) = (line for line in outcome.lines if f"{name}/config.yaml: task:" in line)
    place = line.partition(": ")[0] + ": task"
    assert_states(line, place, "'classification'", repr(task))
    assert not Path("runs").exists()


def variants(*given):
    return json.dumps(given, separators=(",", ":"))


FULL = {"label": "full", "attention": {"kind": "full"}}
PRESET = places("perf_study.yaml")
STUDIES = {
    "odd features": (
        "--approximation.n_features 4,7,8",
        [(PRESET + "approximation: n_features", [4, 7, 8])],
    ),
    "no features": (
        "--approximation.n_features [] --equivariance.n_features []",
        [
            (PRESET + "approximation: n_features", []),
            (PRESET + "equivariance: n_features", [], 4),
        ],
    ),
    "a number that is no multiple of four": (
        "--equivariance.n_features 8,10",
        [(PRESET + "equivariance: n_features", [8, 10], 4)],
    ),
    "negative features": (
        "--approximation.n_features 4,-2",
        [("flags: approximation.n_features.1", 1, -2)],
    ),
    "heads that do not divide": (
        "--equivariance.dim 10 --equivariance.heads 3 --equivariance.n_features 6",
        [
            (PRESET + "equivariance: dim", 10, "heads", 3),
            (PRESET + "equivariance: n_features", [6], 4),
        ],
    ),
    "one head": ("--equivariance.heads 1", [("flags: equivariance.heads", 2, "'1'")]),
    "one sample": (
        "--equivariance.samples 1 --approximation.samples 1",
        [
            ("flags: approximation.samples", 2, "'1'"),
            ("flags: equivariance.samples", 2, "'1'"),
        ],
    ),
    "no scale": (
        "--approximation.scale 0 --equivariance.scale 0",
        [("flags: approximation.scale", 0), ("flags: equivariance.scale", 0)],
    ),
    "no study": ("--studies []", [(PRESET + "studies",)]),
    "unknown study": (
        "--studies speed",
        [("flags: studies.0", "'approximation'", "'equivariance'", "'reconstruction'", "'length'", "'speed'")],
    ),
    "a study twice": ("--studies depth,length,depth", [(PRESET + "studies: depth",)]),
    "no variant": (
        "--length.variants [] --model.variants []",
        [(PRESET + "length.variants",), (PRESET + "model.variants",)],
    ),
    "lists without points": (
        "--reconstruction.rounds [] --linformer.ranks [] --depth.depths [] --model.architectures []",
        [
            (PRESET + name,)
            for name in (*("reconstruction: rounds", "linformer: ranks", "depth: depths", "model: architectures"),)
        ],
    ),
    "points twice": (
        "--reconstruction.bucket_sizes 8,16,8 --length.lengths 512,512",
        [
            (PRESET + "reconstruction: bucket_sizes: 8",),
            (PRESET + "length: lengths: 512",),
        ],
    ),
    "a bucket larger than the sequence": (
        "--reconstruction.length 64 --reconstruction.bucket_sizes 64,65",
        [(PRESET + "reconstruction: bucket_sizes: 65", 64, 64)],
    ),
    "sizes that do not divide": (
        "--length.lengths 512,1000 --length.heads 3 --depth.tokens 100",
        [
            (PRESET + "length: dim", 256, "heads", 3),
            (PRESET + "length: tokens", 16384, 1000),
            (PRESET + "depth: tokens", 100, 1024),
        ],
    ),
    "a rank for no length": (
        "--linformer.lengths 64,128 --linformer.ranks 64,65",
        [(PRESET + "linformer: ranks: 65", 128)],
    ),
    "variants of the wrong kind, direction and size": (
        "--length.lengths 64,128 --length.variants "
        + variants(
            {"label": "a", "attention": {"kind": "linformer", "rank": 64}, "causal": True},
            {"label": "b", "attention": {"kind": "causal_linformer"}},
            {"label": "c", "attention": {"kind": "linformer", "rank": 65}},
            {"label": "d", "attention": {"kind": "lsh", "bucket_size": 65}},
            {"label": "e", "attention": {"kind": "linformer", "rank": 64}},
        ),
        [
            (PRESET + "length: variants: a: attention.kind: linformer",),
            (PRESET + "length: variants: b: attention.kind: causal_linformer",),
            (PRESET + "length: variants: c: attention.rank", 65, 64),
            (PRESET + "length: variants: d: attention.bucket_size", 65),
        ],
    ),
    "a variant of no depth": (
        "--depth.variants "
        + variants(
            {"label": "a", "attention": {"kind": "lsh", "bucket_size": 1025}},
            {"label": "b", "attention": {"kind": "linformer", "rank": [8, 4]}},
        ),
        [(PRESET + "depth: variants: a: attention.bucket_size", 1025)]
        + [(PRESET + "depth: variants: b: attention.rank", 2, n) for n in (1, 4, 8)],
    ),
    "labels": (
        "--depth.variants "
        + variants(FULL, FULL, {"label": "long", "attention": {"kind": "full"}, "max_length": 1000}),
        [
            (PRESET + "depth: variants: full",),
            (PRESET + "depth: variants: long: max_length", 1000, [1024]),
        ],
    ),
    "settings of a variant": (
        "--depth.variants "
        + variants(
            {"label": "a", "attention": {"kind": "nothing"}},
            {"label": "b", "attention": {"kind": "lsh", "bucket_size": 0, "size": 3}},
            {"label": "", "attention": {"kind": "full"}, "casual": True},
            {"attention": {"kind": "full"}},
            {"label": "c", "attention": {"kind": "lsh", "n_buckets": 3, "attend_across_buckets": True}},
        ),
        [
            ("flags: depth.variants: a: attention", "'nothing'", "'full'", "'shared_qk'", "'lsh'"),
            ("flags: depth.variants: b: attention.lsh.bucket_size", 1),
            ("flags: depth.variants: b: attention.lsh.size",),
            ("flags: depth.variants: label", 1),
            ("flags: depth.variants: casual",),
            ("flags: depth.variants: 3: label",),
            ("flags: depth.variants: c: attention.lsh: n_buckets", 3, 1),
            ("flags: depth.variants: c: attention.lsh: attend_across_buckets", True, "rule", "chunk"),
        ],
    ),
    "no list of variants": ("--depth.variants 3", [("flags: depth.variants",)]),
    "a model that cannot be": (
        "--model.lengths 64 --model.tokens 64 --model.variants "
        + variants(
            {"label": "a", "encoder_attention": {"kind": "causal_linformer"}},
            {"label": "b", "decoder_attention": {"kind": "linformer"}},
            {"label": "c", "cross_attention": {"kind": "linformer", "rank": 65}},
        ),
        [
            (PRESET + "model: variants: a: encoder_attention.kind: causal_linformer",),
            (PRESET + "model: variants: b: decoder_attention.kind: linformer",),
            (PRESET + "model: variants: c: cross_attention.rank", 65, 64),
        ],
    ),
    "what cannot attend across": (
        "--model.variants " + variants({"label": "a", "cross_attention": {"kind": "lsh"}}),
        [("flags: model.variants: a: cross_attention.kind: lsh",)],
    ),
}


def test_an_encoder_alone_has_no_mistakes_of_a_decoder(refused):
    """Of the two variants, that would both be refused with a decoder, one is."""
    made = variants(
        {"label": "a", "decoder_attention": {"kind": "linformer"}},
        {"label": "b", "encoder_attention": {"kind": "causal_linformer"}},
    )
    flags = "--model.architectures encoder_only --model.variants " + made
    complaint = "model: variants: b: encoder_attention.kind"
    refused("performance_studies", flags, [(PRESET + complaint, "causal_linformer")])


@pytest.mark.parametrize("case", STUDIES)
def test_mistake_in_study(case, refused):
    refused("performance_studies", *STUDIES[case])
