"""Baselines of a text: on the bytes that language models are measured on, and no others."""

import csv
import gzip
import lzma
from pathlib import Path

import pytest
from tiny_scripts import TEXT, as_yaml, assert_refused, tiny_language

from dl_proj.experiments.language.baselines import bits_per_byte
from dl_proj.experiments.language.data import load_text
from dl_proj.experiments.language.ngram import train_ngrams
from dl_proj.experiments.language.settings import LanguageTrainConfig


@pytest.fixture
def books():
    """Three, each with its own held-out end."""
    Path("books").mkdir()
    for i, name in enumerate("abc"):
        Path("books", f"{name}.txt").write_text(TEXT.replace("mat", f"mat {i}") * (i + 1), encoding="utf-8")
    return tiny_language({"data.path": "books"})


def rows_of(folder):
    with (Path(folder) / "baselines.csv").open(newline="") as file:
        return {row["baseline"]: row for row in csv.DictReader(file)}


def test_the_text_is_that_of_language_models(script, books):
    as_yaml("lm.yaml", books)
    outcome = script("baselines", "--config", "lm.yaml", "--max_order", "3")
    assert outcome.code == 0, outcome.lines
    rows = rows_of("runs/baselines_lm")
    assert list(rows) == ["gzip", "bz2", "xz", "1-gram", "2-gram", "3-gram"]
    data = load_text(LanguageTrainConfig.model_validate(books).data, seed=0)
    windows = {"train": data.train, "val": data.val, "test": data.test}
    text = {name: bytes(one._tokens.read(0, one._tokens.length).tolist()) for name, one in windows.items()}
    model = train_ngrams(text["train"], 3)[2]
    for split in ("val", "test"):
        assert float(rows["3-gram"][f"{split}/bits_per_byte"]) == pytest.approx(bits_per_byte(model, text[split]))
        alone, n = len(gzip.compress(text[split], 9)), len(text[split])
        assert float(rows["gzip"][f"{split} alone"]) == pytest.approx(8 * alone / n)
        grown = xz(text["train"] + text[split]) - xz(text["train"])
        assert float(rows["xz"][f"{split}/bits_per_byte"]) == pytest.approx(8 * grown / n, abs=8 * 12 / n)
        assert float(rows["xz"][f"{split}/bits_per_byte"]) < float(rows["xz"][f"{split} alone"])
    assert int(rows["3-gram"]["n-grams"]) == model.n_entries
    header, _, *lines = [line for line in outcome.out.splitlines() if line.startswith("|")]
    assert len(lines) == 6 and "device" not in header and "val bits_per_byte" in header


def xz(text):
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def test_the_first_byte_is_not_predicted():
    model = train_ngrams(b"aab" * 50, 1)[0]
    log2 = model.log2_probabilities(b"xab")
    assert bits_per_byte(model, b"xab") == pytest.approx(-(log2[1] + log2[2]) / 2)


def test_what_cannot_be_compared_is_refused(script, books):
    as_yaml("mlm.yaml", books | {"objective": {"kind": "masked"}})
    assert_refused(script("baselines", "--config", "mlm.yaml"), [("objective.kind", "masked")])
    as_yaml("lm.yaml", books)
    outcome = script("baselines", "--config", "lm.yaml", "--seeds", "1")
    assert_refused(outcome, [("seeds", "language")])
    assert_refused(script("baselines", "--config", "lm.yaml", "--max_order", "9"), [("flags: max_order", 8, 9)])
    Path("short.txt").write_text("a few words, no more")
    short = script("baselines", "--config", "lm.yaml", "--common", "data.path=short.txt")
    assert_refused(short, [("data", "val", "test", 6)])
