"""How the code is laid out: imports point downward and in no circle, files and functions are short, tests mirror."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {  # what each package may import of ours
    "my_transformers": set(),
    "my_custom_ai": set(),
    "dl_proj": {"my_transformers", "my_custom_ai"},
}
FLOORS = (  # of dl_proj, from the top: a room imports from those further down, and from itself
    ("__main__",),
    ("exporting", "hub", "looking"),
    ("experiments", "studies"),
    ("cli",),
    ("checkpoint_folder", "run_changes", "pictures", "tables"),
    ("figure_style", "models", "text"),
    ("settings", "commands"),
)
SCRIPTS = sorted(ROOT.glob("*.py"))
FOR_TRANSFORMERS = ROOT / "my_transformers" / "interop" / "transformers.py"
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
        "predict",
        "generation_train",
        "mnist_generator",
        "evaluate",
        "shift_test",
        "performance_studies",
        "import_reformer",
        "lm_train",
        "lm_generate",
        "lra_train",
        "lra_examples",
        "translation_train",
        "translation_evaluate",
        "translate",
        "sweep",
        "attention_maps",
        "export",
        "compare_runs",
        "baselines",
    }


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_downward(package):
    scripts = {path.stem for path in SCRIPTS}
    forbidden = (BELOW.keys() | scripts | {"tests"}) - BELOW[package] - {package}
    for path in MODULES[package]:
        assert not set(imported(path)) & forbidden, path


def test_the_attention_library_needs_torch_alone():
    """Its Triton kernels are imported where they are asked for, and kernels.py reads an environment variable.

    One module knows the transformers library; the next test says when it imports it.
    """
    allowed = {"torch", "my_transformers"}
    standard = sys.stdlib_module_names - {"io", "os", "pathlib", "pickle"}  # it reads no file
    for path in MODULES["my_transformers"]:
        more = {"triton"} if is_for_triton(path) else {"os"} if path.name == "kernels.py" else set()
        more = {"transformers"} if path == FOR_TRANSFORMERS else more
        assert set(imported(path)) <= allowed | standard | more, path


def test_transformers_is_imported_by_functions_alone():
    top = ast.parse(FOR_TRANSFORMERS.read_text(encoding="utf-8")).body
    top = [node for node in top if not isinstance(node, ast.FunctionDef)]
    assert "transformers" in set(imported(FOR_TRANSFORMERS))
    assert not [
        node for node in top if "import transformers" in ast.unparse(node) or "from transformers" in ast.unparse(node)
    ]


def is_for_triton(path):
    return path.name.startswith("triton_")


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
        if is_for_triton(path) or path.name == "kernels.py":  # which run on one kind of device, and what chooses them
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                a_device = node.value.split(":")[0] in ("cpu", "cuda", "mps")
                assert not a_device or is_compared_with_a_type(node, parents), f"{path}:{node.lineno}: {node.value!r}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("cuda", "mps"), f"{path}:{node.lineno}: .{node.attr}"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for paths in MODULES.values() for path in paths}


def imported_at_start(module):
    """Our modules that a module imports when it is imported itself.

    Not those that a function imports when it is called, nor those of which only a type checker hears.
    """
    todo = list(ast.parse(FILES[module].read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            yield from names or {node.module} & FILES.keys()
        todo += ast.iter_child_nodes(node)


def test_no_import_is_circular():
    graph = {module: set(imported_at_start(module)) - {module} for module in FILES}
    assert sum(map(len, graph.values())) > len(FILES), "or no import is seen"
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_rooms_import_from_floors_below():
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {module: module.split(".")[1] for module in FILES if module.startswith("dl_proj.")}
    assert set(rooms.values()) == floor_of.keys(), "a new room needs a floor"
    for module, room in rooms.items():
        for other in imported_at_start(module):
            if rooms.get(other, room) != room:
                assert floor_of[rooms[other]] > floor_of[room], f"{module} imports {other}"


@pytest.mark.parametrize("package", BELOW)
def test_files_have_at_most_400_lines(package):
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES[package]}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("package", BELOW)
def test_functions_have_at_most_50_lines(package):
    """Without their docstring. A Triton kernel, whose arguments and state cannot be grouped, may have 20 more."""
    long = {}
    for path in MODULES[package]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                is_kernel = any(ast.unparse(decorator).startswith("triton.jit") for decorator in node.decorator_list)
                length = node.end_lineno - node.lineno + 1 - docstring
                if length > (70 if is_kernel else 50):
                    long[f"{path}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_folders_of_tests_mirror_those_of_the_packages():
    """Beside them ``contract``, with tests of every mechanism, and ``torture``, which ``make test`` leaves out."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder).is_dir()] == ["contract", "torture"]
