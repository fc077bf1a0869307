"""Mistakes in lm_train.py's settings: exit code 2, a line each, found before any text is read."""

from pathlib import Path

import pytest
from tiny_scripts import GONE, TEXT, as_yaml, assert_refused, files_below, tiny_language

MASKED = {"objective": {"kind": "masked"}}
WARM_UP = {"kind": "constant", "warmup_steps": 999}
FILE = "c.yaml: "
WRONG = {
    "no text": ({"data": GONE}, [("data:", "needed")]),
    "an unknown objective": (
        {"objective": {"kind": "permuted"}},
        [("objective.kind:", "'causal', 'masked'", "got 'permuted'")],
    ),
    "the other objective's setting": (
        {"objective": {"kind": "causal", "share": 0.1}},
        [("objective.share:", "no such setting")],
    ),
    "nothing hidden": ({"objective": {"kind": "masked", "share": 0}}, [("objective.share:", "greater than 0")]),
    "everything hidden": ({"objective": {"kind": "masked", "share": 1}}, [("objective.share:", "less than 1")]),
    "linformer for a causal model": (
        {"model.attention": {"kind": "linformer"}},
        [("model.attention.kind: linformer mixes all positions", "causal_linformer")],
    ),
    "causal_linformer for a masked model": (
        MASKED | {"model.attention": {"kind": "causal_linformer", "block_size": 8}},
        [("model.attention.kind: causal_linformer looks back alone", "linformer")],
    ),
    "a rank of more than the window": (
        MASKED | {"model.attention": {"kind": "linformer", "rank": 17}},
        [("model.attention.rank 17 is more than the 16 tokens",)],
    ),
    "a bucket for all": (
        {"model.attention": {"kind": "lsh", "bucket_size": 17}},
        [("model.attention.bucket_size 17", "16 tokens")],
    ),
    "too few positions": (
        {"model.positions": {"kind": "axial", "shape": [3, 5]}},
        [("model.positions.shape 3 x 5 has fewer positions than the 16 tokens",)],
    ),
    "reversible and post-norm": ({"model.reversible": True, "model.norm": "post"}, [("model: reversible",)]),
    "an unknown metric": (
        {"train.monitor": {"metric": "val/bits_per_dim"}},
        [
            (
                "train.monitor.metric 'val/bits_per_dim'",
                "val/loss or val/perplexity or val/accuracy or val/bits_per_byte",
            )
        ],
    ),
    "bits per byte of a masked model": (
        MASKED | {"train.monitor": {"metric": "val/bits_per_byte"}},
        [("train.monitor.metric 'val/bits_per_byte' is unknown, must be val/loss or val/perplexity or val/accuracy",)],
    ),
    "the metric's wrong way": (
        {"train.monitor": {"metric": "val/accuracy"}},
        [("train.monitor.mode min must be max for val/accuracy",)],
    ),
    "warm-up as long as training": (
        {"schedule": {"kind": "warmup_cosine", "warmup_steps": 3}},
        [("schedule.warmup_steps 3 must be less than the 3 steps",)],
    ),
    "a causal model of words without spaces": (
        {"data.tokenizer": {"kind": "wordpiece"}},
        [("data.tokenizer.kind: wordpiece loses white space", "bpe or bytes")],
    ),
    "one matrix for two widths": (
        {"model.tied": True, "model.reversible": True, "model.streams": "concatenate"},
        [("model: tied: true needs streams: mean",)],
    ),
    "three at once": (
        {"model.attention": {"kind": "linformer"}, "train.monitor.metric": "x", "schedule": WARM_UP},
        [("model.attention.kind: linformer",), ("train.monitor.metric 'x'",), ("schedule.warmup_steps 999",)],
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
    "no such file": ({}, None, ["data.path: text.txt is not there"]),
    "too short": ({}, TEXT[:100], ["data.window: 16 tokens and the one after"] * 2),
    "no text": (
        {"data.tokenizer": {"kind": "bpe"}},
        TEXT.encode("latin-1"),
        ["data.tokenizer: text.txt is not UTF-8 at byte 36"],
    ),
    "a batch of more than all": ({"train.batch_size": 10**6}, TEXT, ["train.batch_size: 1000000 on each of 1 "]),
    "warm-up longer than the epochs": (
        {"train.max_steps": GONE, "train.epochs": 1, "schedule": WARM_UP},
        TEXT,
        ["schedule.warmup_steps 999 must be less than the "],
    ),
}


@pytest.mark.parametrize("case", IN_THE_DATA)
def test_what_only_the_text_can_tell(case, script):
    changes, content, expected = IN_THE_DATA[case]
    if content is not None:
        Path("text.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    as_yaml("c.yaml", tiny_language(changes))
    assert_refused(script("lm_train", "--config", "c.yaml"), [(start,) for start in expected])
    assert not Path("runs").exists()


def test_resuming_with_other_settings(script):
    Path("text.txt").write_text(TEXT)
    as_yaml("c.yaml", tiny_language())
    assert script("lm_train", "--config", "c.yaml").code == 0
    for flag, value in (("data.window", 8), ("optimizer.lr", 0.5), ("model.tied", "true")):
        outcome = script("lm_train", "--config", "c.yaml", "--resume", "last", f"--{flag}", value)
        assert_refused(outcome, [("--resume: runs/tiny-lm/version_0/config.yaml: ", f"{flag}: the run has")])
