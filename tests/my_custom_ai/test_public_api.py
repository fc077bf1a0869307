"""What a reader finds first, runs: the page docs/engine.md, the package's docstring, the names that it exports."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import my_custom_ai
from my_custom_ai import RunDirectory, load_weights

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(code, namespace):
    exec(compile(code, "example", "exec"), namespace)


def test_the_example_is_at_most_25_lines():
    assert len([line for line in blocks(PAGE)[0].splitlines() if line]) <= 25


def test_the_page_trains_a_model_and_continues_it(capsys):
    first, best, resumed = blocks(PAGE)
    namespace = {}
    run(first, namespace)
    figures = namespace["trainer"].evaluate(namespace["test"])
    assert figures["accuracy"] > 0.95
    assert capsys.readouterr().out.startswith("runs/circle/version_0 {'loss': ")
    trained = {name: value.clone() for name, value in namespace["model"].state_dict().items()}
    torch.nn.init.zeros_(namespace["model"][0].weight)
    run(best, namespace)
    assert all(torch.equal(value, trained[name]) for name, value in namespace["model"].state_dict().items())
    run(resumed, namespace)
    assert (namespace["trainer"].step, namespace["trainer"].run.path) == (400, Path("runs/circle/version_0"))
    rows = namespace["trainer"].run.metrics.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]].count("10") == 1 and len(rows) == 1 + 40 + 4, "one history"


def test_a_path_names_an_experiment_with_a_new_folder_each_time():
    namespace = {}
    for _ in range(2):
        run(blocks(my_custom_ai.__doc__)[0], namespace)
    runs = [RunDirectory(f"runs/squares/version_{i}") for i in range(2)]
    assert [path.name for path in sorted(Path("runs/squares").iterdir())] == [run.path.name for run in runs]
    for made in runs:
        load_weights(str(made.best_weights), namespace["model"])
        assert (namespace["model"].weight - 1).abs().max() < 0.05, "the sum of the inputs"
        assert "total_steps: 200" in made.config.read_text()
    with pytest.raises(ValueError, match=r"version_0 is the folder of an existing run; pass RunDirectory\('"):
        run(blocks(my_custom_ai.__doc__)[0].replace("/squares", "/squares/version_0"), namespace)


def test_every_exported_name_is_there_and_importing_the_package_imports_no_torch():
    assert {"Trainer", "Pace", "Ratio", "Objective", "Monitor", "RunDirectory", "start", "schedules"} <= set(
        my_custom_ai.__all__
    )
    assert all(hasattr(my_custom_ai, name) and name in dir(my_custom_ai) for name in my_custom_ai.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        _ = my_custom_ai.Trainr
    code = "import sys, my_custom_ai; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_module_can_be_the_first_that_is_imported():
    folder = ROOT / "my_custom_ai"
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(folder.rglob("*.py"))]
    program = f"""
import sys
from importlib import import_module
for name in {[name.removesuffix(".__init__") for name in names]}:
    for known in [known for known in sys.modules if known.startswith("my_custom_ai")]:
        del sys.modules[known]
    import_module(name)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
