"""Shards: which files are read, what their classes are called, and what is refused."""

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import picture_files
import pyarrow as pa
import pytest
from picture_files import CLASSES, png, write_parquet, write_parquets, write_tar, write_tars
from PIL import Image
from pyarrow import parquet
from tiny_scripts import as_yaml, assert_refused, tiny_classifier

from dl_proj.experiments.images.data import known_classes, load_images
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.settings.errors import ConfigError

ROOT = Path("pets")


def load(root=ROOT, **changes):
    usual = {"side": 4, "greyscale": True, "vocab_size": 256, "labels": None, "val_share": 0.5, "streamed": True}
    return load_images("image_shards", root, **usual | changes)


def refusal(**how):
    with pytest.raises(ConfigError) as refused:
        load(**how)
    (line,) = refused.value.lines
    assert line.startswith("data.root: pets")
    return line


def flat(value):
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def values(images):
    """The grey value of each picture, with its label."""
    return sorted((int(levels[0, 0, 0]), int(label)) for levels, label in images)


def sample(key, value, name):
    return [(f"{key}.png", flat(value)), (f"{key}.cls", name.encode())]


def write_small(part="test", names=CLASSES, start=30):
    write_tar(
        ROOT / f"{part}-0.tar", [file for i, name in enumerate(names) for file in sample(f"{i}", start + i, name)]
    )


def test_where_shards_may_lie():
    write_tar(ROOT / "train-000.tar", sample("a/0", 1, "b") + sample("a/1", 2, "a"))
    write_tar(ROOT / "train/more.TAR", sample("b/0", 3, "a"))
    write_tar(ROOT / "validation/x.tar", sample("x", 4, "a"))
    write_tar(ROOT / "trainers.tar", sample("x", 99, "c"))  # another word
    write_tar(ROOT / ".train-1.tar", sample("x", 99, "c"))
    write_small(names=("b",))
    splits = load()
    assert values(splits.train) == [(1, 1), (2, 0), (3, 0)] and values(splits.val) == [(4, 0)]
    assert values(splits.test) == [(30, 1)] and splits.classes == ("a", "b")


def test_what_else_is_in_a_sample(capfd):
    """Endings begin at the first dot of a name; folders and dots in them are part of the key."""
    more = [("v1.0/a.json", b"{}"), ("v1.0/a.seg.png", png(1)), ("v1.0/._a.png", b"of a Mac")]
    write_tar(ROOT / "train.tar", [("v1.0/a.JPG", flat(5)), ("v1.0/a.cls", b" 0\n"), *more, *sample("v1.0/b", 6, "1")])
    write_small(names=("0", "1"))
    splits = load()
    assert values(splits.train) + values(splits.val) in ([(5, 0), (6, 1)], [(6, 1), (5, 0)])
    said = capfd.readouterr().err
    assert "data.root: pets: skipped 2 files (1 .json, 1 .seg.png) in shards; " in said


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("10", "9", "2"), ("2", "9", "10")), (("10", "9", "b"), ("10", "9", "b"))],
    ids=["numbers", "names"],
)
def test_order_of_classes(names, expected):
    write_small("train", names)
    write_small("test", names)
    assert load().classes == expected
    numbers = {30 + i: expected.index(name) for i, name in enumerate(names)}
    assert values(load().test) == sorted(numbers.items())


def test_names_of_numbers():
    for part in ("train", "test"):
        write_small(part, ("2", "0", "1", "2"))
    (ROOT / "classes.txt").write_text("zebra\nant\ncow\n")
    splits = load(labels=("cow", "zebra"))
    assert splits.classes == ("cow", "zebra")
    assert values(splits.test) == [(30, 0), (31, 1), (33, 0)]
    data = ClassifierDataConfig(dataset="image_shards", root=ROOT, image_size=4)
    assert known_classes(data) == ("zebra", "ant", "cow")
    (ROOT / "classes.txt").write_text("zebra\nant\n")
    assert "train has classes that pets/classes.txt lacks: 2" in refusal()
    (ROOT / "classes.txt").write_text("zebra\n\n")
    assert "different name in each line" in refusal()


def test_a_class_absent_from_the_test_is_said(capfd):
    write_small("train")
    write_small("test", ("dog",))
    load()
    assert "data.root: pets: test has no pictures of cat: test figures do not cover them" in capfd.readouterr().err
    write_small("test", ("dog", "cow"))
    assert "test has classes that train lacks: cow" in refusal()


def cut(path, to):
    path.write_bytes(path.read_bytes()[:to])


def overwrite(path, at, content):
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "not a whole tar"),
    "no archive": (lambda path: path.write_bytes(b"x" * 5000), "not a whole tar"),
    "cut in a picture": (lambda path: cut(path, 600), "not a whole tar"),
    "cut between files": (lambda path: cut(path, 1024), "damaged at byte 1024"),
    "cut in a header": (lambda path: cut(path, 1100), "damaged at byte 1024"),
    "damaged header": (lambda path: overwrite(path, 1024, b"\xff" * 200), "damaged at byte 1024"),
    "no class": (lambda path: write_tar(path, [("a.png", flat(1))]), "a has no class: add a.cls"),
    "no picture": (lambda path: write_tar(path, [("a.cls", b"cat")]), "a has no picture"),
    "two pictures": (lambda path: write_tar(path, [*sample("a", 1, "cat"), ("a.jpg", b"")]), "a.png, a.jpg"),
    "two classes": (lambda path: write_tar(path, [*sample("a", 1, "cat"), ("a.cls", b"dog")]), "classes: cat, dog"),
    "link to nothing": (lambda path: path.with_name("train-1.tar").symlink_to("gone"), "train-1.tar is a link"),
    "class of bytes": (lambda path: write_tar(path, [("a.png", flat(1)), ("a.cls", b"\xff\0")]), "a.cls must be"),
    "no samples": (lambda path: write_tar(path, []), "train have no samples"),
    "compressed": (lambda path: path.rename(f"{path}.gz"), "is compressed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_shards_are_refused(case):
    write_small("train")
    write_small("test")
    load()
    spoil, said = BROKEN[case]
    spoil(ROOT / "train-0.tar")
    assert said in refusal(skip_broken=True), "a shard is no picture"


def test_missing_parts(script):
    write_small("test")
    assert "train/ or called train-*" in refusal()
    config = {"data.dataset": "image_shards", "data.root": "pets", "data.image_size": 8, "data.patch_size": 4}
    as_yaml("c.yaml", tiny_classifier(config))
    assert_refused(script("cls_train", "--config", "c.yaml"), [("data.root", "train")])
    write_tar(ROOT / "val/0.tar", [])
    write_tar(ROOT / "validation/0.tar", [])
    write_small("train")
    assert "pets/val and pets/validation are the same part" in refusal()


@pytest.mark.parametrize("changes", [{"data.streamed": True}, {"data.cache": "elsewhere"}], ids=str)
def test_settings_of_own_pictures_alone(changes, script):
    as_yaml("c.yaml", tiny_classifier(changes))
    key = next(iter(changes)).removeprefix("data.")
    assert_refused(script("cls_train", "--config", "c.yaml"), [("c.yaml: data", key, "digits", "image_shards")])


# -- Parquet --


def test_parquet_is_unpacked_once():
    write_parquets("pets")
    root = Path("pets/data")
    assert load(root).classes == CLASSES
    cached = {path: path.stat().st_mtime_ns for path in Path("data/pictures").glob("*.tar")}
    assert len(cached) == 4 and not list(Path("data/pictures").glob("*.part"))
    before = load(root).test.digest
    assert {path: path.stat().st_mtime_ns for path in Path("data/pictures").glob("*.tar")} == cached
    changed = root / "test-00001-of-00002.parquet"
    write_parquet(changed, [("dog", "x", flat(9))])
    os.utime(changed, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert load(root).test.digest != before
    assert len(list(Path("data/pictures").glob("*.tar"))) == 5


def test_pictures_of_the_hub_library_are_read():
    """As ``datasets`` writes them, which is how they lie on the hub."""
    import datasets

    rows = list(picture_files.samples("train"))
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(reversed(CLASSES))))
    columns = {
        "image": [{"bytes": content, "path": None} for _, _, content in rows],
        "label": [name for name, _, _ in rows],
    }
    for part in ("train", "test"):
        path = f"pets/data/{part}-00000-of-00001.parquet"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    write_tars("others")
    found, expected = (load(Path(root), side=8, greyscale=False, val_share=0.5) for root in ("pets/data", "others"))
    assert found.classes == expected.classes
    for split in ("train", "val"):
        assert getattr(found, split).digest == getattr(expected, split).digest


def table(**columns):
    """A training shard without metadata, and a good one to test."""
    write_parquet(ROOT / "test-0.parquet", [("cat", "x", flat(9)), ("dog", "y", flat(8))])
    parquet.write_table(pa.table(columns), ROOT / "train-0.parquet")


def test_columns_by_type_or_name():
    pictures = pa.array([flat(1), flat(2)], pa.binary())
    table(content=pictures, animal=["dog", "cat"], width=[1.5, 2.5])
    splits = load()
    assert values(splits.train) + values(splits.val) in ([(1, 1), (2, 0)], [(2, 0), (1, 1)])
    table(img=pictures, mask=pictures, cls=["cat", "dog"], id=[0, 1])
    splits = load()
    assert values(splits.train) + values(splits.val) in ([(1, 0), (2, 1)], [(2, 1), (1, 0)])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [b"x"], "b": [b"y"], "label": [0]}, "which column has the pictures?"),
        ({"a": [b"x"], "b": ["y"], "c": [0]}, "which column has the classes?"),
        ({"image": [b"x", None], "label": [0, 1]}, "row 1 has no picture"),
        ({"image": [b"x", b"y"], "label": [0, -1]}, "row 1 has no class"),
        ({"image": [b"x", b"y"], "label": ["a", None]}, "row 1 has no class"),
    ],
    ids=["two of pictures", "no label", "no picture", "hidden label", "no class"],
)
def test_tables_that_are_refused(columns, said):
    write_parquet(ROOT / "test-0.parquet", [("cat", "x", flat(9))])
    table(**columns)
    line = refusal()
    assert "pets/train-0.parquet" in line and said in line
    assert not list(Path("data/pictures").glob("train*.tar*part")), "nor is half of it left"


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_damaged_table_is_refused(keep):
    rows = [("cat", f"{i}", np.random.default_rng(i).bytes(500)) for i in range(20)]
    write_parquet(ROOT / "train-0.parquet", rows)
    write_small("test", ("cat",))
    path = ROOT / "train-0.parquet"
    cut(path, int(path.stat().st_size * keep))
    assert "pets/train-0.parquet cannot be read as Parquet" in refusal()


def test_a_class_number_without_a_name_is_refused():
    write_parquet(ROOT / "train-0.parquet", [("cat", "x", flat(9)), ("dog", "y", flat(8))])
    whole = parquet.read_table(ROOT / "train-0.parquet")
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(whole.replace_schema_metadata(metadata), ROOT / "train-0.parquet")
    write_small("test")
    assert "row 1 has no class (got 1)" in refusal()
