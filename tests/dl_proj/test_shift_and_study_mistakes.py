"""A user's mistakes with shift_test.py and performance_studies.py: exit code 2 and a line each, nothing written."""

from pathlib import Path
from urllib.error import URLError

import pytest
import yaml
from tiny_scripts import assert_refused, files_below, tiny_classifier, tiny_generator
from torchvision.datasets import mnist

import dl_proj.data.images
from dl_proj.cli import CONFIGS
from dl_proj.configs.classification import ClassifierTrainConfig
from dl_proj.configs.generation import GeneratorTrainConfig
from dl_proj.tasks.classifier_training import build_classification_model
from dl_proj.tasks.generator_training import build_generator
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
        [("'nothing' is neither a folder", "nor a run", "shipped checkpoints: mnist-cls-full")],
    ),
    "no checkpoint": ("--checkpoints []", [(places("shift_test.yaml") + "checkpoints is empty", "one at least")]),
    "no label": (
        "--checkpoints digits --labels []",
        [(places("shift_test.yaml") + "labels is empty", "one at least")],
    ),
    "neither": (
        "--checkpoints [] --labels []",
        [(places("shift_test.yaml") + "checkpoints is",), (places("shift_test.yaml") + "labels is",)],
    ),
    "a nameless checkpoint": ('--checkpoints ["digits",""]', [("flags: checkpoints.1:", "at least 1 character", "''")]),
    "unknown label": (
        "--checkpoints two,digits --labels 1,eleven",
        [("labels: two: 'eleven' is no class; there are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",)],
    ),
    "a label twice": ("--checkpoints digits --labels 1,3,1", [("labels: digits: '1' is there twice",)]),
    "a label that a model was not trained on": (
        "--checkpoints digits,two --labels 1,0,3 --max_shift 1",
        [("labels: two does not know 0, 3; its classes: 7, 1",)],
    ),
    "no shift": ("--checkpoints digits --max_shift 0", [("flags: max_shift:", "greater than or equal to 1", "'0'")]),
    "missing files": (
        "--checkpoints digits,mnist --data_root none --max_shift 1",
        [("data.root: MNIST is not in none/MNIST/raw",), ("data.dataset: without a network take digits",)],
    ),
    "a missing folder": ("--checkpoints folder", [("data.root: gone/train must be a folder",)]),
    "a missing folder elsewhere": (
        "--checkpoints folder --data_root none",
        [("data.root: none/train must be a folder",)],
    ),
    "unknown setting": ("--checkpoints digits --max_shifts 2", [("flags: --max_shifts: no such flag, did you mean",)]),
}


@pytest.mark.parametrize("case", SHIFTS)
def test_what_is_wrong_with_a_shift_test(case, refused):
    refused("shift_test", *SHIFTS[case])


@pytest.mark.parametrize("labels", ["7", "null", "1,7"])
def test_a_shift_for_which_no_image_has_room(labels, refused):
    """The widest margin is named, and would do."""
    pixels, numbers = dl_proj.data.images._READERS["digits"](Path())["test"]
    some = [int(label) for label in labels.split(",")] if labels != "null" else range(10)
    images = [image for image, label in zip(pixels, numbers.tolist(), strict=True) if label in some]
    inked = [image.any(0).any(0).nonzero().flatten().tolist() for image in images]
    widest = max(min(min(columns), 7 - max(columns)) for columns in inked)
    complaint = (
        f"max_shift: none of the {len(images)} test images of digits with these labels has {widest + 1} empty",
        f"the most that any has is {widest}",
    )
    refused("shift_test", f"--checkpoints digits --labels {labels} --max_shift {widest + 1}", [complaint])


def test_a_shift_for_which_just_one_image_has_room(script):
    flags = ("--device", "cpu", "--checkpoints", "digits", "--labels", "7", "--max_shift", 1)
    assert script("shift_test", *flags).code == 0


@pytest.mark.parametrize(("name", "task"), [("generator", "generation"), ("synth-gen-full", "copy")])
def test_a_checkpoint_that_is_no_classifier(name, task, script):
    outcome = script("shift_test", "--checkpoints", f"digits,{name}", "--max_shift", 1, "--device", "cpu")
    assert outcome.code == 2
    (line,) = (line for line in outcome.lines if f"{name}/config.yaml: task:" in line)
    assert line.endswith(f"must be 'classification' (got '{task}')")
    assert not Path("runs").exists()


PRESET = places("perf_study.yaml")
STUDIES = {
    "odd features": (
        "--approximation.n_features 4,7,8",
        [(PRESET + "approximation: n_features [4, 7, 8] must be even",)],
    ),
    "no features": (
        "--approximation.n_features [] --equivariance.n_features []",
        [
            (PRESET + "approximation: n_features [] must be even",),
            (PRESET + "equivariance: n_features [] must be multiples of 4",),
        ],
    ),
    "a number that is no multiple of four": (
        "--equivariance.n_features 8,10",
        [(PRESET + "equivariance: n_features [8, 10] must be multiples of 4",)],
    ),
    "negative features": (
        "--approximation.n_features 4,-2",
        [("flags: approximation.n_features.1:", "greater than or equal to 1", "-2")],
    ),
    "heads that do not divide": (
        "--equivariance.dim 10 --equivariance.heads 3 --equivariance.n_features 6",
        [
            (PRESET + "equivariance: dim 10 is not divisible by heads 3",),
            (PRESET + "equivariance: n_features [6] must be multiples of 4",),
        ],
    ),
    "one head": ("--equivariance.heads 1", [("flags: equivariance.heads:", "greater than or equal to 2", "'1'")]),
    "one sample": (
        "--equivariance.samples 1 --approximation.samples 1",
        [
            ("flags: approximation.samples:", "greater than or equal to 2", "'1'"),
            ("flags: equivariance.samples:", "greater than or equal to 2", "'1'"),
        ],
    ),
    "no scale": (
        "--approximation.scale 0 --equivariance.scale 0",
        [("flags: approximation.scale:", "greater than 0"), ("flags: equivariance.scale:", "greater than 0")],
    ),
    "no study": ("--studies []", [(PRESET + "studies is empty", "one at least")]),
    "unknown study": ("--studies speed", [("flags: studies.0:", "'approximation' or 'equivariance'", "'speed'")]),
}


@pytest.mark.parametrize("case", STUDIES)
def test_what_is_wrong_with_a_study(case, refused):
    refused("performance_studies", *STUDIES[case])
