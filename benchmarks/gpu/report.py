"""Print the tables of a plan's results as Markdown: python -m benchmarks.gpu.report [folder].

The folder is a plan's output_dir (default runs/gpu), or benchmarks/results, which has the results of all cards.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import PLAN, Stage
from dl_proj.tables import markdown


def report(folder: Path) -> str:
    """The tables of all stages with results in a folder, in the plan's order."""
    parts = [_section(stage, path) for stage in PLAN for path in _files(stage, folder)]
    state = folder / "plan.json"
    if state.exists():
        became = json.loads(state.read_text(encoding="utf-8"))
        parts.insert(0, markdown([{"stage": name, "last call": text} for name, text in became.items()]))
    return "\n\n".join(parts) + "\n"


def _files(stage: Stage, folder: Path) -> list[Path]:
    return [*folder.glob(f"{stage.name}.json"), *sorted(folder.glob(f"gpu_*_{stage.name}.json"))]


def _section(stage: Stage, path: Path) -> str:
    results = json.loads(path.read_text(encoding="utf-8"))
    tables = importlib.import_module(f"benchmarks.gpu.{stage.module}").tables(results)
    parts = [f"## {stage.name}: {stage.about}", _origin(results)]
    parts += [f"### {title}\n\n{markdown(rows)}" for title, rows in tables.items() if rows]
    if failed := _failed(results):
        parts.append(f"### {stage.name}: failed cases\n\n{markdown(failed)}")
    return "\n\n".join(parts)


def _origin(results: dict[str, Any]) -> str:
    machine = results["machine"]
    size = "a rehearsal, too small to mean anything; " if results["tiny"] else ""
    state = "complete" if results["complete"] else "not complete"
    cuda = f", CUDA {machine['cuda']}, driver {machine['driver']}" if "cuda" in machine else ""
    return f"{machine['device']}, torch {machine['torch']}{cuda}; {results['date']}; {size}{state}."


def _failed(results: dict[str, Any]) -> list[dict[str, str]]:
    failed = {key: case["error"] for key, case in results["cases"].items() if "error" in case}
    return [{"case": key, "error": one_line(error)} for key, error in failed.items()]


def one_line(text: str) -> str:
    """A message shortened to one line of a table cell."""
    return " ".join(text.replace("|", "\\|").split())[:300]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/gpu"))
    folder = parser.parse_args().folder
    if not any(path for stage in PLAN for path in _files(stage, folder)):
        parser.error(f"no results of a stage in {folder}")
    print(report(folder))


if __name__ == "__main__":
    main()
