"""performance_studies.py: the pictures of the studies."""

from dataclasses import dataclass
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from dl_proj.pictures import side_by_side
from dl_proj.tables import Row


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
        log: the logarithmic axes; a linear y axis starts at 0.
    """

    rows: list[Row]
    x: str
    y: str
    xlabel: str
    ylabel: str
    title: str = ""
    error: str | None = None
    log: Literal["xy", "x", ""] = "xy"


def curves(*panels: Panel) -> Figure:
    """A figure with two panels per row and one shared legend."""
    columns, lines = side_by_side(len(panels))
    alone = len(panels) == 1
    figure = Figure(figsize=(6.5, 4) if alone else (4.5 * columns, 3.3 * lines + 1), layout="constrained")
    named: dict[str, Artist] = {}
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, number)
        _draw(axes, panel)
        handles, labels = axes.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True)) | named
    if alone:
        figure.legend(named.values(), named.keys(), loc="outside right center", fontsize="small")
    else:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    rows = [row for row in panel.rows if row[panel.x] is not None and row[panel.y] is not None]
    for number, curve in enumerate(dict.fromkeys(row["curve"] for row in rows)):
        own = sorted((row for row in rows if row["curve"] == curve), key=lambda row: row[panel.x])
        x, y = ([row[key] for row in own] for key in (panel.x, panel.y))
        error = [row[panel.error] for row in own] if panel.error else None
        style = ("-", "--", ":")[number // 10 % 3]  # there are ten colours
        axes.errorbar(x, y, yerr=error, linestyle=style, marker="o", markersize=3, capsize=2, label=curve)
    axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
    for axis in panel.log:
        axes.set(**{f"{axis}scale": "log"})
    points = sorted({row[panel.x] for row in rows})
    axes.set_xticks(points, [str(point) for point in points], rotation=45 if len(points) > 6 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    if "y" not in panel.log:
        axes.set_ylim(bottom=0)
    elif rows:
        low, high = axes.get_ylim()
        axes.set_yticks(ticks := _round_numbers(low, high), [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low, high)
    axes.grid(alpha=0.3)


def _round_numbers(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: powers of ten; if these are few, also 2 and 5 times them, or round ones."""
    ticks: list[float] = []
    for locator in (LogLocator(numticks=20), LogLocator(subs=(1, 2, 5), numticks=20), MaxNLocator(5)):
        ticks = [tick for tick in map(float, locator.tick_values(low, high)) if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def matrices(pictures: dict[tuple[int | None, int | None], Tensor]) -> Figure:
    """Draw attention matrices on one colour scale: a row per bucket size, columns for the exact one and hash rounds.

    Args:
        pictures: (n, n) by bucket size and rounds, with the exact one at (None, None).
    """
    exact = pictures[None, None]
    sizes = sorted({size for size, _ in pictures if size is not None})
    rounds = sorted({n_rounds for _, n_rounds in pictures if n_rounds is not None})
    shape = (len(sizes), 1 + len(rounds))
    figure = Figure(figsize=(2 * shape[1] + 1, 2 * shape[0] + 0.5), layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    norm = PowerNorm(0.5, vmin=0, vmax=exact.max().item(), clip=True)
    for line, size in zip(grid, sizes, strict=True):
        for axes, n_rounds in zip(line, (None, *rounds), strict=True):
            picture = exact if n_rounds is None else pictures[size, n_rounds]
            axes.imshow(picture.numpy(), norm=norm, cmap="magma", interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=_name(n_rounds) if size == sizes[0] else "")
        line[0].set_ylabel(f"bucket size {size}")
    figure.colorbar(
        ScalarMappable(norm, "magma"), ax=grid, shrink=0.6, label="weight of a key (across) for a query (down)"
    )
    return figure


def _name(n_rounds: int | None) -> str:
    return "full attention" if n_rounds is None else f"{n_rounds} round{'s' * (n_rounds > 1)}"


def heat_tables(rows: list[Row], x: str, y: str, measures: dict[str, str]) -> Figure:
    """Draw an annotated heatmap per measure, with rows by ``y`` and columns by ``x``; missing cells are blank.

    Args:
        rows: the data, one row per cell.
        x: column of the x axis.
        y: column of the y axis.
        measures: titles of the columns to show.
    """
    across, down = (sorted({row[key] for row in rows}) for key in (x, y))
    figure = Figure(figsize=((1.1 * len(across) + 1.5) * len(measures), 0.6 * len(down) + 1.5), layout="constrained")
    for axes, (measure, title) in zip(
        figure.subplots(1, len(measures), squeeze=False)[0], measures.items(), strict=True
    ):
        cells = {(row[y], row[x]): row[measure] for row in rows}
        numbers = [[cells.get((a, b), float("nan")) for b in across] for a in down]
        axes.imshow(numbers, cmap="Blues", norm="log", aspect="auto", alpha=0.6)
        for (a, b), value in cells.items():
            axes.text(across.index(b), down.index(a), f"{value:.2g}", ha="center", va="center")
        axes.set_xticks(range(len(across)), across)
        axes.set_yticks(range(len(down)), down)
        axes.set(xlabel=x, ylabel=y, title=title)
    return figure
