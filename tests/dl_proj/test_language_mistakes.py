"""Mistakes in lm_train.py's settings: exit code 2, a line each, found before any text is read."""

from pathlib import Path

import pytest
from tiny_scripts import GONE, TEXT, as_yaml, assert_refused, files_below, tiny_language

MASKED = {"objective": {"kind": "masked"}}
WARM_UP = {"kind": "constant", "warmup_steps": 999}
FILE = "c.yaml: "
WRONG = {
    "no text": ({"data": GONE}, [("data",)]),
    "an unknown objective": (
        {"objective": {"kind": "permuted"}},
        [("objective.kind", "'causal'", "'masked'", "'permuted'")],
    ),
    "the other objective's setting": (
        {"objective": {"kind": "causal", "share": 0.1}},
        [("objective.share",)],
    ),
    "nothing hidden": ({"objective": {"kind": "masked", "share": 0}}, [("objective.share", 0)]),
    "everything hidden": ({"objective": {"kind": "masked", "share": 1}}, [("objective.share", 1)]),
    "linformer for a causal model": (
        {"model.attention": {"kind": "linformer"}},
        [("model.attention.kind", "linformer", "causal_linformer")],
    ),
    "causal_linformer for a masked model": (
        MASKED | {"model.attention": {"kind": "causal_linformer", "block_size": 8}},
        [("model.attention.kind", "causal_linformer", "linformer")],
    ),
    "a rank of more than the window": (
        MASKED | {"model.attention": {"kind": "linformer", "rank": 17}},
        [("model.attention.rank", 17, 16)],
    ),
    "a bucket for all": (
        {"model.attention": {"kind": "lsh", "bucket_size": 17}},
        [("model.attention.bucket_size", 17, 16)],
    ),
    "too few positions": (
        {"model.positions": {"kind": "axial", "shape": [3, 5]}},
        [("model.positions.shape", 3, 5, 16)],
    ),
    "reversible and post-norm": ({"model.reversible": True, "model.norm": "post"}, [("model", "reversible")]),
    "an unknown metric": (
        {"train.monitor": {"metric": "val/bits_per_dim"}},
        [
            (
                "train.monitor.metric",
                "'val/bits_per_dim'",
                "val/loss",
                "val/perplexity",
                "val/accuracy",
                "val/bits_per_byte",
            )
        ],
    ),
    "bits per byte of a masked model": (
        MASKED | {"train.monitor": {"metric": "val/bits_per_byte"}},
        [("train.monitor.metric", "'val/bits_per_byte'", "val/loss", "val/perplexity", "val/accuracy")],
    ),
    "the metric's wrong way": (
        {"train.monitor": {"metric": "val/accuracy"}},
        [("train.monitor.mode", "min", "val/accuracy")],
    ),
    "warm-up as long as training": (
        {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}},
        [("schedule.warmup_steps", 3, 3)],
    ),
    "a causal model of words without spaces": (
        {"data.tokenizer": {"kind": "wordpiece"}},
        [("data.tokenizer.kind", "wordpiece", "bpe", "bytes")],
    ),
    "one matrix for two widths": (
        {"model.tied": True, "model.reversible": True, "model.streams": "concatenate"},
        [("model", "tied", True, "streams")],
    ),
    "three at once": (
        {"model.attention": {"kind": "linformer"}, "train.monitor.metric": "x", "schedule": WARM_UP},
        [("model.attention.kind", "linformer"), ("train.monitor.metric", "'x'"), ("schedule.warmup_steps", 999)],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting(case, script):
    changes, expected = WRONG[case]
    as_yaml("c.yaml", tiny_language(changes))
    outcome = script("lm_train", "--config", "c.yaml")
    assert_refused(outcome, [(FILE + start, *parts) for start, *parts in expected])
    assert files_below(".") == {"c.yaml"}, "found before any text is looked for"


IN_THE_DATA = {
    "no such file": ({}, None, [("data.path", "text.txt")]),
    "too short": ({}, TEXT[:100], [("data.window", 16)] * 2),
    "no text": (
        {"data.tokenizer": {"kind": "bpe"}},
        TEXT.encode("latin-1"),
        [("data.tokenizer", "text.txt", "UTF-8", 36)],
    ),
    "a batch of more than all": ({"train.batch_size": 10**6}, TEXT, [("train.batch_size", 1000000, 1)]),
    "warm-up longer than the epochs": (
        {"train.max_steps": GONE, "train.epochs": 1, "schedule": WARM_UP},
        TEXT,
        [("schedule.warmup_steps", 999)],
    ),
}


@pytest.mark.parametrize("case", IN_THE_DATA)
def test_mistake_that_only_the_text_shows(case, script):
    changes, content, expected = IN_THE_DATA[case]
    if content is not None:
        Path("text.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    as_yaml("c.yaml", tiny_language(changes))
    assert_refused(script("lm_train", "--config", "c.yaml"), expected)
    assert not Path("runs").exists()


def test_resuming_with_other_settings(script):
    Path("text.txt").write_text(TEXT)
    as_yaml("c.yaml", tiny_language())
    assert script("lm_train", "--config", "c.yaml").code == 0
    for flag, value in (("data.window", 8), ("optimizer.eps", 0.5), ("model.tied", "true")):
        outcome = script("lm_train", "--config", "c.yaml", "--resume", "last", f"--{flag}", value)
        assert_refused(outcome, [(f"--resume: runs/tiny-lm/version_0/config.yaml: {flag}", value)])
