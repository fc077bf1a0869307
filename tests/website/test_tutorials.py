"""The tutorials run at a small size, where their asserts hold too, and their notebooks are up to date."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT

SCRIPTS = sorted((ROOT / "docs/tutorials").glob("*.py"))


def test_there_are_tutorials() -> None:
    assert len(SCRIPTS) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_tutorial_runs_at_a_small_size(script: Path, tmp_path: Path) -> None:
    variables = {"TUTORIAL_SIZE": "small", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_notebook_is_executed_and_has_its_scripts_cells(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="what executes the tutorials is not installed: make setup-dev")
    cells = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    written = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == written
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "".join(code[-1]["source"]).startswith("assert ")
