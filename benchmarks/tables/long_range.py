"""Tables of the Long Range Arena: published figures, and ours beside them."""

import statistics
from functools import partial

from benchmarks.tables.pages import Table
from benchmarks.tables.results import percent, read_csv
from dl_proj.experiments.long_range.published import PUBLISHED, TASKS
from dl_proj.tables import Row, markdown, mean_and_deviation

_TAY, _XIONG = PUBLISHED


def tables() -> dict[str, Table]:
    """All tables, by name."""
    return {
        "lra_published": partial(published, _TAY),
        "lra_published_small": partial(published, _XIONG),
        "lra_listops": partial(trained, "sweep_lra_listops_short", "listops"),
        "lra_costs": lambda: markdown([dict(row) for row in read_csv("lra/costs.csv")]),
    }


def published(source: str) -> str:
    """Test accuracies (%) on all tasks."""
    heads = ("ListOps", "Text", "Retrieval", "Image", "Pathfinder", "mean")
    rows: list[Row] = []
    for model, figures in PUBLISHED[source].values():
        cells = (f"{figure:.2f}" for figure in (*figures, statistics.fmean(figures)))
        rows.append({"model": model, **dict(zip(heads, cells, strict=True))})
    return markdown(rows)


def trained(sweep: str, task: str) -> str:
    """Our test accuracies (%) on a task, all seeds, beside the published ones, with their costs."""
    runs: dict[str, list[dict[str, str]]] = {}
    for row in read_csv(f"{sweep}/runs.csv"):
        runs.setdefault(row["variant"], []).append(row)
    return markdown([_row(name, rows, task) for name, rows in runs.items()])


def _row(name: str, rows: list[dict[str, str]], task: str) -> Row:
    kind, column = rows[0]["model.attention.kind"] or "full", TASKS.index(task)
    low, high = (statistics.fmean(float(row[f"test/accuracy_{end}"]) for row in rows) for end in ("low", "high"))
    others = {source: PUBLISHED[source].get(kind) for source in (_XIONG, _TAY)}
    return {
        "attention": name,
        "seeds": len(rows),
        "test accuracy, %": mean_and_deviation([100 * float(row["test/accuracy"]) for row in rows]),
        "95 %": f"{percent(low)} to {percent(high)}",
        **{source.partition(", ")[0]: f"{found[1][column]:.2f}" if found else "" for source, found in others.items()},
        "seconds per update": f"{statistics.fmean(float(row['seconds']) / float(row['steps']) for row in rows):.2f}",
    }
