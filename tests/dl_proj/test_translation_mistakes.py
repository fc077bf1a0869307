"""Mistakes in the translation scripts' settings: exit code 2, a line each, found before any pair is read."""

from pathlib import Path

import pytest
from tiny_scripts import GONE, PAIRS, as_yaml, assert_refused, files_below, tiny_translation, write_pairs

from dl_proj.checkpoint_folder import SHIPPED
from dl_proj.cli import CONFIGS

FILE = "c.yaml: "
LSH = {"kind": "lsh", "bucket_size": 4}
WARM_UP = {"kind": "constant", "warmup_steps": 999}
METRICS = ("val/loss", "val/perplexity", "val/accuracy", "val/bits_per_byte", "val/bleu")
WRONG = {
    "no pairs": ({"data": GONE}, [("data",)]),
    "no corpus": ({"data.corpus": GONE}, [("data.corpus",)]),
    "an unknown corpus": (
        {"data.corpus": {"kind": "web"}},
        [("data.corpus.kind", "'files'", "'csv'", "'parquet'", "'hub'", "'web'")],
    ),
    "one language": (
        {"data.source_language": "de"},
        [("data", "source_language", "target_language", "'de'")],
    ),
    "tied, but two vocabularies": (
        {"model.tied": True, "data.tokenizer.joint": False},
        [("model.tied", True, "data.tokenizer.joint", True)],
    ),
    "everything smoothed": ({"label_smoothing": 1}, [("label_smoothing", 1)]),
    "a linformer that cannot be causal": (
        {"model.decoder_attention": {"kind": "linformer"}},
        [("model.decoder_attention.kind", "linformer", "causal_linformer")],
    ),
    "lsh whose chunks move": (
        {"model.decoder_attention": LSH | {"rule": "chunk"}},
        [("model.decoder_attention.rule", "chunk", "rule")],
    ),
    "an encoder that sees the padding": (
        {"model.encoder_attention": {"kind": "transformers_lsh"}},
        [("model.encoder_attention.kind", "transformers_lsh", "lsh")],
    ),
    "an encoder that wraps around": (
        {"model.encoder_attention": {"kind": "local", "chunk_size": 4, "circle": 8}},
        [("model.encoder_attention.circle", 8, None)],
    ),
    "what cannot attend to another sequence": (
        {"model.cross_attention": LSH},
        [("model", "cross_attention.kind", "lsh", "full", "linformer", "performer")],
    ),
    "a rank of more than a sentence": (
        {"model.encoder_attention": {"kind": "linformer", "rank": 41}},
        [("model.encoder_attention.rank", 41, 40)],
    ),
    "reversible and post-norm": ({"model.reversible": True, "model.norm": "post"}, [("model", "reversible")]),
    "an unknown metric": (
        {"train.monitor": {"metric": "val/chrf"}},
        [("train.monitor.metric", "'val/chrf'", *METRICS)],
    ),
    "the metric's wrong way": (
        {"train.monitor": {"metric": "val/bleu"}},
        [("train.monitor.mode", "min", "val/bleu")],
    ),
    "warm-up as long as training": (
        {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}},
        [("schedule.warmup_steps", 3, 3)],
    ),
    "batches of less than a sentence": (
        {"train.batch_tokens": 39},
        [("train.batch_tokens", 39, "data.max_length", 40)],
    ),
    "examples a batch": ({"train.batch_size": 8}, [("train.batch_size", "batch_tokens")]),
    "three at once": (
        {"model.tied": True, "data.tokenizer.joint": False, "train.monitor.metric": "x", "schedule": WARM_UP},
        [("train.monitor.metric", "'x'"), ("model.tied", True), ("schedule.warmup_steps", 999)],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting(case, script):
    changes, expected = WRONG[case]
    as_yaml("c.yaml", tiny_translation(changes))
    outcome = script("translation_train", "--config", "c.yaml")
    assert_refused(outcome, [(FILE + start, *parts) for start, *parts in expected])
    assert files_below(".") == {"c.yaml"}, "found before any pair is looked for"


IN_THE_PAIRS = {
    "no such folder": ({"data.corpus.folder": "nowhere"}, [("data.corpus.train", "nowhere")]),
    "no such language": (
        {"data.target_language": "fr"},
        [("data.corpus.train", "pairs/train.fr", "test.de")],
    ),
    "nothing fits": (
        {"data.max_length": 2},
        [("data", part, n) for part, n in (("training", 40), ("validation", 7), ("test", 8))],
    ),
    "no tokenizer": (
        {"data.tokenizer": {"paths": ["t.json"]}},
        [("data.tokenizer: t.json",)],
    ),
    "warm-up longer than the epochs": (
        {"train.max_steps": GONE, "train.epochs": 1, "schedule": WARM_UP},
        [("schedule.warmup_steps", 999)],
    ),
}


@pytest.mark.parametrize("case", IN_THE_PAIRS)
def test_mistake_that_only_the_pairs_show(case, script):
    changes, expected = IN_THE_PAIRS[case]
    write_pairs()
    as_yaml("c.yaml", tiny_translation(changes))
    outcome = script("translation_train", "--config", "c.yaml")
    outcome.lines = [line for line in outcome.lines if " pairs: " not in line]
    assert_refused(outcome, expected)
    assert not Path("runs").exists()


def test_sides_of_unequal_length(script):
    write_pairs()
    Path("pairs/val.de").write_text("ein Hund\n" * 9)
    as_yaml("c.yaml", tiny_translation())
    line = ("data.corpus.val", "pairs/val.en", 7, "pairs/val.de", 9)
    assert_refused(script("translation_train", "--config", "c.yaml"), [line])


def test_resuming_with_other_settings(script):
    write_pairs(pairs=PAIRS, sizes=(8, 2, 2))
    as_yaml("c.yaml", tiny_translation({"train.max_steps": 1, "train.trackers": []}))
    assert script("translation_train", "--config", "c.yaml").code == 0
    for flag, value in (("data.max_length", 30), ("label_smoothing", 0.5), ("train.batch_tokens", 99)):
        outcome = script("translation_train", "--config", "c.yaml", "--resume", "last", f"--{flag}", value)
        assert_refused(outcome, [(f"--resume: runs/tiny-mt/version_0/config.yaml: {flag}", value)])


def test_the_large_preset_without_a_network(script, monkeypatch):
    """One line says what failed, one what to do instead."""

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", fail)
    outcome = script("translation_train", "--config", CONFIGS / "paper/translation_wmt14.yaml")
    assert_refused(outcome, [("data.corpus", "wmt/wmt14", "hub"), ("data.corpus", "csv", "parquet")])


SETTINGS = {
    "no beam": (["--beam_size", "0"], ("flags: beam_size", 1, "'0'")),
    "a beam that favours short ones": (["--length_penalty", "-1"], ("flags: length_penalty", "'-1'")),
    "no room": (["--max_length", "1"], ("flags: max_length", "'1'")),
    "nothing at a time": (["--batch_size", "0"], ("flags: batch_size", "'0'")),
    "an unknown flag": (["--beamsize", "2"], ("flags: --beamsize", "--beam_size")),
    "no checkpoint": (["--checkpoint", "nowhere"], ("'nowhere'",)),
}


@pytest.mark.parametrize("name", ["translate", "translation_evaluate"])
@pytest.mark.parametrize("case", SETTINGS)
def test_a_wrong_setting_of_a_search(case, name, script):
    flags, mistake = SETTINGS[case]
    assert_refused(script(name, *flags), [mistake])
    assert files_below(".") == set()


EVALUATION = f"{CONFIGS / 'translation_evaluate.yaml'} and flags: "
TEST_SETS = {
    "one side": (["--source_file", "x"], (EVALUATION + "source_file", "reference_file")),
    "the other side": (["--reference_file", "x"], (EVALUATION + "source_file", "reference_file")),
    "two test sets": (
        ["--source_file", "x", "--reference_file", "y", "--split", "val"],
        (EVALUATION + "split", "val", "source_file", "x"),
    ),
    "another split": (["--split", "train"], ("flags: split", "'val'", "'test'", "'train'")),
    "another tokenizer": (["--bleu_tokenizer", "moses"], ("flags: bleu_tokenizer", "'13a'", "'moses'")),
    "fewer than none": (["--examples", "-1"], ("flags: examples", 0, "'-1'")),
}


@pytest.mark.parametrize("case", TEST_SETS)
def test_a_wrong_test_set(case, script):
    flags, mistake = TEST_SETS[case]
    assert_refused(script("translation_evaluate", *flags), [mistake])


@pytest.mark.parametrize("name", ["translate", "translation_evaluate"])
def test_a_checkpoint_of_another_task(name, script):
    outcome = script(name, "--checkpoint", "synth-gen-full", "--device", "cpu")
    assert_refused(outcome, [(f"{SHIPPED}/synth-gen-full/config.yaml: task", "'translation'", "'copy'")])
