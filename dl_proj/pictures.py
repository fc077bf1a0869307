"""Pictures shared by several experiments; always drawn to a file, never to a screen."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from my_custom_ai.utils.files import whole_file

# Okabe and Ito's colours, which the colour-blind tell apart too, with grey for yellow, which paper swallows.
_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#8c8c8c")
_LONGEST_LABEL = 48  # characters; more would leave a picture no room
_STYLES = tuple(zip(_COLOURS, ("-", "--", "-", "--", "-", "--", "-", "--"), "osD^vPX*", strict=True))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file atomically; the suffix determines the format (png, pdf)."""
    FigureCanvasAgg(figure)
    with whole_file(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=150, bbox_inches="tight")


def plain(text: str) -> str:
    """Return a user's text, such as a class name, as a label: on one line, of limited length, and drawn literally.

    Matplotlib would typeset text between dollar signs, and omit labels that start with ``_`` from a legend.
    """
    shown = "".join(character if character.isprintable() else " " for character in text)
    if len(shown) > _LONGEST_LABEL:
        shown = f"{shown[: _LONGEST_LABEL - 3]}..."
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def room_for(labels: Iterable[str]) -> float:
    """Return the inches that labels need beyond the one inch reserved for short ones."""
    return max(0.0, 0.09 * max(map(len, labels), default=0) - 1)


@dataclass(frozen=True)
class Band:
    """A curve, with the standard deviation over repetitions at each point; 0 without repetitions."""

    x: Sequence[float]
    mean: Sequence[float]
    deviation: Sequence[float]


def style_of(number: int) -> tuple[str, str, str]:
    """Return colour, dashes and marker of a curve; they repeat after eight curves."""
    return _STYLES[number % len(_STYLES)]


def draw_bands(curves: Mapping[str, Band], *, xlabel: str, ylabel: str, path: Path) -> None:
    """Draw curves with bands, at most eight per panel, with legends at the side and common axes."""
    groups = [group.tolist() for group in np.array_split([*curves], math.ceil(len(curves) / len(_STYLES)))]
    figure = Figure(figsize=(5.5, 2.8 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, names in zip(panels, groups, strict=True):
        for name, (colour, dashes, marker) in zip(names, _STYLES, strict=False):
            band = curves[name]
            panel.plot(
                band.x, band.mean, color=colour, linestyle=dashes, marker=marker, markersize=3.5, label=plain(name)
            )
            if any(band.deviation):
                mean, deviation = np.array(band.mean), np.array(band.deviation)
                panel.fill_between(band.x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        panel.set(ylabel=ylabel)
        panel.grid(alpha=0.3)
        panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small")
    panels[-1].set(xlabel=xlabel)
    save_figure(figure, path)


def side_by_side(n_panels: int) -> tuple[int, int]:
    """Return the numbers of columns and rows for panels that are readable at the width of a page."""
    columns = max(1, min(n_panels, 2))
    return columns, max(1, -(-n_panels // columns))


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw each metric of a metrics.csv by step, training and validation in one panel, with two panels per row."""
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
        panel.set(xlabel="step", title=plain(name))
        panel.legend(fontsize="small")
    save_figure(figure, picture)
