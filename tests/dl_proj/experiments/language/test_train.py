"""lm_train.py from end to end: what it leaves behind, that its figures are true, that it learns."""

import csv
import json
import math
from pathlib import Path

import pytest
import tokenizers
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tiny_scripts import COSTS, TEXT, as_yaml, tiny_language

from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured, language_experiment
from dl_proj.text.tokenizers import Tokenizer

RUN = Path("runs/tiny-lm/version_0")
WINDOW = 16
BPE = {"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "data.window": 8}
WORDPIECE = {"data.tokenizer": {"kind": "wordpiece", "vocab_size": 256}, "data.window": 8}
MASKED = {"objective": {"kind": "masked"}}


@pytest.fixture(autouse=True)
def text(monkeypatch):
    """And pictures, which take longer than the training, stay empty."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    Path("text.txt").write_text(TEXT, encoding="utf-8")


def run_of(script, changes=None):
    """Train, expect success, and give the final figures."""
    as_yaml("c.yaml", tiny_language({**(changes or {}), "train.trackers": []}))
    outcome = script("lm_train", "--config", "c.yaml")
    assert outcome.code == 0, outcome.lines
    return figures_of()


def figures_of(run=RUN):
    return json.loads((run / "metrics.json").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(values):
    return {name: value for name, value in values.items() if name not in COSTS}


def trained(changes=None, tokenizer=None, run=RUN):
    """The best weights, read by hand."""
    config = LanguageTrainConfig.model_validate(tiny_language(changes))
    model = build_configured(config, tokenizer or Tokenizer())
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    return model.eval()


def held_out():
    """The test's bytes, split by the letter: a tenth, at the end, cut where a character begins."""
    data = TEXT.encode()
    at = len(data) - round(0.1 * len(data))
    while data[at] & 0xC0 == 0x80:
        at += 1
    return data[at:]


@torch.no_grad()
def naive_nats(model, tokens, window):
    """-log p of each token but the first, in windows one after the other, of which the last is moved back."""
    found = {}
    for start in [*range(0, len(tokens) - 1 - window, window), len(tokens) - 1 - window]:
        log_p = model(torch.tensor([tokens[start : start + window]]))[0].double().log_softmax(-1)
        for i in range(window):
            found.setdefault(start + i + 1, -log_p[i, tokens[start + i + 1]].item())
    assert sorted(found) == list(range(1, len(tokens)))
    return list(found.values())


def test_bytes_leave_no_tokenizer(script):
    run_of(script)
    assert not list(Path().rglob("tokenizer.json"))


def test_the_figures_of_a_model_of_bytes(script):
    figures = run_of(script, {"train.log_every": 1})
    assert set(figures) == {"parameters", "steps", *COSTS} | {
        f"test/{name}" for name in ("loss", "accuracy", "bits_per_byte", "perplexity")
    }
    nats = naive_nats(trained(), list(held_out()), WINDOW)
    assert figures["test/loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert figures["test/bits_per_byte"] == pytest.approx(sum(nats) / len(nats) / math.log(2), rel=1e-5)
    assert figures["test/perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)
    names = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "accuracy", "bits_per_byte")}
    assert set(rows_of()[0]) >= names | {"train/perplexity", "val/perplexity"}


def test_bits_per_byte_of_subwords(script):
    """By the library itself: nats of all predicted tokens by the bytes that they spell, as the text's mean has it."""
    figures = run_of(script, BPE)
    subwords = tokenizers.Tokenizer.from_file(str(RUN / "checkpoints/best/tokenizer.json"))
    lines = held_out().decode().splitlines(keepends=True)
    tokens = [token for line in lines for token in subwords.encode(line).ids]
    assert len(tokens) < 0.8 * len(held_out()), "they are subwords"
    config = LanguageTrainConfig.model_validate(tiny_language(BPE))
    nats = naive_nats(trained(BPE, language_experiment(config).tokenizer), tokens, 8)
    n_bytes = len(held_out()) * len(nats) / len(tokens)
    assert figures["test/bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / n_bytes, rel=1e-5)
    assert figures["test/loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_the_figures_of_a_masked_model(script):
    """Over what its own test data hides; no bits per byte."""
    figures = run_of(script, MASKED)
    assert set(figures) == {"parameters", "steps", *COSTS, "test/loss", "test/accuracy", "test/perplexity"}
    model, nats = trained(MASKED), []
    data = language_experiment(LanguageTrainConfig.model_validate(tiny_language(MASKED))).test_data
    for inputs, targets, chosen in (data[i] for i in range(len(data))):
        log_p = model(inputs.unsqueeze(0))[0].detach().double().log_softmax(-1)
        nats += [-log_p[i, targets[i]].item() for i in range(WINDOW) if chosen[i]]
    assert len(nats) < 0.3 * len(held_out())
    assert figures["test/loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_the_objective_says_what_is_hidden():
    """Half of the window; and of words with ASCII letters all or nothing."""
    rule = {"objective": {"kind": "masked", "share": 0.5}}
    data = language_experiment(LanguageTrainConfig.model_validate(tiny_language(rule))).train_data
    assert {data[i][2].sum().item() for i in range(20)} == {8}
    rule["objective"]["whole_word"] = True
    data = language_experiment(LanguageTrainConfig.model_validate(tiny_language(rule))).train_data
    for _, targets, chosen in (data[i] for i in range(20)):
        letters = [chr(byte).isascii() and chr(byte).isalpha() for byte in targets]
        within = [i for i in range(WINDOW - 1) if letters[i] and letters[i + 1]]
        assert all(chosen[i] == chosen[i + 1] for i in within)


def test_evaluate_gives_the_same_figures_with_the_saved_tokenizer(script):
    """Also where the training text, from which subwords would be learnt otherwise, has changed since."""
    as_yaml("c.yaml", tiny_language(BPE))
    figures = run_of(script, BPE)
    changed = TEXT.encode()[: -len(held_out())].replace(b"owls", b"rats") + held_out()
    Path("text.txt").write_bytes(changed)
    assert script("evaluate", "--checkpoint", RUN, "--device", "cpu", "--batch_size", 3).code == 0
    with Path("runs/evaluation/evaluation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["attention"]) == ("language", "full")
    for name in ("loss", "accuracy", "bits_per_byte", "perplexity"):
        assert float(row[name]) == pytest.approx(figures[f"test/{name}"], rel=1e-5)


def test_subwords_that_are_gone_are_a_mistake_in_evaluation(script):
    run_of(script, BPE)
    (RUN / "checkpoints/best/tokenizer.json").unlink()
    outcome = script("evaluate", "--checkpoint", RUN / "checkpoints/best", "--device", "cpu")
    assert outcome.code == 2
    assert len(outcome.lines) == 1 and "best/tokenizer.json is missing" in outcome.lines[0]


LSH = {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}
DEEP = {"model.depth": 2, "model.reversible": True, "model.dropout": 0.1}
CONFIGURATIONS = {  # others are trained in test_resume.py: reversible lsh, tied with adafactor, masked linformer
    "causal linformer, chunked": {
        "model.attention": {"kind": "causal_linformer", "block_size": 4, "rank": 2},
        "model.ffn_chunk_size": 5,
    },
    "clipped_relative": {"model.attention": {"kind": "clipped_relative", "n_features": 8, "distance": 2}},
    "masked lsh, reversible": DEEP | MASKED | {"model.attention": LSH},
    "masked words": WORDPIECE | {"objective": {"kind": "masked", "share": 0.3, "whole_word": True}},
    "post-norm, axial": {"model.norm": "post", "model.positions": {"kind": "axial", "shape": [4, 4]}},
    "bf16, accumulated, one after the other": {
        "train.precision": "bf16",
        "train.accumulate": 2,
        "data.sampling": "sequential",
        "data.eval_stride": 5,
    },
    "epochs, warmed up": {
        "train.max_steps": None,
        "train.epochs": 1,
        "train.batch_size": 16,
        "schedule": {"kind": "warmup_cosine", "warmup_steps": 2},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_configuration_trains(case, script):
    figures = run_of(script, CONFIGURATIONS[case])
    assert 0 < figures["test/loss"] < 7
    assert 0 <= figures["test/accuracy"] <= 1
    assert figures["test/perplexity"] == pytest.approx(math.exp(figures["test/loss"]))


def test_a_resumed_run_keeps_its_subwords(script):
    """Those in the run's folder, whatever the text says now; the record of its data would refuse that."""
    run_of(script, BPE)
    saved = (RUN / "tokenizer.json").read_text()
    data = TEXT.encode()
    Path("text.txt").write_bytes(data.replace(b"mat", b"rug"))
    (RUN / "data.json").unlink()
    assert script("lm_train", "--config", "c.yaml", "--resume", "last").code == 0
    assert (RUN / "tokenizer.json").read_text() == saved


def entropy(data):
    return -sum(data.count(byte) / len(data) * math.log2(data.count(byte) / len(data)) for byte in set(data))


@pytest.mark.slow
def test_it_learns_more_than_how_often_each_byte_comes(script):
    changes = {"model.attention": LSH, "model.reversible": True}
    pace = {"max_steps": 80, "batch_size": 8, "eval_every": 80, "device": "cpu"}
    figures = run_of(script, {"model.dim": 32, "model.depth": 2, "train": pace} | changes)
    assert figures["test/bits_per_byte"] < 0.8 * entropy(held_out())


@pytest.mark.slow
def test_a_masked_model_learns_what_stands_where(script):
    """Windows that all begin with an a: the place alone tells the letter, of which there are eight."""
    Path("text.txt").write_text("abcdefgh" * 300)
    pace = {"max_steps": 40, "batch_size": 8, "eval_every": 40, "device": "cpu"}
    figures = run_of(script, MASKED | {"data.sampling": "sequential", "train": pace})
    assert figures["test/perplexity"] < 2
    assert figures["test/accuracy"] > 0.9
