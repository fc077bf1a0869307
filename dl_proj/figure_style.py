"""How figures look: their width in print, type, a colour and a marker per mechanism, words and numbers on the axes.

Colours are Okabe and Ito's, which the colour-blind can tell apart, and shades of them: LSH is vermilion in every
figure, its rounds from light to dark. Where several curves of a figure would look the same, they get shades and markers
of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator, PercentFormatter

COLUMN, PAGE = 3.3, 6.9
"""Inches: the width of a column and of a page in print. A page's width is read at some 700 pixels in a browser."""
DOTS = 200
"""Pixels per inch of a PNG."""
MOST_CURVES = 8
"""In one panel."""
WEIGHTS = LinearSegmentedColormap.from_list("weights", ["white", *colormaps["magma_r"](np.linspace(0.08, 1, 24))])
"""Colours of attention weights: none is white."""
PALE = ListedColormap(colormaps["Blues"](np.linspace(0, 0.55, 256)))
"""Colours of cells with numbers in black."""
_RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.35,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "pdf.fonttype": 42,  # TrueType: publishers refuse type 3
    "savefig.dpi": DOTS,
}


def style(**changes: Any) -> AbstractContextManager[None]:
    """The settings of matplotlib under which figures are made and written; the caller's own are left alone."""
    settings: Any = _RC | changes  # whose keys matplotlib's types list one by one
    return matplotlib.rc_context(settings)


@dataclass(frozen=True)
class Look:
    """Of a curve.

    Args:
        colour: as ``#rrggbb``.
        marker: matplotlib's letter.
        dashes: matplotlib's line style.
        hollow: markers are outlines.
    """

    colour: str
    marker: str
    dashes: str = "-"
    hollow: bool = False

    def line(self) -> dict[str, Any]:
        """Arguments of Axes.plot and Axes.errorbar."""
        filling = "white" if self.hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes, "markerfacecolor": filling}


_FAMILIES = {  # by a pattern of a label in small letters, without hyphens; the first that fits
    r"gradients": ("gradients", Look("#8c8c8c", "", ":")),
    r"clipped relative": ("clipped_relative", Look("#8b3a6b", "h")),
    r"relative": ("relative", Look("#cc79a7", "*")),
    r"causal linformer": ("causal_linformer", Look("#a89b00", "8")),
    r"linformer|^k ?=? ?\d": ("linformer", Look("#009e73", "X")),
    r"performer": ("performer", Look("#0072b2", "P")),
    r"nystr": ("nystrom", Look("#8a6d3b", "H")),
    r"lsh|reformer": ("lsh", Look("#d55e00", "D")),
    r"shared": ("shared_qk", Look("#8c8c8c", "s")),
    r"full|flash|sdpa": ("full", Look("#000000", "o")),
    r"\blinear\b": ("linear", Look("#e69f00", ">")),
    r"\blocal\b": ("local", Look("#56b4e9", "<")),
}
_LEVELS = {  # the number that tells mechanisms of a family apart, where a label has it, and what it changes
    "lsh": (
        r"lsh (\d+)|(\d+) round",
        {1: ("#f0a878", "v"), 2: ("#e4813f", "^"), 4: ("#d55e00", "D"), 8: ("#7f3300", "p"), 16: ("#401a00", "h")},
    ),
    "linformer": (
        r"k ?=? ?(\d+)|rank (\d+)",
        {32: ("#8fd9c0", "<"), 64: ("#45bd98", ">"), 128: ("#009e73", "X"), 256: ("#00523c", "d")},
    ),
    "performer": (
        r"performer (\d+)|features (\d+)",
        {16: ("#8cc3e6", "P"), 64: ("#3f97cc", "P"), 256: ("#0072b2", "P")},
    ),
}
_BASE = dict(_FAMILIES.values())
_OTHERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c8c8c")
_MARKERS = "osD^vPX*"


def family_of(label: str) -> str | None:
    """The mechanism that a curve's label names, as in "LSH-4, reversible" or "mnist14-linformer"; None: no one."""
    words = _words(label)
    return next((family for pattern, (family, _) in _FAMILIES.items() if re.search(pattern, words)), None)


def _words(label: str) -> str:
    return re.sub(r"[-_]", " ", label.lower())


def looks_of(labels: Iterable[str], *, all_of: str | None = None) -> dict[str, Look]:
    """A look per label, the mechanism's own, and never twice the same.

    Args:
        labels: of the curves of one figure.
        all_of: the mechanism whose variants all of them are, whatever their labels say.
    """
    found = {label: _own_look(label, all_of) for label in dict.fromkeys(labels)}
    unknown = [label for label, look in found.items() if look is None]
    taken = {look.colour for look in found.values() if look is not None}
    free = [colour for colour in _OTHERS if colour not in taken] or [*_OTHERS]
    others = {
        label: Look(free[i % len(free)], _MARKERS[i % len(_MARKERS)], "-" if i < len(free) else "--")
        for i, label in enumerate(unknown)
    }
    return _told_apart({label: look or others[label] for label, look in found.items()})


def _own_look(label: str, all_of: str | None) -> Look | None:
    family, words = all_of or family_of(label), _words(label)
    if family is None:
        return None
    look = _BASE[family]
    pattern, levels = _LEVELS.get(family, ("$^", {}))
    if (match := re.search(pattern, words)) and (level := levels.get(int(next(filter(None, match.groups()))))):
        look = replace(look, colour=level[0], marker=level[1])
    if "recomputed" in words:
        look = replace(look, dashes=":", hollow=True)
    elif "reversible" in words or "nopos" in words:
        look = replace(look, dashes="--", hollow=True)
    elif family == "performer" and "causal" in words:
        look = replace(look, dashes="--")
    return look


def _told_apart(looks: Mapping[str, Look]) -> dict[str, Look]:
    """Those that are the same become shades from light to dark, each with a marker."""
    found = dict(looks)
    for look in dict.fromkeys(looks.values()):
        alike = [label for label, own in looks.items() if own == look]
        shades = np.linspace(-0.55, 0.0 if len(alike) < 3 else 0.6, len(alike)) if len(alike) > 1 else [0.0]
        markers = [look.marker, *(marker for marker in _MARKERS if marker != look.marker)]
        for i, (label, shade) in enumerate(zip(alike, shades, strict=True)):
            marker = markers[i % len(markers)] if look.marker else ""
            found[label] = replace(look, colour=_shaded(look.colour, float(shade)), marker=marker)
    return found


def _shaded(colour: str, by: float) -> str:
    """Nearer to white if negative, to black if positive; 1 reaches it."""
    target = 1.0 if by < 0 else 0.0
    red, green, blue = (value + abs(by) * (target - value) for value in to_rgb(colour))
    return to_hex((red, green, blue))


# -- words --

_METRICS = {
    "accuracy": "accuracy",
    "bits_per_byte": "bits per byte",
    "bits_per_dim": "bits per dimension",
    "bleu": "BLEU",
    "chrf": "chrF",
    "loss": "loss (nats)",
    "lr": "learning rate",
}
_PARTS = {"val": "validation", "train": "training", "test": "test"}


def metric_label(metric: str) -> str:
    """As an axis has it: ``val/bits_per_byte`` is "validation bits per byte"."""
    part, _, name = metric.rpartition("/") if metric.split("/")[0] not in _PARTS else metric.partition("/")
    words = _METRICS.get(name, name.replace("_", " "))
    return " ".join(word for word in (_PARTS.get(part, part), words) if word)


def show_share(axis: Axis, metric: str) -> None:
    """In percent, if the metric is a share of 1."""
    if "accuracy" in metric:
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def plain_number(value: float) -> str:
    """Without an exponent, thousands apart: 16,384 or 0.0005."""
    return f"{value:,.12f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else f"{value:g}"


# -- axes --


def log_ticks(axis: Axis, values: Sequence[float] = ()) -> None:
    """Plain numbers on a logarithmic axis: round ones, or the given values, as many of them as can be read."""
    low, high = axis.get_view_interval()
    ticks = [*values] if values else _round_numbers(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([plain_number(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())
    axis.set_view_interval(low, high, ignore=True)


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten; where they are few also 2 and 5 times these, or any round numbers."""
    ticks: list[float] = []
    for locator in (LogLocator(numticks=20), LogLocator(subs=(1, 2, 5), numticks=20), MaxNLocator(5)):
        ticks = [tick for tick in map(float, locator.tick_values(low, high)) if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def legend_below(owner: Figure | Axes, looks: Mapping[str, Look], *, columns: int) -> None:
    """A legend of curves by their labels under the figure, or under a panel's label: off the data."""
    place: dict[str, Any] = {"loc": "outside lower center"}
    if isinstance(owner, Axes):
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.26), "borderaxespad": 0}
    lines = [Line2D([], [], **look.line()) for look in looks.values()]
    owner.legend(lines, [*looks], ncols=max(1, min(columns, len(lines))), **place)


def legend_beside(panel: Axes) -> None:
    """To the right of the panel."""
    panel.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)


def text_colour(of: ScalarMappable, value: float) -> Literal["black", "white"]:
    """What can be read on the colour of a value."""
    red, green, blue = of.to_rgba(np.array([value]))[0][:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
