"""performance_studies.py: the error of random features, by their number."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dl_proj.studies.settings import ApproximationConfig, EquivarianceConfig
from dl_proj.tables import Row
from my_transformers import (
    ClippedRelativeAttention,
    FullAttention,
    Mechanism,
    MultiHeadAttention,
    PerformerAttention,
    RelativeAttention,
    extended_dim,
)


@torch.no_grad()
def approximation(config: ApproximationConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure the squared error of a Performer against softmax attention; a row per curve and number of features."""
    generator = torch.Generator().manual_seed(seed)
    curves: dict[str, tuple[Literal["softmax", "hyperbolic"], bool]] = {
        f"{kernel}, {'orthogonal' if orthogonal else 'iid'}": (kernel, orthogonal)
        for kernel in ("softmax", "hyperbolic")
        for orthogonal in (False, True)
    }
    errors: dict[tuple[str, int], list[float]] = {(name, m): [] for name in curves for m in config.n_features}
    for sample in tqdm(range(config.samples), desc="approximation", unit="sample"):
        q, k, v = torch.randn(3, 1, 1, config.length, config.head_dim, generator=generator).to(device)
        q, k = q * config.scale, k * config.scale
        exact = FullAttention()(q, k, v)
        for (name, m), found in errors.items():
            kernel, orthogonal = curves[name]
            drawn = seed * config.samples + sample
            performer = PerformerAttention(
                config.head_dim, n_features=m, kernel=kernel, orthogonal=orthogonal, seed=drawn
            ).to(device)
            found.append((performer(q, k, v) - exact).square().mean().item())
    return [{"curve": name, "n_features": m} | mean_and_error(found, "mse") for (name, m), found in errors.items()]


@torch.no_grad()
def equivariance(config: EquivarianceConfig, seed: int, device: torch.device) -> list[Row]:
    """Measure the relative change of a new layer's output when all tokens are shifted; rows as above.

    The tokens are a block in a larger grid that is otherwise padding, plus a class token outside of the grid.
    """
    errors: dict[tuple[str, int | None], list[float]] = {}
    for sample in tqdm(range(config.samples), desc="equivariance", unit="sample"):
        for name, m, mechanism in _mechanisms(config, seed * config.samples + sample):
            torch.manual_seed(seed * config.samples + sample)
            layer = MultiHeadAttention(mechanism, dim=config.dim, heads=config.heads).to(device).double().eval()
            tokens = config.scale * torch.randn(1, 1 + config.side**2, config.dim, dtype=torch.float64).to(device)
            original, shifted = (_output_at(layer, tokens, config, shift) for shift in (0, config.shift))
            errors.setdefault((name, m), []).append(((original - shifted).norm() / original.norm()).item())
    return [{"curve": name, "n_features": m} | mean_and_error(found, "change") for (name, m), found in errors.items()]


def _mechanisms(config: EquivarianceConfig, seed: int) -> Iterator[tuple[str, int | None, Mechanism]]:
    """Yield name, number of features and mechanism of each point; None: no random features."""
    head_dim = config.dim // config.heads
    columns = config.side + config.shift
    relative = partial(RelativeAttention, heads=config.heads, head_dim=head_dim, columns=columns, off_grid=1)
    longer = extended_dim(head_dim, 4, columns)
    torch.manual_seed(seed)
    yield "relative, exact softmax", None, relative(FullAttention())
    torch.manual_seed(seed)
    content = PerformerAttention(head_dim, n_features=64, seed=seed)
    clipped = ClippedRelativeAttention(
        content, heads=config.heads, head_dim=head_dim, columns=columns, off_grid=1, distance=4
    )
    yield "clipped relative", None, clipped
    for name, turned in (("relative, plain directions", 0), ("relative", longer - head_dim)):
        for m in config.n_features:
            torch.manual_seed(seed)
            inner = PerformerAttention(longer, n_features=m, turned=turned, seed=seed)
            yield name, m, relative(inner)


def _output_at(layer: nn.Module, tokens: Tensor, config: EquivarianceConfig, shift: int) -> Tensor:
    """Return the output at the tokens when their block is ``shift`` rows and columns from the grid's corner."""
    side, columns = config.side, config.side + config.shift
    place = torch.arange(side, device=tokens.device) + shift
    places = torch.cat((place.new_zeros(1), 1 + (place.unsqueeze(1) * columns + place).flatten()))
    grid = tokens.new_zeros(1, 1 + columns**2, tokens.shape[-1])
    mask = torch.zeros(1, 1 + columns**2, dtype=torch.bool, device=tokens.device)
    grid[:, places], mask[:, places] = tokens, True
    return layer(grid, mask=mask)[:, places]


def mean_and_error(values: list[float], name: str) -> dict[str, float]:
    """Return the mean and its standard error."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return {name: mean, "standard_error": math.sqrt(variance / len(values))}


def slope(rows: list[Row], curve: str, name: str) -> float:
    """Fit the exponent of n_features in a curve, by least squares on the logarithms."""
    x, y = (torch.tensor([row[key] for row in rows if row["curve"] == curve]).log() for key in ("n_features", name))
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()
