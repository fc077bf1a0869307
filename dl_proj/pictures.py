"""Pictures that several experiments draw; always to a file, never to a screen."""

import csv
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from my_custom_ai.utils.files import whole_file


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole; its suffix says the format (png, pdf)."""
    FigureCanvasAgg(figure)
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=150, bbox_inches="tight")


def side_by_side(n_panels: int) -> tuple[int, int]:
    """Columns and rows of so many panels in a picture that can be read at the width of a page."""
    columns = max(1, min(n_panels, 2))
    return columns, max(1, -(-n_panels // columns))


def draw_curves(metrics: Path, picture: Path) -> None:
    """Every metric of a metrics.csv against the step, training and validation in one panel; two panels a row."""
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(key.split("/")[1] for key in (rows[0] if rows else {}) if "/" in key))
    columns, lines = side_by_side(len(names))
    figure = Figure(figsize=(4.5 * columns, 3 * lines), layout="constrained")
    for number, name in enumerate(names, start=1):
        panel = figure.add_subplot(lines, columns, number)
        for split in ("train", "val"):
            points = [(int(r["step"]), float(r[f"{split}/{name}"])) for r in rows if r.get(f"{split}/{name}")]
            panel.plot(*zip(*points, strict=True), label=split) if points else None
        panel.set(xlabel="step", title=name)
        panel.legend()
    save_figure(figure, picture)
