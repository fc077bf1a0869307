"""What the README and CONTRIBUTING say, runs: code, commands, files."""

import re
import shlex
from pathlib import Path
from pkgutil import resolve_name

import pytest

from dl_proj.cli import CONFIGS
from dl_proj.commands import COMMANDS
from dl_proj.settings.load import file_or_preset, load_config, parse_flags

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_EXAMPLES = re.compile("cosine|stripes|parity")  # what docs/extend.md tells its reader to write


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """In text and commands; tests/website/test_links.py follows links."""
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"\b(?:dl_proj|my_transformers|my_custom_ai|tests)/[\w./-]+\.(?:py|yaml)", text)
    scripts = re.findall(r"(?<![\w/])(\w+\.py)\b(?= )", "\n".join(re.findall(r"python (.*)", text)))
    missing = [name for name in [*paths, *scripts] if not (ROOT / name).exists()]
    assert [name for name in missing if page.name != "extend.md" or not _EXAMPLES.search(name)] == []


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"make (\w+)\b", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE) or target == "installs", target


def test_every_command_has_a_script_that_calls_it() -> None:
    assert {f"{name}.py" for name in COMMANDS} == {path.name for path in ROOT.glob("*.py")}
    for name in COMMANDS:
        assert f'run_script("{name}")' in (ROOT / f"{name}.py").read_text(encoding="utf-8")


_WORD = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s`|#"']+)"""  # in quotes, or without spaces


def commands() -> list[tuple[str, str]]:
    """Name and flags of every command in the README, the pages under docs and the scripts' own first lines."""
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, *(ROOT / f"{name}.py" for name in COMMANDS)]]
    found = [
        match for text in texts for match in re.findall(rf"(?:python|dl-proj) ([\w-]+(?:\.py)?)((?: {_WORD})*)", text)
    ]
    named = {(name.removesuffix(".py").replace("-", "_"), flags.rstrip(".")) for name, flags in found}
    return sorted((name, flags) for name, flags in named if name in COMMANDS and not _EXAMPLES.search(flags))


def test_every_script_has_a_command() -> None:
    assert {name for name, _ in commands()} >= COMMANDS.keys()


@pytest.mark.parametrize(("name", "flags"), commands(), ids=lambda part: part.strip())
def test_flags_that_are_named_are_accepted(name: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command parses and its configuration is valid."""
    monkeypatch.chdir(ROOT)
    command = COMMANDS[name]
    schema = resolve_name(command.schema)
    given = [w for w in shlex.split(flags) if w not in ("...", "--help")]
    options, overrides = parse_flags(schema, given, CONFIGS / command.preset, words=command.words)
    load_config(schema, file_or_preset(options.config or CONFIGS / command.preset, CONFIGS), overrides)
