"""Rows of figures as a Markdown table or as CSV."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
"""Values by column name."""


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a Markdown table, without columns whose name has a slash (per-class figures): only the CSV has them."""
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if "/" not in name]
    lines = [columns, *([_short(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.4f}"
    return "" if value is None else str(value)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return "0.9550 ± 0.0060", with the sample standard deviation; for one value, only that value."""
    mean = statistics.fmean(values)
    digits = 0 if abs(mean) >= 100 else 2 if abs(mean) >= 10 else 4
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def with_intervals(row: Mapping[str, object]) -> Row:
    """Replace each pair of columns "<name>_low" and "<name>_high", an interval's ends, by one "<name> 95 %"."""
    found: Row = {}
    for name, value in row.items():
        whole = name.removesuffix("_low").removesuffix("_high")
        low, high = row.get(f"{whole}_low"), row.get(f"{whole}_high")
        if whole == name or low is None or high is None:
            found[name] = value
        else:
            found[f"{whole} 95 %"] = f"{_short(low)} to {_short(high)}"
    return found


def csv_text(rows: Sequence[Mapping[str, object]], *, quoted: bool = False) -> str:
    """Return all columns of all rows as CSV; pass ``quoted`` where strings may contain carriage returns."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(
        text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
