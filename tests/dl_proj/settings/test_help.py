"""--help: every setting, with its meaning and the default that it really has."""

import json
import re

import pytest
import tiny_scripts

from dl_proj.cli import CONFIGS
from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.evaluate_settings import EvaluateConfig
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.shift_settings import ShiftConfig
from dl_proj.experiments.images.generation.settings import DrawConfig, GeneratorTrainConfig
from dl_proj.experiments.language.import_settings import ImportReformerConfig
from dl_proj.experiments.language.settings import ContinueTextConfig, LanguageTrainConfig
from dl_proj.experiments.sweep_settings import SweepConfig
from dl_proj.experiments.translation.settings import TranslateConfig, TranslationEvaluateConfig, TranslationTrainConfig
from dl_proj.settings.help import models_in
from dl_proj.studies.settings import PerformanceConfig
from my_transformers import SETTINGS

SCRIPTS = {
    "synth_train": SynthTrainConfig,
    "synth_models_comparison": SynthComparisonConfig,
    "cls_train": ClassifierTrainConfig,
    "generation_train": GeneratorTrainConfig,
    "mnist_generator": DrawConfig,
    "evaluate": EvaluateConfig,
    "shift_test": ShiftConfig,
    "performance_studies": PerformanceConfig,
    "lm_train": LanguageTrainConfig,
    "lm_generate": ContinueTextConfig,
    "sweep": SweepConfig,
    "import_reformer": ImportReformerConfig,
    "translation_train": TranslationTrainConfig,
    "translation_evaluate": TranslationEvaluateConfig,
    "translate": TranslateConfig,
}
TRAINING = {"experiment_name": "x", "train.max_steps": 9}
NEEDED = {  # what a configuration must be given, at dotted keys
    "synth_train": TRAINING,
    "synth_models_comparison": {"checkpoints": ["x"]},
    "cls_train": TRAINING,
    "generation_train": TRAINING,
    "mnist_generator": {},
    "evaluate": {},
    "shift_test": {"checkpoints": ["x"]},
    "performance_studies": {},
    "lm_train": TRAINING | {"data.path": "x"},
    "lm_generate": {"checkpoint": "x"},
    "import_reformer": {"source": "x"},
    "translation_train": TRAINING | {"data.corpus.kind": "files", "data.corpus.folder": "x"},
    "translation_evaluate": {"checkpoint": "x"},
    "translate": {"checkpoint": "x"},
    "sweep": {"base": "x", "variants": {"x": {}}, "output_dir": "x"},
}
TRAININGS = ["synth_train", "cls_train", "generation_train", "lm_train", "translation_train"]
PRESETS = {
    "synth_train": "synth_train.yaml",
    "synth_models_comparison": "synth_comparison.yaml",
    "cls_train": "cls_train.yaml",
    "generation_train": "gen_train.yaml",
    "mnist_generator": "mnist_generator.yaml",
    "evaluate": "evaluate.yaml",
    "shift_test": "shift_test.yaml",
    "performance_studies": "perf_study.yaml",
    "lm_train": "lm_books.yaml",
    "lm_generate": "lm_generate.yaml",
    "sweep": "sweep_lm_books.yaml",
    "import_reformer": "import_reformer.yaml",
    "translation_train": "translation_multi30k.yaml",
    "translation_evaluate": "translation_evaluate.yaml",
    "translate": "translate.yaml",
}


def test_every_script_is_looked_at():
    assert set(SCRIPTS) == set(tiny_scripts.SCRIPTS) == set(PRESETS)


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

    def read(name):
        monkeypatch.setenv("COLUMNS", "1000")  # one line an entry
        outcome = script(name, "--help")
        assert (outcome.code, outcome.lines) == (0, [])
        found = re.findall(r"^  (?:-h, )?(--[\w.]+)(?:, --no-\S+| \S+)?(?: +|\n +)(.*)$", outcome.out, re.MULTILINE)
        assert len(found) == len(dict(found)), "no flag twice"
        return dict(found)

    return read


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_setting_is_there_with_its_meaning(name, entries):
    texts = entries(name)
    for dotted, field, schema in leaves(SCRIPTS[name]):
        assert field.description, f"{schema.__name__}.{dotted} has no meaning"
        assert " ".join(field.description.split()) in texts[f"--{dotted}"], dotted


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_else_is_there(name, entries):
    flags = {f"--{dotted}" for dotted, _, _ in leaves(SCRIPTS[name])}
    sections = {flag.rpartition(".")[0] for flag in flags} - {""}
    own = {"--help", "--config"} | ({"--resume"} if name in TRAININGS else set())
    assert set(entries(name)) == flags | sections | own


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_default_twice(name, entries):
    for flag, text in entries(name).items():
        assert text.count("default: ") <= 1, f"{flag} {text}"
        assert "ifdef" not in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_defaults_are_those_that_a_configuration_gets(name, entries):
    """Of the usual kinds, from a configuration that was given nothing but what is needed."""
    config = SCRIPTS[name].model_validate(tiny_scripts.changed({}, NEEDED[name]))
    texts = entries(name)

    def compare(values, prefix="--"):
        for key, value in values.items():
            flag = prefix + key
            if isinstance(value, dict):
                compare(value, f"{flag}.")
            elif flag.removeprefix("--") not in NEEDED[name]:
                shown = value if isinstance(value, str) else json.dumps(value)
                assert f"(default: {shown})" in texts[flag] or f"(default: {shown};" in texts[flag], texts[flag]

    compare(config.model_dump(mode="json"))
    assert "(default: null)" in texts.get("--train.max_steps", "(default: null)")


def test_a_default_that_depends_on_the_kind(entries):
    texts = entries("synth_train")
    assert texts["--schedule.warmup_steps"].endswith("(default: 0; noam: 4000)")
    assert texts["--schedule.warmup_share"].endswith("(default: 0.3)")


def test_a_meaning_that_depends_on_the_kind(entries):
    kernel = entries("synth_train")["--model.attention.kernel"]
    assert kernel.startswith("performer: what the features' products estimate")
    assert "; relative: as for performer, or exact:" in kernel
    assert kernel.count("clipped_relative:") == 1
    assert entries("synth_train")["--model.attention.dropout"].count("probability") == 1, "said once if all kinds agree"


def test_what_has_no_default_is_needed(entries):
    for name in TRAININGS:
        texts = entries(name)
        assert texts["--experiment_name"].endswith("(needed)")
        assert texts["--model.positions.shape"].endswith("(needed)")
    for name in ("synth_models_comparison", "shift_test"):
        assert entries(name)["--checkpoints"].endswith("(needed)")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_files_and_runs_to_start_from(name, entries):
    texts = entries(name)
    assert re.search(rf"\(default: \S*dl_proj/configs/{re.escape(PRESETS[name])}\)$", texts["--config"])
    assert (CONFIGS / PRESETS[name]).is_file()
    assert "last" in texts.get("--resume", "last")


def test_help_wins_over_a_file_that_is_not_there(script):
    for name in SCRIPTS:
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
    assert "[SENTENCE ...]" in out
    assert "SENTENCE one or more, after -- also such that look like flags; none: standard input, one a line" in out
