"""Settings that a script may be told anew: all of some schemas, none needed, none checked before they are used."""

import re
from pathlib import Path

import pytest
from tiny_scripts import as_yaml

from dl_proj.experiments.evaluate_settings import EvaluateConfig
from dl_proj.experiments.translation.data_settings import CsvPairsConfig, PairsConfig
from dl_proj.experiments.translation.settings import TranslationEvaluateConfig
from dl_proj.settings.changes import changes_to
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config, parse_flags


def given(schema, file, *flags):
    """The changes of a script's file and flags."""
    path = as_yaml("c.yaml", {"checkpoint": "x"} | file)
    options, overrides = parse_flags(schema, ["--config", str(path), *flags], Path("preset.yaml"))
    return load_config(schema, options.config, overrides).data.given


@pytest.mark.parametrize("flags", [[], ["--data.root", "b"], ["--data.root", "b", "--data.path", "c"]])
def test_only_what_is_given_changes(flags):
    assert given(EvaluateConfig, {}, *flags) == {
        flag.removeprefix("--data."): value for flag, value in zip(flags[::2], flags[1::2], strict=True)
    }


def test_flags_over_a_file():
    file = {"data": {"labels": None, "corpus": {"folder": "a", "train": "b"}}}
    flags = ("--data.corpus.folder", "c", "--data.tokens", "1")
    expected = {"labels": None, "corpus": {"folder": "c", "train": "b"}}
    assert given(EvaluateConfig, file, *flags[:2]) == expected
    with pytest.raises(ConfigError, match=r"flags: --data\.tokens: no such flag"):
        given(EvaluateConfig, file, *flags)


def test_settings_of_all_kinds_and_schemas_under_their_names():
    corpus = {"kind": "csv", "train": "a.csv", "test": "b.csv"}
    flags = [word for name, value in corpus.items() for word in (f"--data.corpus.{name}", value)]
    assert given(TranslationEvaluateConfig, {}, *flags) == {"corpus": corpus}
    assert given(EvaluateConfig, {}, *flags, "--data.labels", "3,cat") == {"corpus": corpus, "labels": ["3", "cat"]}


def test_what_is_left_out_is_unknown():
    changes = changes_to(PairsConfig, CsvPairsConfig, without=("tokenizer",))
    there = {*PairsConfig.model_fields, *CsvPairsConfig.model_fields} - {"tokenizer"}
    assert set(changes.model_fields) == there


def test_help_says_that_they_are_as_trained(capsys):
    with pytest.raises(SystemExit):
        parse_flags(EvaluateConfig, ["--help"], as_yaml("preset.yaml", {"checkpoint": None}))
    words = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--data\.path {Path,null} files: a file, or a folder [^(]*\(default: as trained\)", words)
    assert "--batch_size int examples per batch (default: 100)" in words
