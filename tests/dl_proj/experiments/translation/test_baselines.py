"""Baselines of translation: a memory of the training pairs, nothing at all, and what others printed."""

import csv
from pathlib import Path

import pytest
from sacrebleu import corpus_bleu
from tiny_scripts import PAIRS, as_yaml, assert_refused, tiny_translation, write_pairs

from dl_proj.experiments.translation.baselines import PUBLISHED, nearest_translations


def rows_of(folder):
    with (Path(folder) / "baselines.csv").open(newline="") as file:
        return {row["baseline"]: row for row in csv.DictReader(file)}


def test_the_nearest_is_the_one_that_shares_rare_words():
    train = [("a man sees a dog .", "1"), ("a rare word .", "2"), ("the man .", "3"), ("a rare word .", "4")]
    found = nearest_translations(train, ["a rare word .", "one rare thing", "the man .", "a dog"])
    assert found == ["2", "2", "3", "1"]
    train = [*((f"a man in the w{i}", "common words") for i in range(30)), ("zebra here", "a rare word")]
    assert nearest_translations(train, ["a man zebra"]) == ["a rare word"]


def test_scores_are_those_of_the_test_set(script):
    write_pairs()
    as_yaml("mt.yaml", tiny_translation())
    outcome = script("baselines", "--config", "mt.yaml")
    assert outcome.code == 0, outcome.lines
    rows = rows_of("runs/baselines_mt")
    sources, references = zip(*PAIRS[47:55], strict=True)
    memory = nearest_translations(PAIRS[:40], list(sources))
    copied, nearest = rows.values()
    assert float(copied["BLEU"]) == pytest.approx(corpus_bleu(sources, [references]).score, abs=1e-3)
    assert float(nearest["BLEU"]) == pytest.approx(corpus_bleu(memory, [references]).score, abs=1e-3)
    assert "case:mixed" in nearest["BLEU signature"]


@pytest.mark.parametrize(("source", "target", "known"), [("en", "de", True), ("de", "en", False)])
def test_published_figures_stand_beside_their_own_test_set_alone(script, source, target, known):
    write_pairs("multi30k")
    for language in ("en", "de"):
        Path("multi30k", f"test.{language}").rename(Path("multi30k", f"test_2016_flickr.{language}"))
    corpus = {"kind": "files", "folder": "multi30k", "test": "test_2016_flickr"}
    changes = {"data.corpus": corpus, "data.source_language": source, "data.target_language": target}
    as_yaml("mt.yaml", tiny_translation(changes))
    outcome = script("baselines", "--config", "mt.yaml")
    assert outcome.code == 0, outcome.lines
    found = [row for row in rows_of("runs/baselines_mt").values() if row.get("source")]
    assert [float(row["BLEU"]) for row in found] == ([p.bleu for p in PUBLISHED] if known else [])
    assert ("Wu et al. 2021" in outcome.out) == known


def test_pairs_that_are_not_there(script):
    as_yaml("mt.yaml", tiny_translation({"data.corpus.folder": "nowhere"}))
    assert_refused(script("baselines", "--config", "mt.yaml"), [("data.corpus.train", "nowhere")])
