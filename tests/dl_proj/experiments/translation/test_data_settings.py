"""The schema of sentence pairs: what is refused before a file is looked at, and in which words."""

from pathlib import Path

import pytest
import yaml

from dl_proj.experiments.translation.data_settings import HubPairsConfig, LinePairsConfig, PairsConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config


def load(**values):
    Path("data.yaml").write_text(yaml.safe_dump(values))
    return load_config(PairsConfig, Path("data.yaml"))


def refusal(**values):
    with pytest.raises(ConfigError) as refused:
        load(**values)
    return [line.removeprefix("data.yaml: ") for line in refused.value.lines]


FILES = {"kind": "files", "folder": "x"}


def test_the_usual():
    config = load(corpus=FILES)
    assert isinstance(config.corpus, LinePairsConfig)
    assert (config.source_language, config.target_language, config.max_length) == ("en", "de", 128)
    assert (config.tokenizer.vocab_size, config.tokenizer.joint, config.tokenizer.paths) == (8000, True, ())
    assert config.corpus.held_out == {}


def test_kinds_of_corpora():
    hub = load(corpus={"kind": "hub"}).corpus
    assert isinstance(hub, HubPairsConfig) and (hub.name, hub.subset) == ("wmt/wmt14", "de-en")
    for kind in ("csv", "parquet"):
        corpus = load(corpus={"kind": kind, "train": "a", "test": "b", "val_share": 0.2}).corpus
        assert (corpus.kind, corpus.train, corpus.held_out) == (kind, Path("a"), {"val": 0.2})
    assert "must be one of 'files', 'csv', 'parquet', 'hub'" in refusal(corpus={"kind": "web"})[0]
    assert "this setting is required" in refusal(corpus={"kind": "csv"})[0]
    assert "no such setting" in refusal(corpus={"kind": "hub", "folder": "x"})[0]


def test_norwegian_is_a_language():
    Path("data.yaml").write_text("corpus: {kind: hub}\ntarget_language: no\n")
    assert load_config(PairsConfig, Path("data.yaml")).target_language == "no"


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"target_language": "en"}, ["source_language and target_language are both 'en', must differ"]),
        (
            {"corpus": FILES | {"val_share": 0.2}},
            ["corpus: val_share 0.2 has no effect with val val; val: null holds out pairs"],
        ),
        (
            {"corpus": {"kind": "csv", "train": "a", "val_share": 0.5, "test_share": 0.5}},
            ["corpus: val_share 0.5 and test_share 0.5 leave nothing to train on"],
        ),
        (
            {"corpus": {"kind": "csv", "train": "a", "val": "a", "test": "a"}},
            [
                "corpus: train and val are both a, must differ; null holds out training pairs",
                "corpus: train and test are both a, must differ; null holds out training pairs",
                "corpus: val and test are both a, must differ; null holds out training pairs",
            ],
        ),
        ({"tokenizer": {"paths": ["a", "b"]}}, ["tokenizer: paths must have 1 with joint: true (got 2)"]),
        ({"tokenizer": {"joint": False, "paths": ["a"]}}, ["tokenizer: paths must have 2 with joint: false (got 1)"]),
        (
            {"tokenizer": {"vocab_size": 300, "paths": ["a"]}},
            ["tokenizer: vocab_size 300 has no effect: paths define the tokens"],
        ),
        ({"max_length": 1}, ["max_length: must be greater than or equal to 2 (got 1)"]),
    ],
    ids=["language", "no effect", "shares", "one file", "two paths", "one path", "size of paths", "length"],
)
def test_settings_that_do_not_fit(values, lines):
    assert [line.lstrip(": ") for line in refusal(**{"corpus": FILES} | values)] == lines
