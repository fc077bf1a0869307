"""Flags are read before anything heavy is imported: --help and a wrong flag answer at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dl_proj.commands import COMMANDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEAVY = {
    *(
        "torch",
        "torchvision",
        "accelerate",
        "safetensors",
        "numpy",
        "scipy",
        "sklearn",
        "matplotlib",
        "PIL",
        "tokenizers",
    ),
    *("datasets", "pandas", "pyarrow", "huggingface_hub", "transformers", "sacrebleu", "tensorboard"),
}
PROGRAM = """
import contextlib, io, json, sys, time

from dl_proj.commands import run_script


def first_heavy(heavy):
    return sorted(heavy & {name.partition(".")[0] for name in sys.modules})


names, heavy, found = json.loads(sys.argv[1]), {*json.loads(sys.argv[2])}, {}
for name in names:
    for flags, end in (["--help"], 0), (["--no_such_flag", "1"], 2):
        sys.argv, since = [f"{name}.py", *flags], time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                run_script(name)
                code = None
            except SystemExit as error:
                code = error.code or 0
        assert code == end, (name, flags, code)
        found[f"{name} {flags[0]}"] = (first_heavy(heavy), time.perf_counter() - since)
print(json.dumps(found))
"""


def in_a_new_process(program, *words):
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_and_a_wrong_flag_import_nothing_heavy():
    """All commands in one process: the first whose settings import something heavy shows it, and those after it."""
    found = in_a_new_process(PROGRAM, json.dumps(list(COMMANDS)), json.dumps(sorted(HEAVY)))
    assert len(found) == 2 * len(COMMANDS)
    for case, (heavy, seconds) in found.items():
        assert not heavy, (
            f"{case} imports {', '.join(heavy)}: schemas and what they import must not; "
            f"`python -X importtime {case.split()[0]}.py --help` shows which module does"
        )
        assert seconds < 5, f"{case} took {seconds:.1f} s"  # 0.05 on an idle machine


@pytest.mark.parametrize("module", ["my_transformers", "my_custom_ai", "my_custom_ai.custom_train", "dl_proj.commands"])
def test_a_package_itself_imports_nothing_heavy(module):
    program = f"import json, sys, {module}; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    assert not HEAVY & {*in_a_new_process(program)}


@pytest.mark.parametrize("package", ["my_transformers", "my_custom_ai.custom_train"])
def test_public_names_are_all_there(package):
    """By attribute, by `from ... import *` and by dir; others are not."""
    program = f"""
import json, {package} as package
from {package} import *
from {package} import exports
assert all(globals()[name] is getattr(package, name) is getattr(exports, name) for name in exports.__all__)
assert {{*exports.__all__}} <= {{*dir(package)}}
assert not hasattr(package, "import_module_of") and not hasattr(package, "__wrapped__")
print(json.dumps(len(exports.__all__)))
"""
    assert in_a_new_process(program) > 10
