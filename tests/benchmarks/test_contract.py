"""The checks of benchmarks/contract.py tell a layer that keeps a promise from one that breaks it."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contract import CASES, Case, moved


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("ours")])
def test_our_layers_keep_every_promise(name: str) -> None:
    assert [value for value in moved(CASES[name]).values() if isinstance(value, float) and value > 1e-6] == []


class Mean(nn.Module):
    """The mean of all tokens of the batch: it breaks every promise."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, dim) -> the same."""
        return x.mean((0, 1)).expand_as(x)


def test_a_layer_that_breaks_them_is_found() -> None:
    found = moved(Case(Mean, lambda layer, x, mask: layer(x), causal=True))
    assert all(isinstance(value, float) and value > 0.1 for value in found.values())


def test_changes_are_shares_of_the_largest_output() -> None:
    torch.manual_seed(0)
    small, large = (
        moved(Case(Mean, lambda layer, x, mask, scale=scale: scale * layer(x), causal=True)) for scale in (1.0, 1000.0)
    )
    assert small == pytest.approx(large, rel=1e-4)
