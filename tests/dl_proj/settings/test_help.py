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
TRAININGS = ["synth_train", "cls_train", "generation_train", "lm_train", "translation_train", "lra_train"]


def leaves(schema, chosen, prefix=""):
    """(dotted name, field, schema) of all settings, those of the chosen kind, or else of a section's first."""
    for name, field in schema.model_fields.items():
        if members := models_in(field.annotation):
            kind = chosen.get(f"{prefix}{name}.kind")
            member = next((m for m in members if kind and m.model_fields["kind"].default == kind), members[0])
            yield from leaves(member, chosen, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, schema


def sections_with_kinds(schema, prefix=""):
    """Their kinds, by their dotted names."""
    for name, field in schema.model_fields.items():
        members = models_in(field.annotation)
        if len(members) > 1:
            yield f"{prefix}{name}.kind", [member.model_fields["kind"].default for member in members]
        for member in members:
            yield from sections_with_kinds(member, f"{prefix}{name}.")


def choices_of(name):
    """Of a command's kinds, so that each is chosen once: what is given for each section."""
    kinds = dict(sections_with_kinds(SCHEMAS[name]))
    most = max(map(len, kinds.values()), default=1)
    return [{key: some[i % len(some)] for key, some in kinds.items()} for i in range(most)]


CHOICES = [(name, choice) for name in COMMANDS for choice in choices_of(name)]


BARE = {}  # what a script's help says without other flags, once it was asked for


@pytest.fixture
def entries(script, monkeypatch):
    """What help says of each flag of a script: {flag: text}, on one line each."""

    def read(name, *flags):
        if not flags and name in BARE:
            return BARE[name]
        monkeypatch.setenv("COLUMNS", "1000")  # one line an entry
        outcome = script(name, *flags, "--help")
        assert (outcome.code, outcome.lines) == (0, [])
        found = re.findall(r"^  (?:-h, )?(--[\w.]+)(?:, --no-\S+| \S+)?(?: +|\n +)(.*)$", outcome.out, re.MULTILINE)
        assert len(found) == len(dict(found)), "no flag twice"
        if not flags:
            BARE[name] = dict(found)
        return dict(found)

    return read


@pytest.mark.parametrize(("name", "chosen"), CHOICES)
def test_every_setting_of_the_chosen_kinds_is_there_with_its_meaning_and_nothing_else(name, chosen, entries):
    texts = entries(name, *(word for key, kind in chosen.items() for word in (f"--{key}", kind)))
    expected = {"--help", "--config"} | ({"--resume", "--dry_run", "--quick"} if name in TRAININGS else set())
    for dotted, field, schema in leaves(SCHEMAS[name], chosen):
        assert field.description, f"{schema.__name__}.{dotted} has no meaning"
        kind = getattr(schema.model_fields.get("kind"), "default", "")
        assert " ".join(field.description.split()).removeprefix(f"{kind}: ") in texts[f"--{dotted}"], dotted
        expected.add(f"--{dotted}")
    assert set(texts) == expected


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
        if value is None and texts[flag].endswith(("the whole section at once", "(default: as trained)")):
            continue  # a section that is not there, and a setting that stays what it was
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
    texts = entries("synth_train", "--config", tiny_yaml("c.yaml", {"optimizer.lr": 0.25, "train": GONE}))
    assert texts["--optimizer.lr"].endswith("(default: 0.25)")
    assert texts["--experiment_name"].endswith("(default: tiny)")
    assert texts["--model.attention.kind"].endswith("(default: shared_qk)")
    assert texts["--schedule.kind"].endswith("(default: constant)"), "what the file lacks has the schema's default"
    assert entries("cls_train", "--config", "cls_digits.yaml")["--data.dataset"].endswith("(default: digits)")


def test_the_flags_beside_it_count(entries):
    texts = entries("synth_train", "--model.attention.kind", "linformer", "--model.dim", "32", "--no_such_flag")
    assert texts["--model.dim"].endswith("(default: 128)"), "a wrong flag: the preset's"
    texts = entries("synth_train", "--model.attention.kind", "linformer", "--model.dim", "32")
    assert texts["--model.dim"].endswith("(default: 32)")
    assert "--model.attention.rank" in texts and "--model.attention.n_rounds" not in texts


def test_the_kind_comes_before_its_settings(entries):
    flags = list(entries("synth_train"))
    for section in ("--model.attention.", "--model.positions.", "--schedule."):
        assert next(flag for flag in flags if flag.startswith(section)) == f"{section}kind"


def test_what_has_no_value_is_required(entries):
    for name in TRAININGS:
        texts = entries(name, "--model.positions.kind", "axial")
        known = "(default: [12, 12])" if name == "generation_train" else "(required)"
        assert texts["--model.positions.shape"].endswith(known)
        others = [text for flag, text in texts.items() if flag != "--model.positions.shape"]
        assert not any(text.endswith("(required)") for text in others), "the preset has all"


def test_the_name_that_a_run_will_have(entries):
    assert entries("cls_train")["--experiment_name"].endswith("(default: mnist-cls-lsh-r4)")
    texts = entries("cls_train", "--model.attention.kind", "full", "--data.dataset", "cifar10")
    assert texts["--experiment_name"].endswith("(default: cifar10-cls-full)")


def test_help_is_no_longer_than_its_settings_need(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for name in TRAININGS:
        assert len(script(name, "--help").out.splitlines()) < 200


def test_usage_is_a_line(script):
    first, second, *_ = script("synth_train", "--help").out.splitlines()
    assert (first, second) == (
        "usage: synth_train.py [--config FILE.yaml] [--resume RUN] [--dry_run] [--quick] [--SETTING VALUE ...]",
        "",
    )
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
        "--schedule.kind {constant,noam,one_cycle,warmup_cosine,warmup_linear}",
        "--model.positions.kind {axial,learned,learned_sinusoidal,none,sinusoidal}",
    ):
        assert choices in out
    assert "--objective.kind {causal,masked}" in " ".join(script("lm_train", "--help").out.split())
    assert "--loss.kind {cross_entropy,focal}" in " ".join(script("generation_train", "--help").out.split())
    assert "--data.corpus.kind {csv,files,hub,parquet}" in " ".join(script("translation_train", "--help").out.split())


def test_what_is_no_flag_is_there_too(script):
    out = " ".join(script("translate", "--help").out.split())
    assert "standard input" in out
    assert "SENTENCE one or more; after -- they may start with a dash" in out
