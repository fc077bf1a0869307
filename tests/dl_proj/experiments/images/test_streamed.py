"""Streamed pictures are those in memory: the same levels, splits, digests and trained weights; all are checked once."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from picture_files import CLASSES, png, write_pictures, write_tar
from tiny_scripts import as_yaml, saved_tensors, tiny_classifier

from dl_proj.experiments.images import streamed
from dl_proj.experiments.images.data import LabelledImages, load_images, load_test_pixels
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.experiments.images.streamed import StreamedImages
from dl_proj.settings.errors import ConfigError

SPLITS = ("train", "val", "test")
KINDS = ("folder", "tar", "parquet")


def load(kind_or_set, **changes):
    dataset, root = kind_or_set if isinstance(kind_or_set, tuple) else write_pictures(kind_or_set)
    usual = {"side": 6, "greyscale": False, "vocab_size": 16, "labels": None, "val_share": 0.3}
    return load_images(dataset, root, **usual | changes)


def assert_same(streamed, held):
    assert streamed.classes == held.classes
    for split in SPLITS:
        one, other = getattr(streamed, split), getattr(held, split)
        assert isinstance(one, StreamedImages) and isinstance(other, LabelledImages)
        assert len(one) == len(other) and torch.equal(one.labels, other.labels)
        for (levels, label), (expected, number) in zip(one, other, strict=True):
            assert levels.dtype == expected.dtype and torch.equal(levels, expected) and label == number
        assert (one.digest, one.skipped) == (other.digest, other.skipped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes", [{}, {"labels": ("dog", "cat"), "greyscale": True}, {"labels": (1,), "val_share": 0.5}], ids=str
)
def test_streamed_pictures_are_those_in_memory(kind, changes):
    pets = write_pictures(kind)
    assert_same(load(pets, **changes, streamed=True), load(pets, **changes))


def test_the_three_forms_hold_the_same_pictures():
    digests = []
    for kind in KINDS:
        Path(kind).mkdir()
        os.chdir(kind)
        splits = load(kind, streamed=True)
        assert splits.classes == CLASSES
        digests.append([getattr(splits, split).digest for split in SPLITS])
        os.chdir("..")
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_broken_pictures_are_left_out_of_both(kind, capfd):
    pets = write_pictures(kind)
    if kind == "folder":
        Path("pets/train/cat/00.png").write_text("no picture")
        Path("pets/train/dog/05.png").write_bytes(png(7)[:100])
        Path("pets/test/dog/03.png").unlink()
        Path("pets/test/dog/03.png").symlink_to("nothing")
        names = ("train/cat/00.png", "train/dog/05.png", "test/dog/03.png")
    else:
        broken = [("cat/x.png", b"no picture"), ("cat/x.cls", b"cat")]
        write_tar("pets/train/9.tar", broken)
        write_tar("pets/test/9.tar", broken)
        names = ("train/9.tar/cat/x.png", "test/9.tar/cat/x.png")
    with pytest.raises(ConfigError) as refused:
        load(pets, streamed=True)
    assert refused.value.lines[0].startswith("data.root: ") and "skip_broken" in refused.value.lines[0]
    assert names[0] in refused.value.lines[0]
    held = load(pets, skip_broken=True)
    said = [line for line in capfd.readouterr().err.splitlines() if "skipped" in line]
    for _ in range(2):  # the second one is read from the record
        found = load(pets, skip_broken=True, streamed=True)
        assert_same(found, held)
        assert (*found.train.skipped, *found.test.skipped) == names
        assert [line for line in capfd.readouterr().err.splitlines() if "skipped" in line] == said
    assert len(said) == 1


def test_a_class_of_broken_pictures_alone_is_refused():
    pets = write_pictures("folder")
    for path in Path("pets/test/dog").iterdir():
        path.write_text("no picture")
    for how in ({}, {"streamed": True}):
        with pytest.raises(ConfigError, match="pets/test/dog: none of its 4 pictures"):
            load(pets, skip_broken=True, **how)


def test_pictures_are_checked_once_as_long_as_they_stay_the_same(monkeypatch):
    pets, looks = write_pictures("folder"), []
    square_pixels = streamed.square_pixels
    monkeypatch.setattr(streamed, "square_pixels", lambda *how, **more: looks.append(1) or square_pixels(*how, **more))

    def checked(**changes):
        looks.clear()
        digest = load(pets, streamed=True, **changes).test.digest
        return len(looks), digest

    count, digest = checked()
    assert count == 2 * (9 + 4)
    assert checked() == (0, digest)
    Path("pets/test/cat/00.png").write_bytes(png(77))
    count, other = checked()
    assert count == 26 and other != digest
    assert checked(side=5)[0] == 26, "of another size, other levels"
    (record, *_) = Path("data/pictures").glob("pets-*.json")
    for path in Path("data/pictures").glob("pets-*.json"):
        path.write_text(record.read_text()[:20])
    assert checked() == (26, other), "a damaged record is made again"


def test_processes_check_alike():
    pets = write_pictures("tar")
    expected = load(pets)
    assert_same(load(pets, streamed=True, workers=2), expected)
    copies = pickle.loads(pickle.dumps(load(pets, streamed=True)))  # as processes that are not forked get them
    assert_same(copies, expected)


def test_test_pixels_of_a_shift_test():
    """Which reads the test pictures alone: those to train on may be more than memory holds."""
    pixels = {}
    for kind in ("folder", "tar"):
        dataset, root = write_pictures(kind)
        data = ClassifierDataConfig(dataset=dataset, root=root, image_size=6, streamed=True)
        if kind == "folder":
            Path("pets/train/cat/00.png").write_text("no picture")
        pixels[kind] = load_test_pixels(data)
        assert pixels[kind][2] == CLASSES
    assert torch.equal(pixels["folder"][0], pixels["tar"][0]) and torch.equal(pixels["folder"][1], pixels["tar"][1])


# -- in a training --

OWN = {"data.image_size": 8, "data.patch_size": 4, "data.val_share": 0.3, "train.batch_size": 4}
STEPS = {"train.max_steps": 6, "train.trackers": [], "model.dropout": 0.1}


def own(dataset, root, **changes):
    return tiny_classifier(OWN | STEPS | {"data.dataset": dataset, "data.root": str(root)} | changes)


@pytest.mark.slow
def test_streaming_changes_no_weight_and_may_change_in_a_run(script):
    as_yaml("c.yaml", own(*write_pictures("parquet")))
    assert script("cls_train", "--config", "c.yaml").code == 0
    streamed = ("--data.streamed", "true", "--train.num_workers", "2")
    assert script("cls_train", "--config", "c.yaml", *streamed).code == 0
    held, other = (saved_tensors(Path(f"runs/tiny-cls/version_{number}")) for number in range(2))
    assert [name for name in held if not torch.equal(held[name], other[name])] == []
    more = ("--train.max_steps", "8", *streamed)
    outcome = script("cls_train", "--resume", "runs/tiny-cls/version_0", *more)
    assert outcome.code == 0, outcome.lines


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_later_is_a_line(workers, script, monkeypatch):
    dataset, root = write_pictures("folder")
    as_yaml("c.yaml", own(dataset, root, **{"data.streamed": True, "train.num_workers": workers}))
    checked = streamed.checked

    def then_damaged(*parts, **how):
        found = checked(*parts, **how)
        for path in Path("pets/train").rglob("*.png"):
            path.write_text("no picture")
        return found

    monkeypatch.setattr("dl_proj.experiments.images.own_pictures.checked", then_damaged)
    outcome = script("cls_train", "--config", "c.yaml")
    assert outcome.code == 2, outcome
    assert outcome.lines[-1].startswith("data.root: pets/train/") and "checked" in outcome.lines[-1]
    assert "Traceback" not in "".join(outcome.lines)


# -- memory --

SIDE, PICTURES = 512, 100  # of each part


def growth(to):
    """Write by how many MB this process grew at most, first with streamed pictures, then with those in memory."""
    torch.set_num_threads(1)
    load(("image_folder", Path("pets")), side=4, streamed=True)  # imports, and what is allocated once
    before, grown = memory(), []
    for way in (True, False):
        splits = load(("image_folder", Path("pets")), side=SIDE, streamed=way)
        for index in range(len(splits.val)):
            splits.val[index]
        grown.append(memory() - before)
    Path(to).write_text(json.dumps(grown))


def memory():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux says how much memory a process has had")
def test_streamed_pictures_are_never_all_in_memory(forkserver):
    for part in ("train", "test"):
        for name in CLASSES:
            Path("pets", part, name).mkdir(parents=True)
            for i in range(PICTURES // 2):
                Path(f"pets/{part}/{name}/{i:03d}.jpg").write_bytes(png(i, suffix="JPEG"))
    process = forkserver.Process(target=growth, args=("grown.json",))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    streamed, held = json.loads(Path("grown.json").read_text())
    pixels = 2 * PICTURES * 3 * SIDE**2 / 2**20
    assert held > pixels, "or what is measured is not memory"
    assert streamed < pixels / 2
