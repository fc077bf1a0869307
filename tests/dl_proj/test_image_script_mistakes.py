"""A user's mistakes with the scripts that work on images: exit code 2 and one line each, nothing written."""

import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tiny_scripts import (
    GONE,
    as_yaml,
    assert_refused,
    assert_states,
    call,
    files_below,
    one_thread,
    tiny,
    tiny_classifier,
    tiny_generator,
)
from torchvision.datasets import mnist

from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.data import load_configured
from dl_proj.experiments.images.generation.settings import DrawConfig, GeneratorTrainConfig

FILE, BOTH = "c.yaml: ", "c.yaml and flags: "
TRAININGS = {"cls_train": tiny_classifier, "generation_train": tiny_generator}
SCHEMAS = {"cls_train": ClassifierTrainConfig, "generation_train": GeneratorTrainConfig}


def lsh(bucket_size, **settings):
    return {"model.attention": {"kind": "lsh", "bucket_size": bucket_size, **settings}}


def warmup(steps, **changes):
    return {"schedule": {"kind": "warmup_cosine", "warmup_steps": steps}, **changes}


FOR_EPOCHS = {"train.max_steps": GONE, "train.epochs": 2}  # of 1437 - 144 = 1293 images, in batches of 8: 2 * 161 steps
COLOURS = {"data.dataset": "cifar10"}

# wrong in both trainings: (changes to the tiny file, what each line says after "c.yaml: ")
WRONG_IN_BOTH = {
    "unknown dataset": (
        {"data.dataset": "imagenet"},
        [("data.dataset", "'digits'", "'mnist'", "'fashion_mnist'", "'cifar10'", "'image_folder'", "'imagenet'")],
    ),
    "too many levels": ({"data.vocab_size": 257}, [("data.vocab_size", 256, 257)]),
    "one level": ({"data.vocab_size": 1}, [("data.vocab_size", 2, 1)]),
    "nothing to validate": ({"data.val_share": 0}, [("data.val_share", 0, 0)]),
    "nothing to train": ({"data.val_share": 1.0}, [("data.val_share", 1, 1.0)]),
    "an unknown label": (
        {"data.labels": [1, "eleven"]},
        [("data", "labels", "'eleven'", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)],
    ),
    "a label beyond": ({"data.labels": [9, 10]}, [("data", "labels", "'10'")]),
    "a label below": ({"data.labels": [-1, 1]}, [("data", "labels", "'-1'")]),
    "a label of another dataset": (
        {"data.dataset": "fashion_mnist", "data.labels": ["coat", "cat"]},
        [("data", "labels", "'cat'")],
    ),
    "a label twice": ({"data.labels": [3, 5, "3"]}, [("data", "labels", "'3'")]),
    "a class by name and number": (
        {"data.dataset": "fashion_mnist", "data.labels": [4, "coat"]},
        [("data", "labels", "'coat'")],
    ),
    "one label": ({"data.labels": [3]}, [("data", 3)]),
    "no labels": ({"data.labels": []}, [("data", [])]),
    "half a label": ({"data.labels": [1.5, 2]}, [("data.labels.0", 1.5)]),
    "true as a label": ({"data.labels": [2, True]}, [("data.labels.1", True)]),
    "a word for labels": ({"data.labels": "12"}, [("data.labels", "'12'")]),
    "fields of the wrong kind hide no others": (
        {"data.vocab_size": 1, "model.dim": "x"},
        [("data.vocab_size",), ("model.dim",)],
    ),
    "warm-up as long as training": (warmup(3), [("schedule.warmup_steps", 3, 3)]),
    "warm-up of the epochs' length": (
        warmup(322, **FOR_EPOCHS),
        [("schedule.warmup_steps", 322, 322)],
    ),
    "warm-up and accumulated batches": (
        warmup(64, **{"train.accumulate": 5}, **FOR_EPOCHS),
        [("schedule.warmup_steps", 64, 64)],
    ),
    "warm-up and a larger validation share": (
        warmup(178, **{"data.val_share": 0.5}, **FOR_EPOCHS),  # 1437 - 718 = 719 images
        [("schedule.warmup_steps", 178, 178)],
    ),
    "a batch of more than all": (
        {"train.batch_size": 1294},
        [("train.batch_size", 1294, 1293)],
    ),
    "a batch of more than all MNIST": (
        {"data.dataset": "mnist", "train.batch_size": 54_001, "model.attention": {"kind": "full"}},
        [("train.batch_size", 54001, 54000)],
    ),
    "a monitored figure that there is not": (
        {"train.monitor": {"metric": "val/acc"}},
        [("train.monitor.metric", "'val/acc'", "val/loss")],
    ),
    "the loss upwards": ({"train.monitor": {"mode": "max"}}, [("train.monitor.mode", "min", "val/loss")]),
    "no length of training": ({"train.max_steps": GONE}, [("train", "max_steps")]),
    "another task": ({"task": "copy"}, [("task", "'copy'")]),
}


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("case", WRONG_IN_BOTH)
def test_mistake_in_either_training(case, name, script):
    changes, expected = WRONG_IN_BOTH[case]
    as_yaml("c.yaml", TRAININGS[name](changes))
    assert_refused(script(name, "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])
    assert files_below(".") == {"c.yaml"}, "found before anything is made"


WRONG_CLASSIFIERS = {
    "a patch that does not divide": (
        {"data.patch_size": 3},
        [("data", "patch_size", 3, "side", 8)],
    ),
    "a patch larger than the image": ({"data.patch_size": 16}, [("data", "patch_size", 16, 8)]),
    "a patch and a size": ({"data.image_size": 6}, [("data", "patch_size", 4, "side", 6)]),
    "a patch of MNIST": (
        {"data.dataset": "mnist", "data.patch_size": 5},
        [("data", "patch_size", 5, "side", 28)],
    ),
    "patches with pixels between them": (
        {"data.patch_stride": 5},
        [("data", "patch_stride", 5, "patch_size", 4)],
    ),
    "overlapping patches that leave an edge": (
        {"data.patch_stride": 3},
        [("data", "patch_size", 4, "patch_stride", 3, 8)],
    ),
    "an overlapping patch larger than the image": (
        {"data.patch_size": 10, "data.patch_stride": 2},
        [("data", "patch_size", 10, "patch_stride", 2, 8)],
    ),
    "patches on one spot": ({"data.patch_stride": 0}, [("data.patch_stride", 1, 0)]),
    "a shift out of the image": (
        {"data.random_shift": 8},
        [("data", "random_shift", 8, "side", 8)],
    ),
    "two rules of the data": (
        {"data.patch_size": 5, "data.random_shift": 9},
        [("data", "patch_size", 5), ("data", "random_shift", 9)],
    ),
    "one's own pictures without a size": (
        {"data.dataset": "image_folder", "data.random_shift": 99},
        [("data", "image_size", "dataset", "image_folder")],
    ),
    "one's own pictures without a size, of one label": (
        {"data.dataset": "image_folder", "data.labels": ["cat"]},
        [("data",), ("data", "image_size")],
    ),
    "one label of one's own pictures": (
        {"data.dataset": "image_folder", "data.image_size": 8, "data.labels": ["cat"]},
        [("data",)],
    ),
    "one label, a wrong patch": (
        {"data.labels": ["1"], "data.patch_size": 3},
        [("data",), ("data", "patch_size")],
    ),
    "no size": ({"data.image_size": 0}, [("data.image_size", 1, 0)]),
    "no patch": ({"data.patch_size": 0}, [("data.patch_size", 1, 0)]),
    "a generator's setting": ({"data.max_len": 64}, [("data.max_len", "dataset", "root")]),
    "a generator's loss": ({"loss": {"kind": "focal"}}, [("loss",)]),
    "lookup of patches": (
        {"model.embedding": "lookup"},
        [("model.embedding", "lookup", "data.patch_size", 1, 16)],
    ),
    "lookup of colours": (
        {"model.embedding": "lookup", "data.patch_size": 1, **COLOURS},
        [("model.embedding", "lookup", "data.split_channels", True, 3)],
    ),
    "lookup of patches of one channel": (
        {"model.embedding": "lookup", "data.patch_size": 2, "data.split_channels": True, **COLOURS},
        [("model.embedding", "lookup", 4)],
    ),
    "a bucket for all": (lsh(5), [("model.attention.bucket_size", 5, 4, "shared_qk")]),
    "a bucket for all overlapping patches": (
        lsh(10) | {"data.patch_stride": 2},
        [("model.attention.bucket_size", 10, 9)],
    ),
    "a bucket for all and a class token": (
        lsh(6) | {"model.pooling": "class_token"},
        [("model.attention.bucket_size", 6, 5)],
    ),
    "a bucket for all channels": (
        lsh(193) | {"data.split_channels": True, **COLOURS},
        [("model.attention.bucket_size", 193, 192)],
    ),
    "no position for the class token": (
        {"model.positions": {"kind": "axial", "shape": [2, 2]}, "model.pooling": "class_token"},
        [("model.positions.shape", 2, 2, 5)],
    ),
    "the generator's figure": (
        {"train.monitor": {"metric": "val/bits_per_dim"}},
        [("train.monitor.metric", "'val/bits_per_dim'", "val/loss", "val/accuracy")],
    ),
    "accuracy downwards": (
        {"train.monitor": {"metric": "val/accuracy"}},
        [("train.monitor.mode", "min", "val/accuracy")],
    ),
    "four rules of the whole": (
        lsh(5) | {"model.embedding": "lookup", "train.monitor": {"metric": "x"}, "train.batch_size": 2000},
        [
            ("model.attention.bucket_size", 5),
            ("model.embedding", "lookup"),
            ("train.monitor.metric", "'x'"),
            ("train.batch_size", 2000),
        ],
    ),
    "another task": ({"task": "generation"}, [("task", "'classification'", "'generation'")]),
}

WRONG_GENERATORS = {
    "no square": ({"data.max_len": 60}, [("data", "max_len", 60, 49, 64)]),
    "one more than a square": ({"data.max_len": 17}, [("data", "max_len", 17, 16, 25)]),
    "one less than a square": ({"data.max_len": 15}, [("data", "max_len", 15, 9, 16)]),
    "no picture": ({"data.max_len": 1}, [("data.max_len", 4, 1)]),
    "a label and no square": ({"data.max_len": 60, "data.labels": [1]}, [("data",), ("data", "max_len", 60)]),
    "a classifier's setting": ({"data.patch_size": 2}, [("data.patch_size", "max_len")]),
    "a colour": ({"data.greyscale": False}, [("data.greyscale",)]),
    "a classifier's pooling": ({"model.pooling": "mean"}, [("model.pooling",)]),
    "chunks": (lsh(4, rule="chunk"), [("model.attention.rule", "chunk", "rule")]),
    "chunks of more than all": (
        lsh(17, rule="chunk"),
        [("model.attention.bucket_size", 17, 16), ("model.attention.rule", "chunk")],
    ),
    "a bucket for all": (lsh(17), [("model.attention.bucket_size", 17, 16, "shared_qk")]),
    "too few positions": (
        {"model.positions": {"kind": "axial", "shape": [3, 5]}},
        [("model.positions.shape", 3, 5, 16)],
    ),
    "unknown loss": ({"loss": {"kind": "mse"}}, [("loss.kind", "'cross_entropy'", "'focal'", "'mse'")]),
    "no kind of loss": ({"loss": {"gamma": 1}}, [("loss.kind",)]),
    "another loss's setting": (
        {"loss": {"kind": "cross_entropy", "gamma": 1}},
        [("loss.gamma", 1)],
    ),
    "a negative gamma": (
        {"loss": {"kind": "focal", "gamma": -1}},
        [("loss.gamma", 0, -1)],
    ),
    "a power above 1": (
        {"loss": {"kind": "focal", "frequency_power": 2}},
        [("loss.frequency_power", 1, 2)],
    ),
    "fewer than no samples": (
        {"samples_per_label": -1},
        [("samples_per_label", 0, -1)],
    ),
    "the classifier's figure": (
        {"train.monitor": {"metric": "val/accuracy", "mode": "max"}},
        [("train.monitor.metric", "'val/accuracy'", "val/loss", "val/bits_per_dim")],
    ),
    "bits upwards": (
        {"train.monitor": {"metric": "val/bits_per_dim", "mode": "max"}},
        [("train.monitor.mode", "min", "val/bits_per_dim")],
    ),
    "another task": ({"task": "classification"}, [("task", "'generation'", "'classification'")]),
}
WRONG = {f"cls_train: {case}": WRONG_CLASSIFIERS[case] for case in WRONG_CLASSIFIERS}
WRONG |= {f"generation_train: {case}": WRONG_GENERATORS[case] for case in WRONG_GENERATORS}


@pytest.mark.parametrize("case", WRONG)
def test_mistake_in_one_training(case, script):
    name, (changes, expected) = case.partition(":")[0], WRONG[case]
    as_yaml("c.yaml", TRAININGS[name](changes))
    assert_refused(script(name, "--config", "c.yaml"), [(FILE + e[0], *e[1:]) for e in expected])
    assert files_below(".") == {"c.yaml"}


RIGHT = {
    "cls_train": [
        {},
        {"data.labels": [3, "5"]},
        {"data.random_shift": 7},
        {"data.patch_size": 8},
        {"data.patch_size": 6, "data.patch_stride": 2},
        {"data.patch_stride": 4},
        lsh(9) | {"data.patch_stride": 2},
        {"data.dataset": "image_folder", "data.image_size": 8, "data.labels": ["cat", "dog"], "train.batch_size": 9999},
        {"model.embedding": "lookup", "data.patch_size": 1},
        {"model.embedding": "lookup", "data.patch_size": 1, "data.split_channels": True, **COLOURS},
        {"model.embedding": "lookup", "data.patch_size": 1, "data.greyscale": True, **COLOURS},
        lsh(4),
        lsh(4, rule="chunk"),
        lsh(5) | {"model.pooling": "class_token"},
        lsh(28, n_buckets=2),
        lsh(192) | {"data.split_channels": True, **COLOURS},
        {"model.positions": {"kind": "axial", "shape": [2, 2]}},
        {"train.monitor": {"metric": "val/accuracy", "mode": "max"}},
    ],
    "generation_train": [
        {},
        {"data.labels": [3, "5"]},
        {"data.max_len": 4},
        lsh(16),
        {"model.positions": {"kind": "axial", "shape": [4, 4]}},
        {"train.monitor": {"metric": "val/bits_per_dim", "mode": "min"}},
        {"loss": {"kind": "focal", "gamma": 0, "frequency_power": 1}},
    ],
}
BOTH_RIGHT = [
    warmup(2),
    warmup(321, **FOR_EPOCHS),
    warmup(63, **{"train.accumulate": 5}, **FOR_EPOCHS),
    warmup(177, **{"data.val_share": 0.5}, **FOR_EPOCHS),
    {"train.batch_size": 1293},
    {"data.labels": [1, 2], "train.batch_size": 1437},  # cannot be told before they are read
]


@pytest.mark.parametrize("name", TRAININGS)
def test_what_is_just_right_is_accepted(name):
    """Or the cases above could fail for a reason of their own, and the bounds be too narrow."""
    for changes in RIGHT[name] + BOTH_RIGHT:
        SCHEMAS[name].model_validate(TRAININGS[name](changes))


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("val_share", [0.1, 0.123, 0.5, 0.99])
def test_the_number_of_training_images_is_known_beforehand(val_share, name):
    data = SCHEMAS[name].model_validate(TRAININGS[name]({"data.val_share": val_share})).data
    assert data.n_train == len(load_configured(data).train)


@pytest.mark.parametrize("name", TRAININGS)
def test_flags_are_named_where_they_disagree_with_the_file(name, script):
    as_yaml("c.yaml", TRAININGS[name]())
    assert_refused(script(name, "--config", "c.yaml", "--data.labels", "1"), [(BOTH + "data",)])
    expected = [(BOTH + "train.batch_size", 1294, 1293)]
    assert_refused(script(name, "--config", "c.yaml", "--train.batch_size", "1294"), expected)
    assert_refused(
        script(name, "--config", "c.yaml", "--data.label", "1"),
        [("flags: --data.label", "--data.labels")],
    )


# -- what shows when the images are read --


@pytest.mark.parametrize("name", TRAININGS)
def test_a_batch_of_more_than_the_chosen_images(name, script):
    config = SCHEMAS[name].model_validate(TRAININGS[name]({"data.labels": [0, 1]}))
    there = len(load_configured(config.data).train)
    as_yaml("c.yaml", TRAININGS[name]({"data.labels": [0, 1], "train.batch_size": there + 1}))
    expected = [("train.batch_size", there + 1, there)]
    assert_refused(script(name, "--config", "c.yaml"), expected)
    assert files_below(".") == {"c.yaml"}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_warm_up_longer_than_the_chosen_images_last(name, script):
    config = SCHEMAS[name].model_validate(TRAININGS[name]({"data.labels": [0, 1]}))
    steps = 2 * (len(load_configured(config.data).train) // 8)
    as_yaml("c.yaml", TRAININGS[name](warmup(steps, **FOR_EPOCHS, **{"data.labels": [0, 1]})))
    expected = [("schedule.warmup_steps", steps, steps)]
    assert_refused(script(name, "--config", "c.yaml"), expected)
    assert files_below(".") == {"c.yaml"}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_part_without_images(name, script):
    as_yaml("c.yaml", TRAININGS[name]({"data.val_share": 0.0001}))
    assert_refused(script(name, "--config", "c.yaml"), [("data", "val", "val_share")])
    assert files_below(".") == {"c.yaml"}


@pytest.mark.parametrize("name", TRAININGS)
def test_no_files_and_no_network(name, script, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", fail)
    as_yaml("c.yaml", TRAININGS[name]({"data.dataset": "mnist", "data.root": "there", **lsh(4)}))
    expected = [("data.root", "there/MNIST/raw"), ("data.dataset", "image_folder")]
    assert_refused(script(name, "--config", "c.yaml"), expected)
    assert files_below(".") == {"c.yaml"}


@pytest.mark.parametrize("name", TRAININGS)
def test_own_pictures_that_are_not_there(name, script):
    changes = {"data.dataset": "image_folder", "data.root": "pets"}
    as_yaml("c.yaml", TRAININGS[name](changes | ({"data.image_size": 8} if name == "cls_train" else {})))
    assert_refused(script(name, "--config", "c.yaml"), [("data.root", "pets/train")])
    for part in ("train/dog/1.png", "train/cat/2.png", "test/cat/3.png", "test/dog/4.png"):
        Path("pets", part).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(Path("pets", part))
    Path("pets/train/dog/1.png").write_text("no picture")
    outcome = script(name, "--config", "c.yaml")
    *progress, blank, complaint = outcome.lines
    assert outcome.code == 2
    assert_states(complaint, "data.root", "pets/train/dog/1.png")
    assert blank.strip() == "" and not any("data.root" in line for line in progress), "it stands on a line of its own"
    assert not Path("runs").exists()


# -- runs of another script --


@pytest.fixture(scope="module")
def models_once(tmp_path_factory):
    """Folders of finished runs of all three trainings."""
    folder = tmp_path_factory.mktemp("models")
    wanted = {
        "digits": ("cls_train", tiny_classifier()),
        "few": ("cls_train", tiny_classifier({"data.labels": [7, 1]})),
        "drawer": ("generation_train", tiny_generator()),
        "odd": ("generation_train", tiny_generator({"data.labels": [9, 7, 1]})),
        "copier": ("synth_train", tiny()),
    }
    for run, (name, config) in wanted.items():
        file = as_yaml(folder / f"{run}.yaml", config | {"experiment_name": run, "runs_dir": str(folder)})
        with one_thread():
            assert call(name, "--config", file).code == 0
    return folder


@pytest.fixture
def models(models_once, tmp_path):
    """They, in this test's own folder."""
    for run in models_once.glob("*/version_0"):
        shutil.copytree(run, tmp_path / "runs" / run.parent.name / "version_0")
    return {run.parent.name: run.relative_to(tmp_path) for run in sorted(tmp_path.glob("runs/*/version_0"))}


def refused(script, name, expected, *flags):
    """Refused without a file more or less."""
    before = files_below(".")
    assert_refused(script(name, *flags), expected)
    assert files_below(".") == before


@pytest.mark.parametrize(
    ("name", "task", "other"),
    [
        ("cls_train", "classification", "copier"),
        ("cls_train", "classification", "drawer"),
        ("generation_train", "generation", "copier"),
        ("generation_train", "generation", "digits"),
        ("synth_train", "copy", "digits"),
    ],
)
def test_a_configuration_of_another_training_is_refused_by_its_task(name, task, other, script, models):
    run = models[other]
    theirs = yaml.safe_load((run / "config.yaml").read_text())["task"]
    for flags in (["--config", run / "config.yaml"], ["--resume", run]):
        before = files_below(".")
        outcome = script(name, *flags)
        assert outcome.code == 2
        assert all(line.startswith(f"{run}/config.yaml") for line in outcome.lines)
        (about_the_task,) = (line for line in outcome.lines if line.startswith(f"{run}/config.yaml: task:"))
        assert_states(about_the_task, f"{run}/config.yaml: task", repr(task), repr(theirs))
        assert files_below(".") == before


@pytest.mark.parametrize("name", TRAININGS)
def test_resuming_with_other_images(name, script, models):
    run = models[{"cls_train": "few", "generation_train": "odd"}[name]]
    first = f"--resume: {run}/config.yaml: data."
    expected = [(first + "labels",), (first + "vocab_size", 17)]
    refused(script, name, expected, "--resume", run, "--data.labels", "2,3", "--data.vocab_size", "17")


@pytest.mark.parametrize("name", TRAININGS)
def test_null_as_a_flag_takes_labels_back(name, script):
    as_yaml("c.yaml", TRAININGS[name]({"data.labels": [0, 1], "train.max_steps": 1}))
    assert script(name, "--config", "c.yaml", "--data.labels", "null").code == 0
    (written,) = Path("runs").glob("*/version_0/config.yaml")
    assert yaml.safe_load(written.read_text())["data"]["labels"] is None


# -- drawing --

WRONG_DRAWINGS = {
    "no labels": (["--labels", "[]"], [(BOTH + "labels",)]),
    "no images": (["--per_label", "0"], [("flags: per_label", 1, "'0'")]),
    "absolute zero": (["--temperature", "0"], [("flags: temperature", 0, "'0'")]),
    "none to choose from": (["--top_k", "0"], [("flags: top_k", 1, "'0'")]),
    "a set of nothing": (["--top_p", "0"], [("flags: top_p", 0, "'0'")]),
    "more than all": (["--top_p", "1.5"], [("flags: top_p", 1, "'1.5'")]),
    "no batch": (["--batch_size", "0"], [("flags: batch_size", 1, "'0'")]),
    "no name": (["--checkpoint", ""], [("flags: checkpoint", "''")]),
    "no judge": (["--judge", ""], [("flags: judge", "''")]),
    "a word for a switch": (["--complete=maybe"], [("flags: --complete",)]),
    "unknown flag": (["--label", "1"], [("flags: --label", "--labels")]),
    "an unknown device": (["--device", "tpu"], [("flags: device", "'auto'", "'cuda'", "'mps'", "'cpu'", "'tpu'")]),
    "nothing to resume": (["--resume", "last"], [("flags: --resume",)]),
}


@pytest.mark.parametrize("case", WRONG_DRAWINGS)
def test_a_wrong_flag_of_the_drawing(case, script):
    flags, expected = WRONG_DRAWINGS[case]
    Path("c.yaml").write_text("checkpoint: x\n")
    refused(script, "mnist_generator", expected, "--config", "c.yaml", *flags)


def test_a_drawing_that_is_just_right():
    for given in ({"labels": [1]}, {"data": {"root": "x"}}, {"top_k": 1, "top_p": 1.0}):
        DrawConfig.model_validate({"checkpoint": "x"} | given)


def test_a_wrong_setting_of_the_drawing(script):
    Path("c.yaml").write_text("checkpiont: x\nlabels: 3\nper_label: many\n")
    expected = [("c.yaml: labels", 3), ("c.yaml: per_label", "'many'")]
    expected += [("c.yaml: checkpiont", "checkpoint")]
    refused(script, "mnist_generator", expected, "--config", "c.yaml")


def test_drawing_with_what_is_no_generator(script, models):
    refused(script, "mnist_generator", [("'nowhere'", "checkpoints")], "--checkpoint", "nowhere")
    refused(script, "mnist_generator", [("'runs/drawer'",)], "--checkpoint", "runs/drawer")
    for other in ("digits", "copier"):
        outcome = script("mnist_generator", "--checkpoint", models[other])
        assert outcome.code == 2
        config = models[other] / "checkpoints" / "best" / "config.yaml"
        (about_the_task,) = (line for line in outcome.lines if line.startswith(f"{config}: task:"))
        assert_states(about_the_task, f"{config}: task", "'generation'")
        assert not Path("runs/mnist_generator").exists()


def draw(script, expected, checkpoint, *flags):
    refused(script, "mnist_generator", expected, "--checkpoint", checkpoint, "--device", "cpu", *flags)


def test_drawing_classes_that_the_model_does_not_know(script, models):
    draw(script, [("labels", "'3'", 9, 7, 1)], models["odd"], "--labels", "7,3")
    draw(script, [("labels", "'7'")], models["odd"], "--labels", "7,1,7")


def test_finishing_more_images_than_there_are(script, models):
    flags = ["--complete", "--labels", "7", "--per_label", "200"]
    draw(script, [("per_label", 200, 7)], models["odd"], *flags)


def test_a_judge_that_knows_too_little(script, models):
    judge = models["few"]
    expected = [("judge", judge, 9, 7, 1)]
    draw(script, expected, models["odd"], "--judge", judge)
    expected = [("judge", judge, 0, 2, 3, 4, 5, 6, 8, 9, 7, 1)]
    draw(script, expected, models["drawer"], "--judge", judge)


def test_a_judge_that_is_none(script, models):
    draw(script, [("'nobody'", "checkpoints")], models["drawer"], "--judge", "nobody")
    outcome = script("mnist_generator", "--checkpoint", models["drawer"], "--judge", models["odd"])
    assert outcome.code == 2
    config = models["odd"] / "checkpoints" / "best" / "config.yaml"
    (about_the_task,) = (line for line in outcome.lines if line.startswith(f"{config}: task:"))
    assert_states(about_the_task, f"{config}: task", "'classification'", "'generation'")
    assert not Path("runs/mnist_generator").exists()


def spoil(run, weights=None):
    path = run / "checkpoints" / "best" / "model.safetensors"
    save_file(weights or {"wte": torch.zeros(3)}, path)
    return path


def test_drawing_and_judging_with_spoilt_weights(script, models):
    judge = spoil(models["digits"])
    draw(script, [(f"{judge}",)], models["drawer"], "--judge", models["digits"])
    weights = spoil(models["drawer"])
    draw(script, [(f"{weights}",)], models["drawer"])


# -- evaluation --

WRONG_EVALUATIONS = {
    "no batch": (["--batch_size", "0"], [("flags: batch_size", 1, "'0'")]),
    "no name": (["--checkpoint", ""], [("flags: checkpoint", "''")]),
    "an unknown device": (["--device", "tpu"], [("flags: device", "'auto'", "'cuda'", "'mps'", "'cpu'", "'tpu'")]),
    "unknown flag": (["--checkpoints", "x"], [("flags: --checkpoints", "--checkpoint")]),
    "nothing to resume": (["--resume", "last"], [("flags: --resume",)]),
    "an unknown checkpoint": (["--checkpoint", "mnist-cls-fool"], [("'mnist-cls-fool'", "checkpoints")]),
    "a folder of none": (["--checkpoint", "empty"], [("'empty'", "model.safetensors")]),
}


@pytest.mark.parametrize("case", WRONG_EVALUATIONS)
def test_a_wrong_flag_of_the_evaluation(case, script):
    flags, expected = WRONG_EVALUATIONS[case]
    Path("empty").mkdir()
    Path("c.yaml").write_text("checkpoint: x\n")
    refused(script, "evaluate", expected, "--config", "c.yaml", *flags)


KNOWN_TASKS = ("copy", "classification", "generation")
WRONG_TASKS = {
    "none": (GONE, None),
    "unknown": ("segmentation", "'segmentation'"),
    "a list": (["copy"], ["copy"]),
    "a mapping": ({"copy": 1}, {"copy": 1}),
}


@pytest.mark.parametrize("case", WRONG_TASKS)
def test_evaluating_a_configuration_without_a_known_task(case, script, models):
    task, got = WRONG_TASKS[case]
    path = models["digits"] / "checkpoints" / "best" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["task"]
    as_yaml(path, config if task is GONE else config | {"task": task})
    refused(script, "evaluate", [(f"{path}: task", *KNOWN_TASKS, got)], "--checkpoint", models["digits"])


def test_evaluating_a_configuration_with_the_wrong_task(script, models):
    path = models["digits"] / "checkpoints" / "best" / "config.yaml"
    path.write_text(path.read_text().replace("task: classification", "task: generation"))
    before = files_below(".")
    outcome = script("evaluate", "--checkpoint", models["digits"])
    assert outcome.code == 2 and outcome.out == ""
    assert any(line.startswith(f"{path}: data.patch_size: ") for line in outcome.lines)
    assert all(line.startswith(f"{path}") for line in outcome.lines)
    assert files_below(".") == before


def test_evaluating_weights_alone(script, models):
    Path("lonely").mkdir()
    shutil.copy(models["digits"] / "checkpoints" / "best" / "model.safetensors", "lonely")
    refused(script, "evaluate", [("lonely/config.yaml",)], "--checkpoint", "lonely")


def test_evaluating_spoilt_weights(script, models):
    weights = spoil(models["digits"])
    refused(script, "evaluate", [(f"{weights}",)], "--checkpoint", models["digits"])


def test_good_checkpoints_are_evaluated_despite_broken_ones(script, models):
    spoil(models["drawer"])
    (models["odd"] / "checkpoints" / "best" / "config.yaml").write_text("seed: 1\n")
    for run in ("copier", "few"):
        shutil.rmtree(models[run])
    outcome = script("evaluate", "--checkpoint", "runs", "--device", "cpu")
    assert outcome.code == 2
    complaints = [line for line in outcome.lines if line.startswith("runs/")]
    assert len(complaints) == 2
    assert complaints[0].startswith("runs/drawer/version_0/checkpoints/best/model.safetensors: ")
    assert complaints[1].startswith("runs/odd/version_0/checkpoints/best/config.yaml: task: ")
    assert Path("runs/evaluation/evaluation.csv").read_text().count("\n") == 2, "its head and digits"
    assert "digits" in outcome.out
