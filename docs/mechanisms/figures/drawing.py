"""What all figures have in common: the tokens that mechanisms attend to, weights, and how these are shown."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from my_transformers import Mechanism

N, D = 48, 16  # tokens, and numbers per head
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # Okabe and Ito's
GREY = "#e4e4e4"  # a key that a query does not see
FOLDER = Path("docs/mechanisms/figures")


def example(size: float = 20.0) -> Tensor:
    """(1, 1, N, D): a word of 24 random symbols, twice; neighbours resemble each other. Vectors of length ``size``."""
    generator = torch.Generator().manual_seed(3)
    symbols = torch.randn(N // 2, D, generator=generator).repeat(2, 1)
    drift = torch.randn(N + 5, D, generator=generator).unfold(0, 6, 1).mean(-1) * 6**0.5
    return size * torch.nn.functional.normalize(1.1 * symbols + drift, dim=-1)[None, None]


def separate() -> Tensor:
    """Queries, to be taken as keys too, whose scores are those of :func:`example`'s queries and unit keys."""
    return example(20.0**0.5)


def weights(mechanism: Mechanism, *heads: Tensor) -> Tensor:
    """(n, m), the weights of the last head: a mechanism is linear in its values, so here they are the identity."""
    eye = torch.eye(heads[-1].shape[2]).expand(*heads[-1].shape[:2], -1, -1)
    with torch.no_grad():
        found: Tensor = mechanism.eval()(*heads, eye)
    return found[0, -1]


def of(mechanism: Mechanism) -> Tensor:
    """Weights for the example."""
    if mechanism.shared_query_key:
        return weights(mechanism, example())
    return weights(mechanism, separate(), separate())


def show(panel: Axes, found: Tensor, title: str, *, keys: str = "key", most: float = 0.35) -> None:
    """A matrix of weights, darker for larger ones; exact zeros are grey, what is negative is orange."""
    colours = ListedColormap(np.linspace((1, 1, 1, 1), (0, 0.2, 0.4, 1), 256))
    colours.set_bad(GREY)
    colours.set_under("#f0c8a8")
    shown = np.ma.masked_where(found.numpy() == 0, found.numpy())
    panel.imshow(shown, cmap=colours, norm=PowerNorm(0.5, 0, most), interpolation="nearest")
    panel.set(xlabel=keys, ylabel="query", xticks=[], yticks=[])
    panel.set_title(title, fontsize=9)


def picture(height: float, width: float = 7.2) -> Figure:
    """A picture that is as wide as a page, in inches."""
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def row(name: str, height: float, panels: dict[str, Tensor], rows: int = 1) -> None:
    """Matrices with their titles."""
    figure = picture(height)
    axes = np.ravel(figure.subplots(rows, -(-len(panels) // rows)))
    for panel, (title, found) in zip(axes, panels.items(), strict=True):
        show(panel, found, title)
    save(figure, name)


def save(figure: Figure, name: str) -> None:
    """Write NAME.png."""
    FOLDER.mkdir(exist_ok=True, parents=True)
    figure.savefig(FOLDER / f"{name}.png", metadata={"Software": None})
