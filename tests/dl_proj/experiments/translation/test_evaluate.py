"""translation_evaluate.py: its scores are sacrebleu's against the untouched lines, its perplexity a naive one's."""

import csv
import json
import math
from pathlib import Path

import pytest
import sacrebleu
import torch
from tiny_scripts import PAIRS, as_yaml, assert_refused, tiny_translation, trained_translators, write_pairs

from dl_proj import load
from dl_proj.cli import CONFIGS
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.models.beam_search import beam_search
from dl_proj.settings.load import load_config

LONG = "a dog has the fish and the man sees the tree . " * 4
TEST = [
    *PAIRS[47:52],
    ("a dog has", " ein Hund hat  "),  # spaces at the ends
    ("", "ein Hund ."),
    ("a man .", ""),
    (" \t", " "),
    (LONG, "ein Hund ."),  # too long on one side
    ("a \x85 man \u2028 has \x0c .", "ein \x1c Mann \u2029\u00a0hat e\u0301\u00e9 \U0001f600 ."),
    ('a "dog" has', "ein\rHund"),
]
FIT = [i for i in range(len(TEST)) if i not in (6, 7, 8, 9)]
VAL = [("a man has", "ein Mann hat"), ("a dog has the fish .", "ein Hund hat den Fisch ."), ("a man", "ein Mann")]
OUT = Path("runs/translation_evaluation")
TRAININGS = {"joint": {}, "separate": {"data.tokenizer.joint": False}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind."""
    folder = tmp_path_factory.mktemp("scored")
    write_pairs(folder / "pairs", [*PAIRS[:40], *VAL, *TEST], (40, len(VAL), len(TEST)))
    return trained_translators(folder, TRAININGS, 40)


def scored(script, run, *flags):
    """Scores and rows."""
    outcome = script("translation_evaluate", "--checkpoint", run, "--device", "cpu", *flags)
    assert outcome.code == 0, outcome.lines
    with (OUT / "translations.csv").open(newline="", encoding="utf-8") as file:
        return json.loads((OUT / "scores.json").read_text()), list(csv.DictReader(file)), outcome.out


def assert_sacrebleus(scores, rows, tokenizer="13a"):
    """By its own functions, on what stands in the columns."""
    hypotheses, references = ([row[name] for row in rows] for name in ("hypothesis", "reference"))
    bleu, chrf = sacrebleu.BLEU(tokenize=tokenizer), sacrebleu.CHRF()
    for name, metric in (("BLEU", bleu), ("chrF", chrf)):
        assert scores[name] == pytest.approx(metric.corpus_score(hypotheses, [references]).score, abs=1e-4)
        assert scores[f"{name} signature"] == str(metric.get_signature())
    for row in rows:
        one = {"hypothesis": row["hypothesis"], "references": [row["reference"]]}
        assert float(row["BLEU"]) == pytest.approx(sacrebleu.sentence_bleu(**one, tokenize=tokenizer).score, abs=0.005)
        assert float(row["chrF"]) == pytest.approx(sacrebleu.sentence_chrf(**one).score, abs=0.005)


@torch.no_grad()
def naive_likelihood(run, pairs):
    """Perplexity and bits per byte, a pair at a time in float64, without padding."""
    translator = load(run, device="cpu")
    model, (source_side, target_side) = translator.model.double(), vars(translator.tokenizer).values()
    nats, n_bytes = [], 0
    for source, target in pairs:
        (source_tokens,), (target_tokens,) = source_side.encode([source]), target_side.encode([target])
        end = target_side.boundary
        x, y = torch.tensor([[*source_tokens, source_side.boundary]]), [end, *target_tokens, end]
        log_p = model(x, torch.tensor([y[:-1]]))[0].log_softmax(-1)
        nats += [-log_p[i, token].item() for i, token in enumerate(y[1:])]
        n_bytes += len(f" {target}".encode())
    return math.exp(sum(nats) / len(nats)), sum(nats) / math.log(2) / n_bytes


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_line_is_scored_as_it_stands(name, batch_size, runs, script):
    scores, rows, _ = scored(script, runs[name], "--batch_size", batch_size)
    assert [(row["source"], row["reference"]) for row in rows] == TEST
    assert_sacrebleus(scores, rows)
    assert scores["BLEU"] > 1, "something was learnt"
    perplexity, bits = naive_likelihood(runs[name], [TEST[i] for i in FIT])
    assert scores["perplexity"] == pytest.approx(perplexity, rel=1e-4, abs=1e-4)
    assert scores["bits per byte"] == pytest.approx(bits, rel=1e-4, abs=1e-4)
    assert (scores["sentences"], scores["sources cut"], scores["pairs without a perplexity"]) == (12, 1, 4)
    assert [i for i, row in enumerate(rows) if row["cut"] == "True"] == [9]
    assert [i for i, row in enumerate(rows) if not row["hypothesis"]] == [6, 8], "of what is empty"


def test_lengths(runs, script):
    scores, rows, _ = scored(script, runs["separate"])
    translator = load(runs["separate"], device="cpu")
    for name, column in (("a source", "source"), ("a reference", "reference"), ("a translation", "hypothesis")):
        assert scores[f"words {name}"] == round(sum(len(row[column].split()) for row in rows) / 12, 2)
    sources = translator.tokenizer.source.encode([source for source, _ in TEST if source.strip()])
    assert scores["tokens a source"] == round(sum(len(tokens) + 1 for tokens in sources) / 12, 2)
    translated = [row for row in rows if row["source"].strip()]
    n_tokens, ends = 0, [side.boundary for side in (translator.tokenizer.source, translator.tokenizer.target)]
    for row, tokens in zip(translated, sources, strict=True):
        source = torch.tensor([[*tokens[:39], ends[0]]])
        (best,) = beam_search(translator.model, source, boundary=ends[1], max_len=39)
        n_tokens += len(best.tokens) + 1
        assert float(row["log probability"]) == pytest.approx(best.log_probability, abs=1e-3)
    assert scores["tokens a translation"] == round(n_tokens / 12, 2)


def test_the_hypotheses_are_what_translate_says(runs, script):
    """Of the test's file on standard input, by the same settings."""
    search = ("--beam_size", 3, "--length_penalty", 2, "--max_length", 9)
    scores, rows, _ = scored(script, runs["joint"], *search)
    assert {name: scores[name] for name in ("beam_size", "length_penalty", "max_length", "split")} == {
        "beam_size": 3,
        "length_penalty": 2.0,
        "max_length": 9,
        "split": "test",
    }
    sources = [source for source, _ in TEST]
    out = script("translate", "--checkpoint", runs["joint"], "--device", "cpu", *search, *sources).out
    assert out.split("\n")[:-1] == [row["hypothesis"] for row in rows]


@pytest.mark.parametrize("tokenizer", ["intl", "zh", "char", "none"])
def test_how_words_are_found(tokenizer, runs, script):
    scores, rows, _ = scored(script, runs["joint"], "--bleu_tokenizer", tokenizer, "--beam_size", 1)
    assert f"tok:{tokenizer}" in scores["BLEU signature"]
    assert_sacrebleus(scores, rows, tokenizer)


def test_the_validation_pairs(runs, script):
    scores, rows, _ = scored(script, runs["joint"], "--split", "val")
    assert scores["split"] == "val"
    assert [(row["source"], row["reference"]) for row in rows] == VAL


def test_files_of_ones_own(runs, script):
    Path("own.en").write_bytes(b"a dog\na man sees")
    Path("own.txt").write_bytes("ein Hund\r\nein Mann sieht\u2028\n".encode())
    files = ("--source_file", "own.en", "--reference_file", "own.txt", "--data.root", "elsewhere")
    scores, rows, out = scored(script, runs["joint"], *files, "--examples", 1)
    expected = [("a dog", "ein Hund"), ("a man sees", "ein Mann sieht\u2028")]
    assert [(row["source"], row["reference"]) for row in rows] == expected
    assert (scores["source_file"], scores["reference_file"]) == ("own.en", "own.txt")
    assert_sacrebleus(scores, rows)
    assert list(Path("elsewhere/pairs").glob("own-*.arrow"))
    shown = [f"    source: a dog\n reference: ein Hund\nhypothesis: {rows[0]['hypothesis']}\n\n"]
    assert out.startswith(shown[0]) and "    source: a man" not in out


def test_pairs_that_are_elsewhere_now(runs, script):
    """Said by the training's own flags, and noted."""
    Path("moved").mkdir()
    Path("moved/mine.en").write_text("a dog\na man sees\n")
    Path("moved/mine.de").write_text("ein Hund\nein Mann sieht\n")
    scores, rows, _ = scored(script, runs["joint"], "--data.corpus.folder", "moved", "--data.corpus.test", "mine")
    assert [row["source"] for row in rows] == ["a dog", "a man sees"]
    assert scores["data"] == {"corpus": {"folder": "moved", "test": "mine"}}


def test_data_flags_beside_files_of_ones_own(script):
    files = ("--source_file", "own.en", "--reference_file", "own.de")
    outcome = script("translation_evaluate", *files, "--data.root", "a", "--data.corpus.folder", "b")
    preset = CONFIGS / "translation_evaluate.yaml"
    assert_refused(outcome, [(f"{preset} and flags: data.corpus", "source_file", "own.en")])


def test_nothing_but_white_space(runs, script):
    """Translated to nothing; there is no perplexity."""
    Path("own.en").write_text("\n \n")
    Path("own.de").write_text("x\n\n")
    scores, rows, _ = scored(script, runs["joint"], "--source_file", "own.en", "--reference_file", "own.de")
    assert [row["hypothesis"] for row in rows] == ["", ""]
    assert (scores["perplexity"], scores["bits per byte"], scores["pairs without a perplexity"]) == (None, None, 2)
    assert (scores["BLEU"], scores["tokens a translation"]) == (0.0, 0.0)


WRONG = {
    "no such file": ("a dog\n", None, ("there.de", "here.en")),
    "unequal": ("a dog\na man\n", "ein Hund\n", ("here.en", 2, "there.de", 1)),
    "nothing": ("", "", ("sentences",)),
    "no text": ("a dog\n", b"ein H\xfcnd\n", ("there.de", "UTF-8", 5, 1)),
}


@pytest.mark.parametrize("case", WRONG)
def test_test_sets_that_are_none(case, runs, script):
    source, reference, facts = WRONG[case]
    Path("here.en").write_text(source)
    if reference is not None:
        Path("there.de").write_bytes(reference if isinstance(reference, bytes) else reference.encode())
    flags = ("--source_file", "here.en", "--reference_file", "there.de", "--data.root", "data")
    outcome = script("translation_evaluate", "--checkpoint", runs["joint"], "--device", "cpu", *flags)
    assert_refused(outcome, [("source_file, reference_file", *facts)])
    assert not OUT.exists()


def test_held_out_pairs_of_a_table(real_data, script):
    """WMT14, as it is: trained for a moment on some of it, scored on pairs that were held out."""
    table = real_data / "wmt14" / "wmt14_translate_de-en_test.csv"
    corpus = {"kind": "csv", "train": str(table), "val_share": 0.002, "test_share": 0.004}
    own = {"data.corpus": corpus, "data.max_length": 128, "train.max_steps": 1, "train.trackers": []}
    assert script("translation_train", "--config", as_yaml("c.yaml", tiny_translation(own))).code == 0
    flags = ("--beam_size", 1, "--max_length", 9)
    scores, rows, _ = scored(script, "runs/tiny-mt/version_0", *flags)
    with table.open(newline="", encoding="utf-8") as file:
        all_pairs = {(row["en"], row["de"]) for row in csv.DictReader(file)}
    pairs = {(row["source"], row["reference"]) for row in rows}
    config = load_config(TranslationTrainConfig, Path("runs/tiny-mt/version_0/config.yaml"))
    assert pairs.isdisjoint(raw_pairs(config.data, "train", seed=config.seed)), "trained on none of them"
    assert scores["sentences"] == len(rows) == 12 and pairs <= all_pairs
    assert_sacrebleus(scores, rows)
    _, others, _ = scored(script, "runs/tiny-mt/version_0", *flags, "--split", "val")
    assert len(others) == 6 and not pairs & {(row["source"], row["reference"]) for row in others}
