"""The container: its Dockerfile passes a linter, runs as no root, installs what is locked, and copies what there is."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def loaded():
    spec = importlib.util.spec_from_file_location("container", ROOT / ".ci/container.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


container = loaded()
STEPS = container.steps(DOCKERFILE, {})


def test_the_linter_finds_nothing():
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, ""), found


def test_base_has_a_python_of_the_range():
    wanted = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    (base,) = [rest for word, rest in container.instructions(DOCKERFILE) if word == "ARG" and rest.startswith("BASE=")]
    assert wanted.contains(re.fullmatch(r"BASE=python:(\d+\.\d+)-slim", base)[1])
    assert ("FROM", "${BASE}") in container.instructions(DOCKERFILE)


def test_root_installs_packages_alone():
    """The project and its requirements belong to a user without rights, who runs the command."""
    by_root = [step for step in STEPS if step.user == "0"]
    assert [step.word for step in by_root] == ["RUN", "RUN"]
    assert "apt-get" in by_root[0].rest and "useradd" in by_root[1].rest
    assert STEPS[-1].word == "CMD" and STEPS[-1].user == "1000"
    assert container.steps(DOCKERFILE, {"UID": "1234"})[-1].user == "1234"


def test_requirements_are_those_locked_with_hashes():
    (install,) = [step for step in STEPS if "pip install" in step.rest]
    assert "--require-hashes --requirement requirements.lock" in install.rest
    before = STEPS[: STEPS.index(install)]
    assert any(step.word == "COPY" and "requirements.lock" in step.rest for step in before)
    assert not any(step.rest.endswith(" . .") for step in before), "or each edit would install them again"


def test_command_is_a_target_that_uses_what_is_installed():
    """make takes this environment for its own, and for complete."""
    command = json.loads(STEPS[-1].rest)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert command == ["make", "demo"] and re.search(r"^demo: setup$", makefile, re.MULTILINE)
    assert re.search(r"^VENV \?=", makefile, re.MULTILINE) and re.search(
        r"^setup: \$\(VENV\)/\.installed$", makefile, re.M
    )
    (install,) = [step for step in STEPS if "pip install" in step.rest]
    assert install.variables["VENV"] == STEPS[-1].variables["VENV"] == "/opt/venv"
    assert install.rest.endswith('touch "$VENV/.installed"')


def test_what_is_copied_exists_and_is_not_ignored():
    files = container.context()
    for step in STEPS:
        if step.word == "COPY":
            sources = [word for word in step.rest.split() if not word.startswith("--")][:-1]
            assert [name for name in sources if name != "." and name not in files] == []
    needed = {"Makefile", "synth_train.py", "dl_proj/configs/demo.yaml", "my_transformers/reference.py"}
    assert needed <= {*files}
    patterns = container.patterns_in(ROOT / ".dockerignore")
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    assert {*tracked.split("\0")} - {""} == {*files}, "the image has all that git has"
    for name in (".git/config", ".venv/bin/python", "runs/x/config.yaml", "data/a", "a/__pycache__/b.pyc", "a/b.part"):
        assert container.ignored(name, patterns), name
    of_git = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line}
    assert {pattern.removeprefix("**/") for pattern in patterns} == of_git | {".git"}


@pytest.mark.parametrize("step", [step for step in STEPS if step.word == "RUN"], ids=lambda step: step.rest[:20])
def test_steps_are_commands_of_a_shell(step):
    checked = subprocess.run(["sh", "-n", "-c", step.rest], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "&&" in step.rest and ";" not in re.sub(r"\{.*?\}", "", step.rest), "a step that fails ends the build"


def test_reader_of_the_dockerfile():
    """What .ci/container.py makes of continued lines, variables and their defaults."""
    variables = "ENV A=1 \\\n    P=/v:$PATH\n"
    text = f"ARG B=x\nFROM ${{B}}\n# no step\n{variables}USER u\nWORKDIR /w\nRUN a \\\n  # inside\n  && b $A\n"
    (step,) = container.steps(text, {})
    assert (step.word, step.rest, step.user, step.folder) == ("RUN", "a && b $A", "u", "/w")
    assert step.variables["A"] == "1" and step.variables["P"].startswith("/v:/usr/local/sbin")
    assert step.variables["B"] == "x" and container.steps(text, {"B": "y"})[0].variables["B"] == "y"
