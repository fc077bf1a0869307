"""The schema of text: what is refused before a file is looked at, and in which words."""

import pytest
import yaml

from dl_proj.experiments.language.data_settings import BPEConfig, BytesConfig, TextDataConfig, WordPieceConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config


def load(tmp_path, **values):
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(TextDataConfig, path)


def refusal(tmp_path, **values):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **values)
    return [line.removeprefix(f"{tmp_path / 'data.yaml'}: ") for line in refused.value.lines]


def test_bytes_of_a_file_are_the_usual(tmp_path):
    config = load(tmp_path, path="a.txt")
    assert (config.tokenizer, config.sampling, config.source) == (BytesConfig(), "random", "files")


def test_kinds_of_tokens(tmp_path):
    for kind, schema in (("bpe", BPEConfig), ("wordpiece", WordPieceConfig)):
        assert load(tmp_path, path="a", tokenizer={"kind": kind, "vocab_size": 999}).tokenizer == schema(vocab_size=999)
    assert "must be one of 'bytes', 'bpe', 'wordpiece'" in refusal(tmp_path, path="a", tokenizer={"kind": "words"})[0]
    assert "vocab_size" in refusal(tmp_path, path="a", tokenizer={"kind": "bpe", "vocab_size": 255})[0]
    assert "no such setting" in refusal(tmp_path, path="a", tokenizer={"kind": "bytes", "vocab_size": 300})[0]


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({}, ["path is required with source: files"]),
        (
            {"path": "a", "window": 8, "eval_stride": 9},
            ["eval_stride 9 must be at most window 8, or tokens would be skipped"],
        ),
        (
            {"path": "a", "val_share": 0.5, "test_share": 0.5},
            ["val_share 0.5 and test_share 0.5 leave nothing to train on"],
        ),
        (
            {"source": "enwik8", "path": "a", "test_share": 0.1},
            [
                "path a has no effect: source enwik8 has its own text and splits",
                "test_share 0.1 has no effect: source enwik8 has its own text and splits",
            ],
        ),
    ],
    ids=["no path", "stride", "shares", "no effect"],
)
def test_settings_that_do_not_fit_together(tmp_path, values, lines):
    assert [line.lstrip(": ") for line in refusal(tmp_path, **values)] == lines


def test_a_source_that_there_is_not(tmp_path):
    (line,) = refusal(tmp_path, source="wikitext")
    assert line == "source: must be 'files', 'enwik8', 'wikitext2', 'wikitext103' or 'hub' (got 'wikitext')"
