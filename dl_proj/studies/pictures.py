"""performance_studies.py: the pictures of the studies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from dl_proj.figure_style import (
    COLUMN,
    MOST_CURVES,
    PAGE,
    WEIGHTS,
    Look,
    family_of,
    legend_below,
    log_ticks,
    looks_of,
    plain_number,
    style,
    text_colour,
)
from dl_proj.pictures import grid_of
from dl_proj.tables import Row

_GROUPS = {  # of mechanisms, in the panels of a study with many curves
    "hashing": ("shared_qk", "lsh"),
    "kernels": ("performer", "linear", "relative", "clipped_relative"),
    "low rank": ("linformer", "causal_linformer", "nystrom"),
}
_SHOWN = 96  # tokens of an attention matrix: with more, a page has no pixels for them


@dataclass(frozen=True)
class Panel:
    """A panel with a curve per value of ``curve`` in the rows.

    Args:
        rows: the data; rows without a number for ``x`` or ``y`` are skipped.
        x: column of the x axis; its values are the ticks.
        y: column of the y axis.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        title: title of the panel.
        error: column of the error bars.
        log: the axes that are logarithmic. Another y axis starts at 0, and so does one whose numbers differ by less
            than a factor of four: its logarithms would make much of little.
    """

    rows: list[Row]
    x: str
    y: str
    xlabel: str
    ylabel: str
    title: str = ""
    error: str | None = None
    log: Literal["xy", "x", ""] = "xy"

    @property
    def drawn(self) -> list[Row]:
        """Rows with a point."""
        return [row for row in self.rows if row[self.x] is not None and row[self.y] is not None]


def names_in(panels: Sequence[Panel]) -> list[str]:
    """The curves of some panels, in their order."""
    return list(dict.fromkeys(row["curve"] for panel in panels for row in panel.drawn))


def curves(*panels: Panel, all_of: str | None = None) -> Figure:
    """Panels beside and below each other, with one legend under all; one alone is as wide as a column in print.

    More than eight curves are distributed over columns of panels by kind of mechanism, full attention in each.

    Args:
        panels: to draw.
        all_of: the mechanism whose variants the curves are; None: their labels say it.
    """
    names = names_in(panels)
    looks = looks_of(names, all_of=all_of)
    if len(names) > MOST_CURVES:
        return _by_group(panels, looks)
    columns, lines = grid_of(len(panels))
    per_row = 2 if columns == 1 else 4
    size = (COLUMN if columns == 1 else PAGE, 2.0 * lines + 0.4 + 0.14 * -(-len(names) // per_row))
    with style():
        figure = Figure(figsize=size, layout="constrained")
        for number, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(lines, columns, number)
            _draw(axes, panel, looks)
            _scale(axes, panel)
        legend_below(figure, looks, columns=per_row)
    return figure


def _by_group(panels: Sequence[Panel], looks: dict[str, Look]) -> Figure:
    """A row of panels for each of the given ones, a column for each kind of mechanism, with a legend below it."""
    groups: dict[str, list[str]] = {}
    for name in looks:
        family = family_of(name)
        group = next((title for title, own in _GROUPS.items() if family in own), "others")
        if family != "full":
            groups.setdefault(group, []).append(name)
    full = [name for name in looks if family_of(name) == "full"]
    tallest = max(map(len, groups.values())) + len(full)
    with style():
        figure = Figure(figsize=(PAGE, 1.9 * len(panels) + 0.35 + 0.14 * tallest), layout="constrained")
        grid = figure.subplots(len(panels), len(groups), sharex=True, sharey="row", squeeze=False)
        for line, panel in zip(grid, panels, strict=True):
            for axes, (title, names) in zip(line, groups.items(), strict=True):
                own = replace(panel, rows=[row for row in panel.rows if row["curve"] in [*full, *names]])
                _draw(axes, own, looks)
                axes.set_title(title if line[0] is grid[0, 0] else "")
                axes.label_outer(remove_inner_ticks=True)
                if line[0] is grid[-1, 0]:
                    legend_below(axes, {name: looks[name] for name in [*full, *names]}, columns=1)
            for axes in line:  # once all share their ranges
                _scale(axes, panel)
    return figure


def _draw(axes: Axes, panel: Panel, looks: dict[str, Look]) -> None:
    rows = panel.drawn
    unit, of_it = _unit(rows, panel.y)
    lines = {
        name: sorted((row for row in rows if row["curve"] == name), key=lambda row: row[panel.x])
        for name in looks
        if any(row["curve"] == name for row in rows)
    }
    hidden = _hidden(lines, panel)
    for name, own in lines.items():
        x, y = [row[panel.x] for row in own], [of_it * row[panel.y] for row in own]
        error = [of_it * row[panel.error] for row in own] if panel.error else None
        below = hidden[name]  # curves drawn on top of it: it is wider, so that it is seen
        own_look = looks[name].line() | {
            "linewidth": 1.2 + 1.6 * below,
            "markersize": 3.8 + 2.0 * below,
            "alpha": 0.5 if below else 1.0,
        }
        axes.errorbar(x, y, yerr=error, capsize=2, elinewidth=0.8, label=name, **own_look)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel + unit, title=panel.title)
    axes.grid(True)


def _scale(axes: Axes, panel: Panel) -> None:
    """Logarithmic axes with plain numbers, and a y axis from 0 otherwise."""
    points = sorted({row[panel.x] for row in panel.drawn})
    values = [row[panel.y] for row in panel.drawn]
    y_is_log = "y" in panel.log and min(values, default=0) > 0 and max(values) >= 4 * min(values)
    axes.set(xscale="log" if "x" in panel.log else "linear", yscale="log" if y_is_log else "linear")
    shown = points[:: -max(1, -(-len(points) // 7))][::-1]  # the longest one is among them
    axes.set_xticks(shown, [plain_number(point) for point in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    if y_is_log:
        log_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, 1.1 * max(axes.dataLim.y1, 1e-12))


def _unit(rows: list[Row], y: str) -> tuple[str, float]:
    """Words and a factor for numbers that would need many zeros."""
    largest = max((abs(row[y]) for row in rows), default=1.0)
    if not 0 < largest < 1e-3:
        return "", 1.0
    power = 3 * int(np.ceil(-np.log10(largest) / 3))
    return f" (10$^{{-{power}}}$)", 10.0**power


def _hidden(lines: dict[str, list[Row]], panel: Panel) -> dict[str, int]:
    """How many later curves have the same points as this one, as far as can be seen."""
    values = {name: {row[panel.x]: row[panel.y] for row in own} for name, own in lines.items()}
    every = [value for own in values.values() for value in own.values()]
    near = 0.02 * max(map(abs, every), default=0)
    names = [*values]

    def same(one: dict[Any, float], other: dict[Any, float]) -> bool:
        return one.keys() == other.keys() and all(abs(one[x] - other[x]) <= near for x in one)

    return {name: sum(same(values[name], values[later]) for later in names[i + 1 :]) for i, name in enumerate(names)}


def matrices(pictures: dict[tuple[int | None, int | None], Tensor]) -> Figure:
    """Draw attention matrices on one colour scale: a row per bucket size, columns for the exact one and hash rounds.

    The first 96 tokens are shown, three of the bucket sizes, and weights down to a thousandth of the largest one.

    Args:
        pictures: (n, n) by bucket size and rounds, with the exact one at (None, None).
    """
    exact = pictures[None, None]
    sizes = sorted({size for size, _ in pictures if size is not None})
    if len(sizes) > 3:
        sizes = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    rounds = sorted({n_rounds for _, n_rounds in pictures if n_rounds is not None})
    across = 1 + len(rounds)
    norm = LogNorm(exact.max().item() / 1000, exact.max().item(), clip=False)
    colours = WEIGHTS.with_extremes(under="white", bad="white")
    with style():
        figure = Figure(figsize=(PAGE, (PAGE - 1.1) / across * len(sizes) + 0.45), layout="constrained")
        grid = figure.subplots(len(sizes), across, squeeze=False)
        for line, size in zip(grid, sizes, strict=True):
            for axes, n_rounds in zip(line, (None, *rounds), strict=True):
                picture = exact if n_rounds is None else pictures[size, n_rounds]
                shown = picture[:_SHOWN, :_SHOWN].clamp(min=1e-30).numpy()
                axes.imshow(shown, norm=norm, cmap=colours, interpolation="nearest")
                axes.set(xticks=[], yticks=[], title=_name(n_rounds) if size == sizes[0] else "")
                axes.spines[:].set_visible(True)
            line[0].set_ylabel(f"bucket size {size}")
        figure.supxlabel(f"key: token number, 1 to {len(shown)}", fontsize=8)
        figure.supylabel(f"query: token number, 1 to {len(shown)}", fontsize=8)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=grid, aspect=40, pad=0.015, extend="min")
        bar.set_label("attention weight")
        log_ticks(bar.ax.yaxis)
    return figure


def _name(n_rounds: int | None) -> str:
    return "full attention" if n_rounds is None else f"{n_rounds} round{'s' * (n_rounds > 1)}"


def heat_tables(rows: list[Row], x: str, y: str, measures: dict[str, str], labels: dict[str, str]) -> Figure:
    """A table for each measure with its numbers written in: values of ``y`` down, of ``x`` across, blank where none is.

    The measures are ratios: what is above 1 has one colour, what is below another.

    Args:
        rows: one for each cell.
        x: column.
        y: column.
        measures: title of each column that is shown.
        labels: of the axes, by column.
    """
    across, down = (sorted({row[key] for row in rows}) for key in (x, y))
    with style():
        figure = Figure(figsize=(PAGE, 0.32 * len(down) + 0.8), layout="constrained")
        for axes, (measure, title) in zip(
            figure.subplots(1, len(measures), squeeze=False)[0], measures.items(), strict=True
        ):
            cells = {(row[y], row[x]): row[measure] for row in rows}
            numbers = np.array([[cells.get((a, b), np.nan) for b in across] for a in down])
            end = max(2.0, np.nanmax(numbers), 1 / np.nanmin(numbers))
            image = axes.imshow(numbers, cmap="PuOr", norm=LogNorm(1 / end, end), aspect="auto", alpha=0.8)
            for (a, b), value in cells.items():
                colour = text_colour(image, value)
                place = across.index(b), down.index(a)
                axes.text(*place, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=7)
            axes.set_xticks(range(len(across)), [plain_number(value) for value in across])
            axes.set_yticks(range(len(down)), [plain_number(value) for value in down])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set(xlabel=labels[x], ylabel=labels[y], title=title)
            axes.label_outer()
    return figure
