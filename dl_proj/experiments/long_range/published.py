"""Published test accuracies (%) on the tasks, for comparison with ours."""

from collections.abc import Iterable

from dl_proj.tables import Row

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")

_TAY = "Tay et al. 2021, table 1"
_XIONG = "Xiong et al. 2021, table 3"

PUBLISHED: dict[str, dict[str, tuple[str, tuple[float, ...]]]] = {
    _TAY: {
        "full": ("Transformer", (36.37, 64.27, 57.46, 42.44, 71.40)),
        "local": ("Local Attention", (15.82, 52.98, 53.39, 41.46, 66.63)),
        "linear": ("Linear Transformer", (16.13, 65.90, 53.09, 42.34, 75.30)),
        "lsh": ("Reformer", (37.27, 56.10, 53.40, 38.07, 68.50)),
        "linformer": ("Linformer", (35.70, 53.94, 52.27, 38.56, 76.34)),
        "performer": ("Performer", (18.01, 65.40, 53.82, 42.77, 77.05)),
    },
    _XIONG: {
        "full": ("Standard", (37.10, 65.02, 79.35, 38.20, 74.16)),
        "lsh": ("Reformer", (19.05, 64.88, 78.64, 43.29, 69.36)),
        "linformer": ("Linformer", (37.25, 55.91, 79.37, 37.84, 67.60)),
        "performer": ("Performer", (18.80, 63.81, 78.62, 37.07, 69.87)),
        "nystrom": ("Nyströmformer", (37.15, 65.52, 79.56, 41.58, 70.94)),
    },
}
"""By source and kind of attention: the name in the source, and the accuracies in the order of ``TASKS``.

The figures of Tay et al. are from the table in the benchmark's repository, those of Xiong et al. from
https://ar5iv.labs.arxiv.org/html/2102.03902: 2 layers of width 64, Reformer with 2 hash rounds, Linformer with k = 256,
Performer with 256 features.
"""


def published_rows(task: str, kinds: Iterable[str]) -> list[Row]:
    """Return one row per published figure for a task and these kinds of attention; accuracies are fractions."""
    column = TASKS.index(task)
    return [
        {"source": source, "attention": kind, "named": name, "test accuracy": round(figures[column] / 100, 6)}
        for kind in dict.fromkeys(kinds)
        for source, table in PUBLISHED.items()
        if kind in table
        for name, figures in [table[kind]]
    ]
