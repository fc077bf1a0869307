"""All six trainings: which files a run leaves, and that an interrupted run resumes as if it had never stopped."""

import csv
import json
import os
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from picture_files import write_tars
from PIL import Image
from tiny_scripts import (
    COSTS,
    TEXT,
    as_yaml,
    assert_refused,
    changed,
    files_below,
    saved_tensors,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_long_range,
    tiny_translation,
    write_pairs,
)

from dl_proj.experiments.copy.objective import CopyObjective
from dl_proj.experiments.images.classification.objective import ClassificationObjective
from dl_proj.experiments.images.generation.objective import PixelObjective
from dl_proj.experiments.language.objective import CausalObjective, MaskedObjective
from dl_proj.experiments.translation.objective import TranslationObjective
from my_custom_ai.custom_train import Objective
from my_custom_ai.custom_train.checkpoint import load_tensors, save_tensors
from my_custom_ai.custom_train.running import locked


@dataclass(frozen=True)
class Training:
    """A training script, a tiny configuration for it, and what its runs hold besides what all runs do."""

    script: str
    config: dict
    results: frozenset[str] = frozenset()  # files written once, at the end
    names: frozenset[str] = frozenset()  # of tokens or classes, also kept beside the best weights

    @property
    def run(self) -> Path:
        return Path("runs") / self.config["experiment_name"] / "version_0"

    @property
    def files(self) -> set[str]:
        best = {"model.safetensors", "config.yaml", "metrics.json", *self.names}
        own = {
            ".lock",
            "data.json",
            "config.yaml",
            "metrics.csv",
            "metrics.json",
            "curves.png",
            *self.results,
            *self.names,
        }
        return own | {"checkpoints/last/state.safetensors"} | {f"checkpoints/best/{name}" for name in best}


SUBWORDS = {"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "data.window": 8}
SEPARATE = {"data.tokenizer": {"vocab_size": 270, "joint": False}}
COPY = Training("synth_train", tiny())
CLASSES = frozenset({"classes.json"})
CLASSIFIER = Training("cls_train", tiny_classifier(), frozenset({"confusion.csv", "confusion.png"}), CLASSES)
GENERATOR = Training("generation_train", tiny_generator(), frozenset({"samples.png"}), CLASSES)
BYTES = Training("lm_train", tiny_language())
LANGUAGE = Training("lm_train", tiny_language(SUBWORDS), names=frozenset({"tokenizer.json"}))
TRANSLATION = Training("translation_train", tiny_translation(), names=frozenset({"tokenizer.json"}))
TWO_VOCABULARIES = Training(
    "translation_train",
    tiny_translation(SEPARATE),
    names=frozenset({"source_tokenizer.json", "target_tokenizer.json"}),
)
LONG_RANGE = Training("lra_train", tiny_long_range({"model.dropout": 0.1}), names=CLASSES)
TRAININGS = {
    "copy": COPY,
    "classification": CLASSIFIER,
    "generation": GENERATOR,
    "language, bytes": BYTES,
    "language, subwords": LANGUAGE,
    "long range": LONG_RANGE,
    "translation": TRANSLATION,
    "translation, two vocabularies": TWO_VOCABULARIES,
}
every_training = pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)


@pytest.fixture(autouse=True)
def texts_without_pictures(monkeypatch):
    """The files that language and translation read. Pictures take longer than a training; they stay empty."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs()
    write_tars("shards")


def train(script, training, changes=None):
    """Train to the end by c.yaml."""
    as_yaml("c.yaml", changed(training.config, {"train.trackers": [], **(changes or {})}))
    outcome = script(training.script, "--config", "c.yaml")
    assert outcome.code == 0, outcome.lines


def without_seconds(values):
    return {name: value for name, value in values.items() if name not in COSTS}


def figures_and_history(training):
    with (training.run / "metrics.csv").open(newline="") as file:
        history = [without_seconds(row) for row in csv.DictReader(file)]
    figures = without_seconds(json.loads((training.run / "metrics.json").read_text()))
    return {name: str(value) for name, value in figures.items()}, history  # as text, nan equals nan


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@every_training
def test_run_leaves_exactly_its_files(training, script):
    before = files_below(".")
    train(script, training, {"train.trackers": ["tensorboard"]})
    events = {file for file in files_below(training.run) if file.startswith("tensorboard/")}
    assert len(events) == 1
    assert files_below(training.run) == training.files | events
    prepared = ("data/", "tokens/")  # pairs and texts as tokens, which all runs share
    new = {file for file in files_below(".") - before if not file.startswith(prepared)}
    assert new == {"c.yaml"} | {str(training.run / file) for file in training.files | events}
    for name in training.names:
        assert (training.run / name).read_bytes() == (training.run / "checkpoints/best" / name).read_bytes()


@every_training
def test_resuming_finished_run_tests_it_again_and_adds_no_step(training, script):
    train(script, training)
    tensors, written = saved_tensors(training.run), figures_and_history(training)
    assert script(training.script, "--config", "c.yaml", "--resume", "last").code == 0
    assert_same_tensors(saved_tensors(training.run), tensors)
    assert figures_and_history(training) == written
    assert files_below(training.run) == training.files


def test_run_goes_on_with_its_own_data_alone(script):
    train(script, TRANSLATION)
    sides = [Path("pairs/train.en"), Path("pairs/train.de")]
    texts = [side.read_text() for side in sides]
    for side, text in zip(sides, reversed(texts), strict=True):
        side.write_text(text)
    tensors = saved_tensors(TRANSLATION.run)
    outcome = script(TRANSLATION.script, "--resume", TRANSLATION.run)
    assert outcome.code == 2
    assert "training data" in outcome.lines[-1] and str(TRANSLATION.run / "data.json") in outcome.lines[-1]
    assert_same_tensors(saved_tensors(TRANSLATION.run), tensors)


def test_another_book_is_refused(script):
    train(script, BYTES)
    Path("text.txt").write_text(TEXT.replace("cat", "cow"), encoding="utf-8")
    outcome = script(BYTES.script, "--resume", BYTES.run)
    assert outcome.code == 2 and "training data" in outcome.lines[0]


def test_redrawn_pictures_are_refused(script):
    """Of the same names, sizes and classes."""
    for number, place in enumerate(product(("train", "test"), ("dots", "lines"), range(10))):
        Path("pictures", *place[:2]).mkdir(parents=True, exist_ok=True)
        picture(number).save(Path("pictures", *place[:2], f"{place[2]}.png"))
    data = {"dataset": "image_folder", "root": "pictures", "patch_size": 4, "image_size": 8}
    train(script, CLASSIFIER, {"data": data})
    tensors = saved_tensors(CLASSIFIER.run)
    for part, what in (("test", ["test"]), ("train", ["test", "training"])):
        picture(99).save(f"pictures/{part}/dots/3.png")
        outcome = script(CLASSIFIER.script, "--resume", CLASSIFIER.run)
        assert outcome.code == 2 and outcome.out == "", outcome
        refused = [line for line in outcome.lines if "--resume: " in line]  # a bar of progress comes before
        assert all(str(CLASSIFIER.run / "data.json") in line for line in refused), outcome
        assert {name for name in ("training", "test") for line in refused if f"{name} data" in line} == {*what}
    assert_same_tensors(saved_tensors(CLASSIFIER.run), tensors)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000], ids=["lists", "mappings"])
def test_json_nested_too_deep_is_a_line(text, script):
    train(script, CLASSIFIER)
    run = CLASSIFIER.run
    for name, command in {
        "data.json": (CLASSIFIER.script, "--resume", run),
        "metrics.json": ("compare_runs", run),
        "checkpoints/best/classes.json": ("shift_test", "--checkpoints", f'["{run}"]', "--device", "cpu"),
    }.items():
        whole = (run / name).read_bytes()
        (run / name).write_text(text)
        outcome = script(*command)
        assert outcome.code == 2 and len(outcome.lines) == 1, (name, outcome)
        assert str(run / name) in outcome.lines[0] and len(outcome.lines[0]) < 300
        (run / name).write_bytes(whole)


def test_run_that_is_in_training_is_refused(script):
    train(script, COPY)
    with locked(COPY.run):
        outcome = script(COPY.script, "--resume", COPY.run)
    assert_refused(outcome, [(str(COPY.run), "pid", os.getpid())])


def test_run_goes_on_without_its_history(script):
    train(script, COPY)
    (COPY.run / "metrics.csv").unlink()
    assert script(COPY.script, "--resume", COPY.run).code == 0


def test_state_with_another_note_is_refused(script):
    train(script, COPY)
    path = COPY.run / "checkpoints/last/state.safetensors"
    tensors, note = load_tensors(path)
    del note["meter"]
    for changes in ({}, {"optimizer": None}, {"monitor": 3}, {"meter": {"loss": "x"}}):
        save_tensors(path, tensors, note | changes)
        assert_refused(script(COPY.script, "--resume", COPY.run), [(str(path), "state")])


def test_model_of_bytes_with_a_tokenizer_is_refused(script):
    train(script, BYTES)
    path = BYTES.run / "checkpoints/best/tokenizer.json"
    path.write_text("garbage")
    outcome = script("lm_generate", "--checkpoint", BYTES.run, "--prompt", "a", "--length", 20)
    assert_refused(outcome, [("data.tokenizer", path)])


# Two batches an update, saved and evaluated at steps that do not coincide, dropout, rates that change
PACE = {"max_steps": 11, "accumulate": 2, "save_every": 2, "eval_every": 5, "log_every": 3, "device": "cpu"}
BATCHES = {"batch_size": 8}
LSH = {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}
WARMED = {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}}
INTERRUPTED = {
    "copy, reversible lsh in bf16, one cycle": (
        COPY,
        CopyObjective,
        {
            "model.attention": LSH | {"dropout": 0.1},
            "model.reversible": True,
            "train.precision": "bf16",
            "schedule": {"kind": "one_cycle"},
        },
    ),
    "classification, full": (CLASSIFIER, ClassificationObjective, WARMED | {"data.random_shift": 1}),
    "classification, shards streamed by a process": (
        CLASSIFIER,
        ClassificationObjective,
        {
            "data": {"dataset": "image_shards", "root": "shards", "image_size": 8, "patch_size": 4, "streamed": True},
            "train.num_workers": 1,
        },
    ),
    "generation, reversible performer redrawn": (
        GENERATOR,
        PixelObjective,
        WARMED
        | {
            "model.attention": {"kind": "performer", "n_features": 8, "redraw_every": 3, "dropout": 0.1},
            "model.reversible": True,
        },
    ),
    "long range, lsh": (LONG_RANGE, ClassificationObjective, WARMED | {"model.attention": LSH | {"dropout": 0.1}}),
    "language, reversible lsh": (
        BYTES,
        CausalObjective,
        {"model.attention": LSH, "model.reversible": True},
    ),
    "language, tied, adafactor": (
        BYTES,
        CausalObjective,
        {"optimizer": {"name": "adafactor", "lr": 0.01}, "model.tied": True, "data.sampling": "sequential"},
    ),
    "language, masked linformer": (
        LANGUAGE,
        MaskedObjective,
        {"objective": {"kind": "masked"}, "model.attention": {"kind": "linformer", "rank": 3}},
    ),
    "translation, reversible, tied": (
        TRANSLATION,
        TranslationObjective,
        {
            "model.reversible": True,
            "model.tied": True,
            "model.decoder_attention": LSH,
            "model.cross_attention": {"kind": "linformer", "rank": 4},
            "data.max_length": 24,
        },
    ),
    "translation, two vocabularies, held out": (
        TWO_VOCABULARIES,
        TranslationObjective,
        {"data.corpus.val": None, "data.corpus.val_share": 0.2, "model.encoder_depth": 2, "data.max_length": 24},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", INTERRUPTED)
def test_interrupted_training_resumes_bit_identical(case, script, monkeypatch):
    training, objective, changes = INTERRUPTED[case]
    batches = {"batch_tokens": 150} if training.script == "translation_train" else BATCHES
    depth = {} if training.script == "translation_train" else {"model.depth": 2}
    train(script, training, {"train": PACE | batches | {"trackers": []}, "model.dropout": 0.1, **depth, **changes})
    tensors, written, files = saved_tensors(training.run), figures_and_history(training), files_below(training.run)
    results = {name: (training.run / name).read_bytes() for name in training.results}
    Path("runs").rename("whole")
    run_with_three_stops(script, training.script, objective, monkeypatch)
    assert_same_tensors(saved_tensors(training.run), tensors)
    assert figures_and_history(training) == written
    assert files_below(training.run) == files
    assert {name: (training.run / name).read_bytes() for name in training.results} == results


def run_with_three_stops(script, name, objective: type[Objective], monkeypatch):
    """Train by c.yaml: stop before the first save, between two saves and in the last update, and resume each time."""
    measure, calls = objective.measure, []

    def interrupted(self, model, batch):
        calls.append(model.training)
        if calls.count(True) in (4, 13, 21):
            calls.append(True)
            raise KeyboardInterrupt
        return measure(self, model, batch)

    monkeypatch.setattr(objective, "measure", interrupted)
    ends = [script(name, "--config", "c.yaml")]
    while ends[-1].code == 130:
        assert re.search(r"--resume runs/[\w-]+/version_0 ", ends[-1].lines[-1])
        ends.append(script(name, "--config", "c.yaml", "--resume", "last"))
    assert [end.code for end in ends] == [130, 130, 130, 0]
