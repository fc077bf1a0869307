"""Reading docs/results and benchmarks/results, and formatting figures."""

import csv
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
BENCHMARKS = ROOT / "benchmarks" / "results"


def read_csv(path: str) -> list[dict[str, str]]:
    """The rows of a CSV file under docs/results."""
    with (RESULTS / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def scores(name: str) -> dict[str, Any]:
    """The scores that translation_evaluate.py wrote for a model."""
    return dict(read_json(RESULTS / name / "scores.json"))


def percent(share: str | float, digits: int = 2) -> str:
    """A fraction from 0 to 1 in percent, without the percent sign."""
    return f"{100 * float(share):.{digits}f}"


def count(number: str | float) -> str:
    """An integer with thousands separators."""
    return f"{int(float(number)):,}"


def by(rows: list[dict[str, str]], *columns: str) -> dict[Any, dict[str, str]]:
    """Rows, indexed by the values of one or several columns."""
    if len(columns) == 1:
        return {row[columns[0]]: row for row in rows}
    return {tuple(row[column] for column in columns): row for row in rows}
