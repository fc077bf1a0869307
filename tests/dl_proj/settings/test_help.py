"""--help: every setting, with its meaning and the value that it has if nothing else is said."""

import json
import re
from pkgutil import resolve_name

import pytest
from tiny_scripts import GONE, tiny_yaml

from dl_proj.cli import CONFIGS
from dl_proj.commands import COMMANDS
from dl_proj.settings.help import models_in
from dl_proj.settings.load import load_config
from my_transformers.registry import SETTINGS

SCHEMAS = {name: resolve_name(command.schema) for name, command in COMMANDS.items()}
TRAININGS = ["synth_train", "cls_train", "generation_train", "lm_train", "translation_train"]


def leaves(schema, prefix=""):
    """(dotted name, field, schema) of all settings, those of every kind."""
    for name, field in schema.model_fields.items():
        members = models_in(field.annotation)
        for member in members:
            yield from leaves(member, f"{prefix}{name}.")
        if not members:
            yield f"{prefix}{name}", field, schema


@pytest.fixture
def entries(script, monkeypatch):
    """What help says of each flag of a script: {flag: text}, on one line each."""

    def read(name, *flags):
        monkeypatch.setenv("COLUMNS", "1000")  # one line an entry
        outcome = script(name, *flags, "--help")
        assert (outcome.code, outcome.lines) == (0, [])
        found = re.findall(r"^  (?:-h, )?(--[\w.]+)(?:, --no-\S+| \S+)?(?: +|\n +)(.*)$", outcome.out, re.MULTILINE)
        assert len(found) == len(dict(found)), "no flag twice"
        return dict(found)

    return read


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_is_there_with_its_meaning(name, entries):
    texts = entries(name)
    for dotted, field, schema in leaves(SCHEMAS[name]):
        assert field.description, f"{schema.__name__}.{dotted} has no meaning"
        assert " ".join(field.description.split()) in texts[f"--{dotted}"], dotted


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_else_is_there(name, entries):
    flags = {f"--{dotted}" for dotted, _, _ in leaves(SCHEMAS[name])}
    sections = {flag.rpartition(".")[0] for flag in flags} - {""}
    own = {"--help", "--config"} | ({"--resume"} if name in TRAININGS else set())
    assert set(entries(name)) == flags | sections | own


@pytest.mark.parametrize("name", COMMANDS)
def test_no_default_twice(name, entries):
    for flag, text in entries(name).items():
        assert text.count("default: ") <= 1, f"{flag} {text}"
        assert "ifdef" not in text


def assert_shown(values, texts, prefix="--"):
    """Every value of a configuration is what help calls the default."""
    for key, value in values.items():
        flag = prefix + key
        if isinstance(value, dict) and flag not in texts:
            continue
        if isinstance(value, dict) and not texts[flag].endswith(")"):
            assert_shown(value, texts, f"{flag}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            if len(shown) > 100:
                shown = f"{len(value)} entries, see the file"
            assert f"(default: {shown})" in texts[flag] or f"(default: {shown};" in texts[flag], (flag, texts[flag])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_are_the_presets(name, entries):
    config = load_config(SCHEMAS[name], CONFIGS / COMMANDS[name].preset)
    assert_shown(config.model_dump(mode="json"), entries(name))


def test_the_defaults_are_those_of_the_file_that_is_named(entries):
    """Also where flags must add something before it is valid."""
    texts = entries("synth_train", "--config", tiny_yaml("c.yaml", {"optimizer.lr": 0.25, "experiment_name": GONE}))
    assert texts["--optimizer.lr"].endswith("(default: 0.25)")
    assert texts["--experiment_name"].endswith("(needed)")
    assert texts["--model.attention.kind"].endswith("(default: shared_qk)")
    assert texts["--schedule.kind"].endswith("(default: constant)"), "what the file lacks has the schema's default"
    assert entries("cls_train", "--config", "cls_digits.yaml")["--data.dataset"].endswith("(default: digits)")


def test_a_default_that_depends_on_the_kind(entries):
    texts = entries("synth_train")
    assert texts["--schedule.warmup_steps"].endswith("(default: 50; constant: 0; noam: 4000)")
    assert texts["--schedule.warmup_share"].endswith("(default: 0.3)")
    assert texts["--model.attention.chunk_size"].endswith(
        "(default: 64; performer, relative, clipped_relative, linear: 128)"
    ), "kinds that agree are named together"
    tiny_yaml("c.yaml", {"model.attention.dropout": 0.5})
    assert entries("synth_train", "--config", "c.yaml")["--model.attention.dropout"].endswith(
        "(default: 0.5; other kinds: 0.0)"
    )


def test_a_meaning_that_depends_on_the_kind(entries):
    kernel = entries("synth_train")["--model.attention.kernel"]
    assert kernel.startswith("performer: what the features' products estimate")
    assert "; relative: as for performer, or exact:" in kernel
    assert kernel.count("clipped_relative:") == 1
    assert entries("synth_train")["--model.attention.dropout"].count("probability") == 1, "said once if all kinds agree"


def test_what_has_no_value_is_needed(entries):
    for name in TRAININGS:
        texts = entries(name)
        known = "(default: [12, 12])" if name == "generation_train" else "(needed)"
        assert texts["--model.positions.shape"].endswith(known)
        assert not texts["--experiment_name"].endswith("(needed)"), "the preset has it"


def test_usage_is_a_line(script):
    first, second, *_ = script("synth_train", "--help").out.splitlines()
    assert (first, second) == ("usage: synth_train.py [--config FILE.yaml] [--resume RUN] [--SETTING VALUE ...]", "")
    first = script("translate", "--help").out.splitlines()[0]
    assert first == "usage: translate.py [--config FILE.yaml] [--SETTING VALUE ...] [SENTENCE ...]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_files_and_runs_to_start_from(name, entries):
    texts = entries(name)
    assert texts["--config"].endswith(f"(default: {CONFIGS / COMMANDS[name].preset})")
    assert "last" in texts.get("--resume", "last")


def test_help_wins_over_a_file_that_is_not_there(script):
    for name in COMMANDS:
        assert script(name, "--config", "none.yaml", "--help").code == 0


def test_kinds_are_listed(script):
    out = " ".join(script("synth_train", "--help").out.split())
    for choices in (
        f"--model.attention.kind {{{','.join(sorted(settings.kind for settings in SETTINGS))}}}",
        "--schedule.kind {constant,noam,one_cycle,warmup_cosine}",
        "--model.positions.kind {axial,learned,learned_sinusoidal,none,sinusoidal}",
    ):
        assert choices in out
    assert "--objective.kind {causal,masked}" in " ".join(script("lm_train", "--help").out.split())
    assert "--loss.kind {cross_entropy,focal}" in " ".join(script("generation_train", "--help").out.split())
    assert "--data.corpus.kind {csv,files,hub,parquet}" in " ".join(script("translation_train", "--help").out.split())


def test_what_is_no_flag_is_there_too(script):
    out = " ".join(script("translate", "--help").out.split())
    assert "lines of standard input" in out
    assert "SENTENCE one or more, after -- also such that look like flags" in out
