"""What the tasks' files hold: made once, checked, reused; texts and pairs as they were written; padding in batches."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from dl_proj.experiments.long_range import listops, pathfinder
from dl_proj.experiments.long_range.data import load_task
from dl_proj.experiments.long_range.data_settings import LongRangeDataConfig
from dl_proj.experiments.long_range.sequences import SPLITS, Sequences, batch_of, padded, write_sequences
from dl_proj.settings.errors import ConfigError

SMALL = {"n_train": 50, "n_val": 10, "n_test": 20}
LISTOPS = {"kind": "listops", "min_length": 5, "max_length": 20, **SMALL}


def task(**settings):
    return load_task(TypeAdapter(LongRangeDataConfig).validate_python({"root": "data", **settings}))


def examples(part):
    return [(tuple(bytes(one.tolist()) for one in sequences), label) for sequences, label in part]


def files():
    return sorted(Path("data/long_range").glob("*.bin"))


def test_a_file_gives_back_what_was_written():
    parts = {
        "test": [((b"a", b"bcd"), 1)],
        "val": [((b"\x00\xff", b"x" * 300), 0), ((b"", b"y"), 7)],
        "train": [((bytes(range(256)), b"z"), 255)] * 3,
    }
    path = write_sequences(Path("folder/file.bin"), (parts[split] for split in SPLITS))
    for split, written in parts.items():
        part = Sequences(path, split, max_len=256)
        assert examples(part) == [(tuple(one[:256] for one in sequences), label) for sequences, label in written]
        assert part.labels.tolist() == [label for _, label in written]
        assert part.lengths.tolist() == [[len(one[:256]) for one in sequences] for sequences, _ in written]
    with pytest.raises(IndexError):
        part[3]


def test_a_batch_is_padded_and_says_so():
    items = [((torch.tensor([3, 1]), torch.tensor([2])), 4), ((torch.tensor([5]), torch.tensor([6, 7, 8])), 9)]
    tokens, mask, labels = batch_of(items, max_len=3)
    assert tokens.tolist() == [[[3, 1, 0], [2, 0, 0]], [[5, 0, 0], [6, 7, 8]]]
    assert mask.int().tolist() == [[[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]]
    assert labels.tolist() == [4, 9]


@pytest.mark.parametrize(
    ("longest", "max_len", "n"), [(1, 2000, 64), (64, 64, 64), (65, 2000, 128), (1990, 2000, 2000)]
)
def test_batches_come_in_few_lengths(longest, max_len, n):
    tokens, mask = padded([(torch.ones(1),), (torch.ones(longest),)], max_len)
    assert tokens.shape == mask.shape == (2, 1, n)
    assert tokens.sum(2).tolist() == mask.sum(2).tolist() == [[1], [longest]]


def test_listops_is_made_once_and_again_when_it_is_damaged(monkeypatch):
    made = task(**LISTOPS)
    parts = [examples(part) for part in (made.train, made.val, made.test)]
    assert [len(part) for part in parts] == [50, 10, 20]
    assert len({sequences for part in parts for sequences, _ in part}) == 80  # no expression is in two of them
    (path,) = files()
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(listops, "_draw", None)  # to be called would raise
        assert examples(task(**LISTOPS).test) == parts[2]
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    assert examples(task(**LISTOPS).test) == parts[2]
    assert path.read_bytes() == content


def test_more_to_train_on_leaves_the_test_as_it_is():
    few, many, other = task(**LISTOPS), task(**{**LISTOPS, "n_train": 70}), task(**LISTOPS, seed=1)
    assert examples(few.test) == examples(many.test) != examples(other.test)
    assert examples(few.train) == examples(many.train)[:50]
    assert len({part.digest for splits in (few, many, other) for part in (splits.train, splits.test)}) == 6


def test_pathfinder_is_balanced_in_every_part_and_its_pictures_are_the_sequences():
    made = task(kind="pathfinder", side=16, dashes=6, distractors=2, **SMALL)
    for part, number in ((made.train, 50), (made.val, 10), (made.test, 20)):
        assert torch.bincount(part.labels).tolist() == [number // 2] * 2
        assert part.lengths.unique().tolist() == [256]
    drawn = pathfinder.pictures(pathfinder.Scenery(6, 2), 16, 20, "0 test", "test")
    assert [(sequences[0], label) for sequences, label in examples(made.test)] == list(drawn)
    assert made.classes == ("apart", "joined")
    assert not {s for s, _ in examples(made.train)} & {s for s, _ in examples(made.test)}


def test_images_are_grey_pixels_row_by_row():
    for part, numbers in (("train", range(20)), ("test", range(20, 30))):
        for number in numbers:
            folder = Path("pics") / part / ("dark" if number % 2 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.new("RGB", (4, 4), (9, 9, 9) if number % 2 else (200, 200, 200))
            picture.putpixel((1, 2), (number, number, number))
            picture.save(folder / f"{number}.png")
    made = task(kind="image", dataset="image_folder", root="pics", image_size=4, val_share=0.2)
    assert made.classes == ("dark", "light")
    (pixels,), label = made.test[0]
    assert (label, pixels[9].item(), pixels[0].item(), len(pixels)) == (0, 21, 9, 16)
    assert [len(part) for part in (made.train, made.val, made.test)] == [16, 4, 10]
    assert made.train.digest != made.test.digest


def write_reviews(folder, numbers=(20, 3)):
    for part, number in zip(("train", "test"), numbers, strict=True):
        for name in ("pos", "neg"):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                (folder / part / name / f"{i}.txt").write_text(f"{part} {name} {i} café", encoding="utf-8")
            (folder / part / name / "empty.txt").touch()


def test_text_is_bytes_with_some_held_out():
    write_reviews(Path("reviews"))
    settings = {"kind": "text", "source": "folder", "path": "reviews", "val_share": 0.25}
    made = task(**settings)
    assert [len(part) for part in (made.train, made.val, made.test)] == [30, 10, 6]
    seen = [(text.decode(), label) for part in (made.train, made.val, made.test) for (text,), label in examples(part)]
    texts = [(part, name, i) for part, n in (("train", 20), ("test", 3)) for name in ("pos", "neg") for i in range(n)]
    assert sorted(seen) == sorted((f"{part} {name} {i} café", int(name == "pos")) for part, name, i in texts)
    assert examples(task(**settings).val) == examples(made.val)
    assert {label for _, label in examples(made.val)} == {0, 1}, "they are drawn"
    short = task(**settings, max_length=7)
    assert {sequence for (sequence,), _ in examples(short.test)} == {b"test po", b"test ne"}
    assert len(files()) == 1
    Path("reviews/train/pos/0.txt").write_text("another", encoding="utf-8")
    again = task(**settings)
    assert ((b"another",), 1) in examples(again.train) + examples(again.val)


def test_imdb_comes_from_the_hub_or_the_reason_is_said(monkeypatch):
    rows = {"train": [{"text": f"{i} é", "label": i % 2} for i in range(10)], "test": [{"text": "t", "label": 1}]}
    hub = SimpleNamespace(load_dataset=lambda name, split: rows[split])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    made = task(kind="text", val_share=0.2)
    assert examples(made.test) == [((b"t",), 1)]
    assert sorted(sequence.decode() for (sequence,), _ in examples(made.train) + examples(made.val)) == [
        f"{i} é" for i in range(10)
    ]
    files()[0].unlink()
    monkeypatch.setattr(hub, "load_dataset", lambda name, split: 1 / 0)
    with pytest.raises(ConfigError, match="division by zero") as error:
        task(kind="text", val_share=0.2)
    assert "source: folder" in str(error.value)


def write_pairs(rows, folder="pairs"):
    Path(folder).mkdir(exist_ok=True)
    for number, name in enumerate(("train", "eval", "test")):
        with (Path(folder) / f"new_aan_pairs.{name}.tsv").open("w", newline="", encoding="utf-8") as file:
            last = ("0.0", "P1", "P2", f"{name} é", f'the "{number}"\tother')
            csv.writer(file, delimiter="\t").writerows([*rows, last])


def test_retrieval_reads_the_benchmarks_pairs():
    write_pairs([("1.0", "P1", "P2", "one\nline", "another")])
    made = task(kind="retrieval", path="pairs", max_length=8)
    assert made.classes == ("unrelated", "related")
    assert examples(made.val) == [((b"one\nline", b"another"), 1), (("eval é".encode(), b'the "1"\t'), 0)]
    assert examples(made.test)[1][0][0] == "test é".encode()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("1.0", "P1", "P2", "one"), ["train.tsv:2", "4 columns"]),
        (("1.0", "P1", "P2", "one", ""), ["train.tsv:2", "empty"]),
        (("2", "P1", "P2", "one", "other"), ["train.tsv:2", "'2'"]),
    ],
)
def test_a_bad_line_of_pairs_is_named(row, said):
    write_pairs([("1", "P1", "P2", "one", "other"), row])
    for name in ("eval", "test"):
        write = Path(f"pairs/new_aan_pairs.{name}.tsv")
        write.write_text("1\tP1\tP2\tone\tother\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        task(kind="retrieval", path="pairs")
    for words in said:
        assert words in str(error.value)
    assert files() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**LISTOPS, "min_length": 500, "max_length": 500, "max_depth": 2}, ["data.n_test", "20", "500"]),
        ({**LISTOPS, "min_length": 4, "max_length": 4, "n_train": 500}, ["data.n_train", "500", "max_length"]),
        ({"kind": "text", "source": "folder", "path": "nowhere"}, ["data.path", "nowhere/test/neg"]),
        ({"kind": "retrieval", "path": "nowhere"}, ["data.path", "new_aan_pairs.train.tsv"]),
        ({**LISTOPS, "root": "file"}, ["data", "file"]),
    ],
    ids=["impossible", "too many", "no texts", "no pairs", "a file for a folder"],
)
def test_what_cannot_be_made_is_said(settings, said, monkeypatch):
    monkeypatch.setattr(listops, "_MOST_TRIES", 300)
    Path("file").touch()
    with pytest.raises(ConfigError) as error:
        task(**settings)
    for words in said:
        assert words in str(error.value)
