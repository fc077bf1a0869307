"""What the README and CONTRIBUTING say, runs: code, commands, files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


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
    for name in [*links, *paths, *scripts]:
        assert (ROOT / name).exists(), name


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"make (\w+)\b", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE) or target == "installs", target


@pytest.mark.parametrize("name", ["synth_train.py", "synth_models_comparison.py"])
def test_flags_that_are_named_are_accepted(name: str) -> None:
    """Every command of a script in the README parses and its configuration is valid."""
    from dl_proj.cli import CONFIGS
    from dl_proj.configs.load import load_config, parse_flags
    from dl_proj.configs.synth import SynthComparisonConfig, SynthTrainConfig

    schema, preset = {
        "synth_train.py": (SynthTrainConfig, "synth_train.yaml"),
        "synth_models_comparison.py": (SynthComparisonConfig, "synth_comparison.yaml"),
    }[name]
    commands = re.findall(rf"python {name}((?: [^\s`|#]+)*)", README)
    assert commands
    for command in commands:
        options, overrides = parse_flags(schema, [w for w in command.split() if w != "..."], CONFIGS / preset)
        load_config(schema, options.config or CONFIGS / preset, overrides)
