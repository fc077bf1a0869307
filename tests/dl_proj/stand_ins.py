"""Small files in place of a reader's own and of downloads, under the names that the README and docs give them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from picture_files import write_tars
from PIL import Image
from sklearn.datasets import load_digits
from tiny_scripts import PAIRS, TEXT, write_pairs
from torch.nn.functional import interpolate

from dl_proj.experiments.images import data


def write_stand_ins(folder: Path) -> None:
    """All of them, in what is to be a working folder."""
    for name in ("data/books", "my_texts"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.txt").write_text(40 * TEXT, encoding="utf-8")
    (folder / "my_text.txt").write_text(40 * TEXT, encoding="utf-8")
    write_pairs(folder / "data" / "multi30k")
    for language in ("en", "de"):
        (folder / "data/multi30k" / f"test.{language}").rename(
            folder / "data/multi30k" / f"test_2016_flickr.{language}"
        )
    (folder / "sentences.txt").write_text("A dog runs.\nA man sleeps.\n", encoding="utf-8")
    for part, first, last in (("train", 0, 40), ("validation", 40, 47), ("test", 47, 55)):
        rows = "".join(f'"{german}","{english}"\n' for english, german in PAIRS[first:last])
        (folder / f"wmt14_translate_de-en_{part}.csv").write_text(f"de,en\n{rows}", encoding="utf-8")
    _write_reviews(folder / "my_reviews")
    (folder / "my_pairs").mkdir()
    for part in ("train", "eval", "test"):
        rows = "".join(f"{i % 2}.0\tA{i}\tB{i}\tone {i}\tother {i}\n" for i in range(8))
        (folder / "my_pairs" / f"new_aan_pairs.{part}.tsv").write_text(rows, encoding="utf-8")
    write_tars(folder / "my_shards")
    (folder / "my_stories").mkdir()
    rows = "".join(f"{json.dumps({'text': text})}\n" for text in (TEXT, 40 * TEXT))
    (folder / "my_stories" / "train.jsonl").write_text(rows, encoding="utf-8")
    for name in ("my_pictures", "my_cifar10"):
        _write_pictures(folder / name)


def _write_reviews(folder: Path) -> None:
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            (folder / part / name).mkdir(parents=True)
            for i in range(8):
                (folder / part / name / f"{i}.txt").write_text(f"{name} {TEXT[i : i + 40]}", encoding="utf-8")


def _write_pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    for part, number in (("train", 20), ("test", 5)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.png")


@contextlib.contextmanager
def small_downloads() -> Iterator[None]:
    """What would be downloaded: 8 x 8 digits with a border for MNIST and Fashion-MNIST, noise for CIFAR-10."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    grey = torch.zeros(len(images), 1, 28, 28, dtype=torch.uint8)
    grey[..., 8:20, 8:20] = interpolate(images, size=12, mode="bilinear").to(torch.uint8)  # free to move by eight
    labels = torch.from_numpy(digits.target).long()
    colours = torch.randint(256, (300, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    parts = {"train": (grey[:200], labels[:200]), "test": (grey[200:300], labels[200:300])}
    coloured = {"train": (colours[:200], labels[:200]), "test": (colours[200:], labels[200:300])}
    small = {"mnist": parts, "fashion_mnist": parts, "cifar10": coloured}
    with mock.patch.dict(data._READERS, {name: lambda root, found=found: found for name, found in small.items()}):
        yield
