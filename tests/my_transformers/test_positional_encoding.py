import math

import pytest
import torch

from my_transformers import AxialPositionalEncoding, LearnedPositionalEncoding, SinusoidalPositionalEncoding

ENCODINGS = [
    LearnedPositionalEncoding(7, 24),
    SinusoidalPositionalEncoding(7, 24),
    AxialPositionalEncoding(7, (4, 6)),
]
each = pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: type(e).__name__)


@each
def test_adds_the_row_of_each_position(encoding: torch.nn.Module) -> None:
    x = torch.randn(2, 24, 7)
    added = encoding(x) - x
    torch.testing.assert_close(added[0], encoding.table())
    torch.testing.assert_close(added[0], added[1])
    assert len(encoding.table().unique(dim=0)) == 24


@each
def test_steps_equal_the_whole(encoding: torch.nn.Module) -> None:
    x = torch.randn(2, 24, 7)
    one_by_one = torch.cat([encoding(x[:, t : t + 1], first=t) for t in range(24)], dim=1)
    assert torch.equal(one_by_one, encoding(x))


@each
def test_too_many_tokens_are_refused(encoding: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="25 tokens, but there are positions for max_len=24"):
        encoding(torch.randn(1, 25, 7))
    with pytest.raises(ValueError, match="max_len=24"):
        encoding(torch.randn(1, 1, 7), first=24)


def test_sinusoids_are_the_papers() -> None:
    table = SinusoidalPositionalEncoding(6, 50).table()
    for position in (0, 1, 17, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert not list(SinusoidalPositionalEncoding(6, 50).state_dict())


def test_axial_is_a_row_beside_a_column_and_small() -> None:
    encoding = AxialPositionalEncoding(8, (4, 6), dims=(3, 5))
    table = encoding.table()
    for i in (0, 7, 23):
        expected = torch.cat((encoding.rows[i // 6, 0], encoding.columns[0, i % 6]))
        assert torch.equal(table[i], expected)
    assert sum(p.numel() for p in encoding.parameters()) == 4 * 3 + 6 * 5
    with pytest.raises(ValueError, match="add up to 9, must be dim 8"):
        AxialPositionalEncoding(8, (4, 6), dims=(4, 5))


@each
def test_half_precision_stays_half(encoding: torch.nn.Module) -> None:
    assert encoding(torch.zeros(1, 3, 7, dtype=torch.bfloat16)).dtype == torch.bfloat16
