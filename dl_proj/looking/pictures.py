"""Pictures of attention weights: a panel for each layer and head."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from dl_proj.experiments.images.classification.settings import ClassifierConfig, ClassifierTrainConfig
from dl_proj.figure_style import PAGE, WEIGHTS, style
from dl_proj.pictures import plain, save_figure

_NAMED = 30  # tokens; with more, names would be unreadable


@dataclass(frozen=True)
class Side:
    """The tokens along one side of a panel.

    Args:
        names: names of the tokens; empty: they are numbered.
        axis: label of the axis.
    """

    names: Sequence[str] = ()
    axis: str = "token number"


def draw_weights(layers: Sequence[Tensor], queries: Side, keys: Side, path: Path) -> None:
    """Draw the weights (h, n, m) of each layer as a row of panels with a shared colour scale.

    A mechanism that mixes values with a learned matrix (Linformer, Nystrom) may have negative weights; then the colour
    scale is symmetric about 0. The few largest weights may exceed the scale, so that the others can be distinguished.
    """
    values = torch.cat([layer.flatten() for layer in layers])
    largest = _largest(values.abs())
    signed = bool(values.min() < -0.01 * largest)
    colours, least = ("PuOr_r", -largest) if signed else (WEIGHTS, 0.0)
    with style():
        figure, panels = _panels(layers)
        for row, layer in zip(panels, layers, strict=True):
            for panel, weights in zip(row, layer, strict=True):
                image = panel.imshow(
                    weights.numpy(), cmap=colours, vmin=least, vmax=largest, interpolation="nearest", aspect="auto"
                )
                _name_ticks(panel, queries, keys)
        figure.supxlabel(f"key: {keys.axis}", fontsize=8)
        figure.supylabel(f"query: {queries.axis}", fontsize=8)
        beyond = "neither" if values.abs().max() <= largest else "both" if signed else "max"
        _add_scale(figure, image, panels, "attention weight", beyond)
    save_figure(figure, path)


def draw_looks(layers: Sequence[Tensor], image: Tensor, config: ClassifierTrainConfig, path: Path) -> None:
    """Draw how much attention each patch of an image receives, at its position, with the image's outline in white.

    The value is the mean weight over all queries (or that of the class token, if the model classifies its output),
    relative to uniform attention.
    """
    data = config.data
    by_class_token = isinstance(config.model, ClassifierConfig) and config.model.pooling == "class_token"
    looks = [(layer[:, 0, 1:] if by_class_token else layer.mean(1)) * layer.shape[2] for layer in layers]
    largest = _largest(torch.cat([look.flatten() for look in looks]))
    with style():
        figure, panels = _panels(layers)
        for row, look in zip(panels, looks, strict=True):
            for panel, of_head in zip(row, look, strict=True):
                drawn = _at_pixels(of_head, data.patch_size, data.patch_stride or data.patch_size, image.shape[-1])
                map_ = panel.imshow(drawn.numpy(), cmap="cividis", vmin=0, vmax=largest, interpolation="nearest")
                _outline(panel, image)
                panel.set_xticks([])
                panel.set_yticks([])
        _add_scale(figure, map_, panels, "attention to a pixel's patches\n(1: an even share)", "max")
    save_figure(figure, path)


def _add_scale(figure: Figure, of: ScalarMappable, panels: list[list[Axes]], label: str, beyond: str) -> None:
    bar = figure.colorbar(of, ax=[panel for row in panels for panel in row], extend=beyond, pad=0.01, aspect=40)
    bar.set_label(label)


def _outline(panel: Axes, image: Tensor) -> None:
    """Draw the contour where the image, (c, side, side) levels, has half its brightness."""
    grey = image.float().mean(0)
    if grey.min() < grey.max():
        panel.contour(grey.numpy(), levels=[(grey.min() + grey.max()).item() / 2], colors="white", linewidths=1.5)


def _at_pixels(look: Tensor, size: int, stride: int, side: int) -> Tensor:
    """Spread a number per patch (n,) to pixels (side, side), averaging overlapping patches; NaN outside of patches."""
    spread = look.expand(size * size, -1).unsqueeze(0)
    both = [F.fold(x, (side, side), size, stride=stride)[0, 0] for x in (spread, torch.ones_like(spread))]
    return both[0] / both[1]


def _largest(values: Tensor) -> float:
    """Return the end of a scale, exceeded by one in 200 of the values that are not nearly 0."""
    seen = values[values > 1e-4 * values.max()]
    return float(np.quantile(seen.numpy(), 0.995)) if len(seen) else 1.0


def _panels(layers: Sequence[Tensor]) -> tuple[Figure, list[list[Axes]]]:
    """Create a panel per layer and head, together as wide as a page's column."""
    heads = len(layers[0])
    size = max(1.1, (PAGE - 0.9) / heads)
    figure = Figure(figsize=(size * heads + 0.9, min(size, 2.4) * len(layers) + 0.6), layout="constrained")
    panels = figure.subplots(len(layers), heads, squeeze=False)
    for number, row in enumerate(panels):
        for head, panel in enumerate(row):
            panel.set_title(f"layer {number + 1}, head {head + 1}")
            panel.spines[:].set_visible(True)
            if number < len(layers) - 1:
                panel.tick_params(labelbottom=False)
            if head:
                panel.tick_params(labelleft=False)
    return figure, panels.tolist()


def _name_ticks(panel: Axes, queries: Side, keys: Side) -> None:
    if 0 < len(keys.names) <= _NAMED:
        panel.set_xticks(range(len(keys.names)), [_shown(name) for name in keys.names], rotation=90, fontsize=6)
    if 0 < len(queries.names) <= _NAMED:
        panel.set_yticks(range(len(queries.names)), [_shown(name) for name in queries.names], fontsize=6)


def _shown(name: str) -> str:
    """Return a token's name without characters that a font cannot draw or that would start a formula."""
    return plain(name.replace(" ", "\u00b7").replace("\n", "\u21b5"))
