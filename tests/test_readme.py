"""What the README and CONTRIBUTING say, runs: code, commands, files."""

import re
import shlex
from pathlib import Path

import pytest

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
from dl_proj.settings.load import load_config, parse_flags
from dl_proj.studies.settings import PerformanceConfig
from my_transformers import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "gpu.md"]


def test_python_blocks_run_in_order() -> None:
    """In one namespace, as a reader would paste them."""
    namespace: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["y"].shape == (2, 1000, 256)


def test_the_first_example_is_three_lines() -> None:
    first = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    lines = [line for line in first.splitlines() if line and not line.startswith("import torch")]
    assert len(lines) <= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    paths = re.findall(r"\b(?:dl_proj|my_transformers|my_custom_ai|tests)/[\w./-]+\.(?:py|yaml)", text)
    scripts = re.findall(r"(?<![\w/])(\w+\.py)\b(?= )", "\n".join(re.findall(r"python (.*)", text)))
    assert links or paths or scripts
    for place, names in [(page.parent, links), (ROOT, [*paths, *scripts])]:
        assert [name for name in names if not (place / name).exists()] == []


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"make (\w+)\b", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE) or target == "installs", target


def test_the_table_of_mechanisms_says_what_is_declared() -> None:
    table, after = re.search(r"^\| `kind` \|.*\n((?:\|.*\n)+)\n(.*)$", README, flags=re.MULTILINE).groups()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    assert [row[0] for row in rows] == [f"`{settings.kind}`" for settings in SETTINGS]
    for (_, file, *_, causal, cross, _), settings in zip(rows, SETTINGS, strict=True):
        mechanism = settings.mechanism
        assert file.endswith(f"({mechanism.__module__.replace('.', '/')}.py)")
        assert (causal == "refused") == (True not in mechanism.directions)
        assert cross == ("yes" if mechanism.cross else "no")
    assert set(re.findall(r"`(\w+)`", after)) == {one.kind for one in SETTINGS if one.mechanism.needs_max_len}


SCRIPTS = {  # each script's schema and preset
    "synth_train.py": (SynthTrainConfig, "synth_train.yaml"),
    "synth_models_comparison.py": (SynthComparisonConfig, "synth_comparison.yaml"),
    "cls_train.py": (ClassifierTrainConfig, "cls_train.yaml"),
    "generation_train.py": (GeneratorTrainConfig, "gen_train.yaml"),
    "mnist_generator.py": (DrawConfig, "mnist_generator.yaml"),
    "evaluate.py": (EvaluateConfig, "evaluate.yaml"),
    "shift_test.py": (ShiftConfig, "shift_test.yaml"),
    "performance_studies.py": (PerformanceConfig, "perf_study.yaml"),
    "lm_train.py": (LanguageTrainConfig, "lm_books.yaml"),
    "lm_generate.py": (ContinueTextConfig, "lm_generate.yaml"),
    "sweep.py": (SweepConfig, "sweep_lm_books.yaml"),
    "import_reformer.py": (ImportReformerConfig, "import_reformer.yaml"),
    "translation_train.py": (TranslationTrainConfig, "translation_multi30k.yaml"),
    "translation_evaluate.py": (TranslationEvaluateConfig, "translation_evaluate.yaml"),
    "translate.py": (TranslateConfig, "translate.yaml"),
}
TAKE_WORDS = {"translate.py"}  # besides flags


def test_the_table_has_every_script_and_its_preset() -> None:
    assert SCRIPTS.keys() == {path.name for path in ROOT.glob("*.py")}
    for name, (schema, preset) in SCRIPTS.items():
        source = (ROOT / name).read_text(encoding="utf-8")
        assert f"({schema.__name__}, argv, preset={preset!r}".replace("'", '"') in source
        assert ("words=" in source) == (name in TAKE_WORDS)


_WORD = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s`|#"']+)"""  # in quotes, or without spaces


def commands() -> list[tuple[str, str]]:
    """Script and flags of every command in the README and in the scripts' own first lines."""
    texts = [README, *((ROOT / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    found = [match for text in texts for match in re.findall(rf"python (\w+\.py)((?: {_WORD})*)", text)]
    return sorted({(name, flags.rstrip(".")) for name, flags in found})


def test_every_script_has_a_command() -> None:
    assert {name for name, _ in commands()} >= SCRIPTS.keys()


@pytest.mark.parametrize(("name", "flags"), commands(), ids=lambda part: part.strip())
def test_flags_that_are_named_are_accepted(name: str, flags: str) -> None:
    """Every command parses and its configuration is valid."""
    schema, preset = SCRIPTS[name]
    given = [w for w in shlex.split(flags) if w != "..."]
    options, overrides = parse_flags(schema, given, CONFIGS / preset, words="X" if name in TAKE_WORDS else None)
    load_config(schema, ROOT / (options.config or CONFIGS / preset), overrides)
