import itertools

import pytest
import torch

from my_transformers.lsh.scores import is_kept


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropped_pairs_look_independent(dropout: float) -> None:
    """The right share of all pairs, of each row and column; pairs in a rectangle are uncorrelated."""
    generator = torch.Generator().manual_seed(0)
    seeds = torch.randint(
        torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max, (2, 1500), dtype=torch.int32, generator=generator
    )
    kept = is_kept(seeds[0].unsqueeze(-1), seeds[1].unsqueeze(-2), dropout).double()
    spread = (dropout * (1 - dropout)) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - dropout, abs=5 * spread / 1500)
    for axis in (0, 1):
        assert kept.mean(axis).std().item() == pytest.approx(spread / 1500**0.5, rel=0.1)
    centred = kept - (1 - dropout)
    for di, dj in itertools.product((0, 1), (0, 1)):
        if di or dj:
            moved = centred[di:, dj:] * centred[: 1500 - di, : 1500 - dj]
            assert abs(moved.mean().item()) < 5 * spread**2 / 1500
    corners = centred[:-1, :-1] * centred[1:, :-1] * centred[:-1, 1:] * centred[1:, 1:]
    assert abs(corners.mean().item()) < 5 * spread**4 / 1500
