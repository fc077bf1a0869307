"""What is installed: requirements, versions, packages; and the command dl-proj."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dl_proj import commands

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("my_transformers", "my_custom_ai", "dl_proj")


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_make_installs_what_pip_does():
    extras = PROJECT["optional-dependencies"]
    assert requirements("requirements.txt") == {*PROJECT["dependencies"], *extras["experiments"]}
    assert requirements("requirements-dev.txt") == {*extras["dev"]} - {"dl-proj[experiments]"}


def test_the_libraries_import_what_is_required_and_no_more():
    """At a module's top; what is imported inside of a function is optional, as triton_*.py and so Triton is."""
    found = set()
    for path in [*(ROOT / "my_transformers").rglob("*.py"), *(ROOT / "my_custom_ai").rglob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    required = {re.match(r"[\w-]+", line)[0].replace("pyyaml", "yaml") for line in PROJECT["dependencies"]}
    assert found - sys.stdlib_module_names - {*PACKAGES, "triton"} == required


@pytest.mark.slow
def test_the_libraries_work_without_the_extra(tmp_path):
    extra = [re.match(r"[\w-]+", line)[0].replace("-", "_") for line in PROJECT["optional-dependencies"]["experiments"]]
    hidden = "; ".join(
        f"sys.modules['{name}'] = None" for name in extra if name != "huggingface_hub"
    )  # accelerate's own
    program = f"import sys; {hidden}; from my_custom_ai.custom_train import *; from my_transformers import *"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == PROJECT["version"]
    assert PROJECT["version"] in changes


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed_and_all_of_it_is_installed(package):
    assert (ROOT / package / "py.typed").is_file()
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def call(*flags, first="", folder):
    """The command in a process of its own, elsewhere, after a line of Python."""
    program = f"import sys; {first or 'pass'}; from dl_proj.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *flags],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_help_has_a_line_for_each_command(capsys, monkeypatch):
    for words in (["--help"], []):
        monkeypatch.setattr(sys, "argv", ["dl-proj", *words])
        commands.main()
        lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        expected = {name.replace("_", "-"): command.summary for name, command in commands.COMMANDS.items()}
        assert dict(lines) == expected


def test_a_command_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dl-proj", "cls-trian"])
    with pytest.raises(SystemExit) as end:
        commands.main()
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert "cls-trian" in line and "cls-train" in line and line.count("\n") == 1


@pytest.mark.slow
def test_a_command_works_in_any_folder(tmp_path):
    """With a preset by its name; what it writes goes to the folder."""
    flags = [
        "--train.max_steps",
        "1",
        "--train.epochs",
        "null",
        "--schedule.warmup_steps",
        "0",
        "--train.device",
        "cpu",
    ]
    done = call("cls-train", "--config", "cls_digits.yaml", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert (tmp_path / "runs" / "digits-cls-lsh-r4" / "version_0" / "metrics.json").is_file()


@pytest.mark.slow
def test_a_file_comes_before_the_preset_of_its_name(tmp_path):
    (tmp_path / "cls_digits.yaml").write_text("colour: red\n")
    done = call("cls-train", "--config", "cls_digits.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "cls_digits.yaml: colour: " in done.stderr


def test_a_preset_that_is_not_there(tmp_path):
    done = call("cls-train", "--config", "cls_digit.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("cls_digit.yaml: ") and "cls_digits.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("package", ["pydantic", "matplotlib"])
def test_without_the_extra_a_line_names_it(package, tmp_path):
    """Needed to read flags, or by the work behind them."""
    done = call("synth-models-comparison", first=f"sys.modules['{package}'] = None", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert package in done.stderr and "[experiments]" in done.stderr and done.stderr.count("\n") == 1
