"""What is installed: requirements, versions, packages; and the command dl-proj."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def locked(name):
    """Versions in a lock file by the packages' names; one that differs between platforms has several."""
    versions = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", " ")):
            package, version = re.match(r"([a-z0-9-]+)==([^\s;]+)", line).groups()
            versions.setdefault(package, set()).add(version)
    return versions


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_what_is_locked_is_what_the_requirements_allow(name):
    """All of them, and no other version of what both lock."""
    versions = locked(f"{name}.lock")
    wanted = requirements("requirements.txt") | requirements(f"{name}.txt")
    for requirement in map(Requirement, wanted):
        found = versions.get(canonicalize_name(requirement.name), set())
        assert found, f"{requirement.name} is not locked: make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement}, {found}: make lock"
    for package, found in locked("requirements.lock").items():
        assert versions[package] == found, package


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_holds_versions_and_hashes_alone(name):
    """No place to download from, no local build; each file's hash, as pip demands of all or of none."""
    entries = re.split(r"\n(?=\S)", "\n" + (ROOT / name).read_text(encoding="utf-8").strip())
    entries = [entry for entry in entries if entry and not entry.startswith("#")]
    for entry in entries:
        head, *hashes = entry.split(" \\\n")
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( ; [^/@]+)?", head), entry
        assert hashes and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), head


def test_torch_and_torchvision_are_of_one_release():
    """As torchvision demands: 0.N belongs to torch 2.(N - 15)."""
    versions = locked("requirements.lock")
    (torch,), (torchvision,) = versions["torch"], versions["torchvision"]
    assert int(torchvision.split(".")[1]) == int(torch.split(".")[1]) + 15


@pytest.mark.parametrize(
    ("words", "good", "asked"),
    [([], "lock", ["lock"]), ([], "txt", ["lock", "txt"]), (["LOCK=no"], "txt", ["txt"])],
    ids=["locked", "not to be had", "not wanted"],
)
@pytest.mark.parametrize(("target", "name"), [("setup", "requirements"), ("setup-dev", "requirements-dev")])
def test_make_installs_what_is_locked_or_says_that_it_cannot(target, name, words, good, asked, tmp_path):
    """With a pip that only notes what it is asked for, and knows one kind of file."""
    for file in [ROOT / "Makefile", *ROOT.glob("requirements*")]:
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "v/bin").mkdir(parents=True)
    (tmp_path / "v/bin/python").touch()
    (tmp_path / "pip").write_text(f'echo "$2" >> asked; case "$2" in *.{good});; *) echo no >&2; exit 1;; esac\n')
    command = ["make", "--silent", target, "VENV=v", "PIP=sh pip", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "asked").read_text().split() == [f"{name}.{kind}" for kind in asked]
    lines = done.stdout.splitlines()
    assert len(lines) == len(asked) - 1
    assert not lines or (f"{name}.lock" in lines[0] and (tmp_path / f"v/{name}.log").read_text() == "no\n")
    assert (tmp_path / "v/.installed").exists(), "nor is it asked for again"


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
