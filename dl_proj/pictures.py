"""Pictures shared by several experiments; always drawn to a file, never to a screen."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dl_proj.figure_style import (
    DOTS,
    MOST_CURVES,
    PAGE,
    Look,
    legend_below,
    legend_beside,
    looks_of,
    metric_label,
    show_share,
    style,
)
from my_custom_ai.utils.files import whole_file

_SPLITS = {"train": ("training", Look("#56b4e9", "")), "val": ("validation", Look("#d55e00", "o"))}
_LONGEST_LABEL = 48  # characters; more would leave a picture no room


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file, whole; its suffix says the format (png, pdf). The same figure is the same PDF."""
    FigureCanvasAgg(figure)
    dated = {"CreationDate": None} if path.suffix == ".pdf" else {}
    with whole_file(path) as part, style():
        figure.savefig(part, format=path.suffix[1:], dpi=DOTS, metadata=dated)


def save_for_print(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, for pages, and as PDF, for papers; ``path`` is the PNG's."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, path.with_suffix(suffix))


def plain(text: str) -> str:
    """Return a user's text, such as a class name, as a label: on one line, of limited length, and drawn literally.

    Matplotlib would typeset text between dollar signs, and omit labels that start with ``_`` from a legend.
    """
    shown = "".join(character if character.isprintable() else " " for character in text)
    if len(shown) > _LONGEST_LABEL:
        shown = f"{shown[: _LONGEST_LABEL - 3]}..."
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def room_for(labels: Iterable[str]) -> float:
    """Inches that labels need beyond the one that a picture leaves for short ones."""
    return max(0.0, 0.07 * max(map(len, labels), default=0) - 1)


@dataclass(frozen=True)
class Band:
    """A curve, with the standard deviation over repetitions at each point; 0 without repetitions."""

    x: Sequence[float]
    mean: Sequence[float]
    deviation: Sequence[float]


def band_figure(curves: Mapping[str, Band], *, xlabel: str, metric: str, note: str = "") -> Figure:
    """Many curves that stay apart: at most eight a panel, the legend beside it, all panels with the same axes."""
    with style():
        groups = [group.tolist() for group in np.array_split([*curves], math.ceil(len(curves) / MOST_CURVES))]
        figure = Figure(figsize=(PAGE, 2.6 * len(groups) + 0.2), layout="constrained")
        panels = figure.subplots(len(groups), sharex=True, sharey=True, squeeze=False)[:, 0]
        looks = looks_of(curves)
        for panel, names in zip(panels, groups, strict=True):
            for name in names:
                band, look = curves[name], looks[name]
                panel.plot(band.x, band.mean, **look.line(), label=plain(name))
                if any(band.deviation):
                    mean, deviation = np.array(band.mean), np.array(band.deviation)
                    ends = (mean - deviation, mean + deviation)
                    panel.fill_between(band.x, *ends, color=look.colour, alpha=0.15, linewidth=0)
            panel.set(ylabel=metric_label(metric))
            show_share(panel.yaxis, metric)
            panel.grid(True)
            legend_beside(panel)
        panels[0].set_title(note, loc="left")
        panels[-1].set(xlabel=xlabel)
    return figure


def grid_of(n_panels: int, widest: int = 3) -> tuple[int, int]:
    """Columns and rows of so many panels, which stay readable at a page's width; four are two rows."""
    columns = 2 if n_panels == 4 else max(1, min(n_panels, widest))
    return columns, max(1, -(-n_panels // columns))


def draw_curves(metrics: Path, picture: Path) -> None:
    """Every metric of a metrics.csv against the update, training and validation in one panel."""
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    save_figure(curves_figure(rows), picture)


def curves_figure(rows: Sequence[Mapping[str, str]]) -> Figure:
    """Draw one panel per metric, three per row, with one legend below."""
    names = list(dict.fromkeys(key.split("/", 1)[1] for key in (rows[0] if rows else {}) if "/" in key))
    columns, lines = grid_of(len(names))
    with style():
        figure = Figure(figsize=(PAGE, 1.8 * lines + 0.4), layout="constrained")
        drawn: dict[str, Look] = {}
        for number, name in enumerate(names, start=1):
            panel = figure.add_subplot(lines, columns, number)
            for split, (label, look) in _SPLITS.items():
                points = [(int(r["step"]), float(r[f"{split}/{name}"])) for r in rows if r.get(f"{split}/{name}")]
                if points:
                    drawn[label] = look
                    panel.plot(*zip(*points, strict=True), **look.line(), label=label)
            panel.set(title=plain(metric_label(name)))
            if number > len(names) - columns:
                panel.set(xlabel="update")
            show_share(panel.yaxis, name)
            panel.grid(True)
        if drawn:
            legend_below(figure, drawn, columns=2)
    return figure
