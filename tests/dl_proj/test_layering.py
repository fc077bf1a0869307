"""The house: imports point downward, a script holds no logic, and only the engine knows the names of devices."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BELOW = {  # what each package may import of ours
    "my_transformers": set(),
    "my_custom_ai": set(),
    "dl_proj": {"my_transformers", "my_custom_ai"},
}
SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = {package: sorted((ROOT / package).rglob("*.py")) for package in BELOW}


def imported(path):
    """The first part of every module's name that a file imports, wherever in the file, of its own package too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            yield node.module.split(".")[0]


def test_there_is_something_to_look_at():
    assert all(MODULES.values())
    assert {path.stem for path in SCRIPTS} == {
        "synth_train",
        "synth_models_comparison",
        "cls_train",
        "generation_train",
        "mnist_generator",
        "evaluate",
        "shift_test",
        "performance_studies",
        "import_reformer",
        "lm_train",
        "lm_generate",
        "translation_train",
        "translation_evaluate",
        "translate",
        "sweep",
    }


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_downward(package):
    scripts = {path.stem for path in SCRIPTS}
    forbidden = (BELOW.keys() | scripts | {"tests"}) - BELOW[package] - {package}
    for path in MODULES[package]:
        assert not set(imported(path)) & forbidden, path


def test_the_attention_library_needs_torch_alone():
    allowed = {"torch", "my_transformers"}
    standard = sys.stdlib_module_names - {"io", "os", "pathlib", "pickle"}  # it reads no file
    for path in MODULES["my_transformers"]:
        assert set(imported(path)) <= allowed | standard, path


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_imports_our_packages_only(path):
    assert len(path.read_text().splitlines()) < 40
    assert set(imported(path)) <= {"dl_proj", "my_custom_ai", "my_transformers"}


def is_compared_with_a_type(node, parents):
    """``something.device.type == "cpu"``: asking a tensor where it is, not telling it where to go."""
    comparison = parents.get(node)
    return isinstance(comparison, ast.Compare) and any(
        isinstance(side, ast.Attribute) and side.attr == "type" for side in (comparison.left, *comparison.comparators)
    )


@pytest.mark.parametrize("package", ["my_transformers", "dl_proj"])
def test_no_device_is_named_below_the_engine(package):
    for path in MODULES[package]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                a_device = node.value.split(":")[0] in ("cpu", "cuda", "mps")
                assert not a_device or is_compared_with_a_type(node, parents), f"{path}:{node.lineno}: {node.value!r}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("cuda", "mps"), f"{path}:{node.lineno}: .{node.attr}"
