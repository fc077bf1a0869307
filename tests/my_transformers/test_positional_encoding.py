import math

import pytest
import torch

from my_transformers import (
    AxialPositionalEncoding,
    LearnedPositionalEncoding,
    LearnedSinusoidalPositionalEncoding,
    NoPositionalEncoding,
    SinusoidalPositionalEncoding,
)

DIM = 12
SOMETHING = [
    LearnedPositionalEncoding(DIM, 24),
    SinusoidalPositionalEncoding(DIM, 24),
    SinusoidalPositionalEncoding(7, 24),  # an odd number
    LearnedSinusoidalPositionalEncoding(DIM, 24),
    LearnedSinusoidalPositionalEncoding(DIM, 24, columns=6, off_grid=1),
    AxialPositionalEncoding(DIM, (4, 6)),
    AxialPositionalEncoding(7, (4, 6)),
    AxialPositionalEncoding(DIM, (4, 6), dims=(2, 10)),
]


def _name(encoding: torch.nn.Module) -> str:
    return type(encoding).__name__


each = pytest.mark.parametrize("encoding", [*SOMETHING, NoPositionalEncoding(24)], ids=_name)
each_that_adds = pytest.mark.parametrize("encoding", SOMETHING, ids=_name)


def _width(encoding: torch.nn.Module) -> int:
    table = encoding.table()
    return DIM if table is None else table.shape[1]


@each_that_adds
def test_adds_the_row_of_each_position(encoding: torch.nn.Module) -> None:
    x = torch.randn(2, 24, _width(encoding))
    added = encoding(x) - x
    torch.testing.assert_close(added[0], encoding.table())
    torch.testing.assert_close(added[0], added[1])
    assert len(encoding.table().unique(dim=0)) == 24


@each
def test_steps_equal_the_whole(encoding: torch.nn.Module) -> None:
    x = torch.randn(2, 24, _width(encoding))
    one_by_one = torch.cat([encoding(x[:, t : t + 1], first=t) for t in range(24)], dim=1)
    assert torch.equal(one_by_one, encoding(x))


@each_that_adds
def test_a_part_of_the_table_from_anywhere(encoding: torch.nn.Module) -> None:
    for first, last in ((0, 1), (5, 6), (6, 7), (3, 17), (7, 12), (23, 24), (0, 24)):
        assert torch.equal(encoding.between(first, last), encoding.table()[first:last])


@each
def test_too_many_tokens_are_refused(encoding: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="25 tokens, but there are positions for max_len=24"):
        encoding(torch.randn(1, 25, _width(encoding)))
    with pytest.raises(ValueError, match="max_len=24"):
        encoding(torch.randn(1, 1, _width(encoding)), first=24)


@pytest.mark.parametrize("amplitude", [1.0, 0.25])
def test_sinusoids_are_the_papers(amplitude: float) -> None:
    table = SinusoidalPositionalEncoding(6, 50, amplitude=amplitude).table() / amplitude
    for position in (0, 1, 17, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert not list(SinusoidalPositionalEncoding(6, 50).state_dict())


def test_no_encoding_changes_nothing() -> None:
    x = torch.randn(2, 5, 3)
    encoding = NoPositionalEncoding(9)
    assert encoding.table() is None
    assert torch.equal(encoding(x), x)
    assert torch.equal(encoding(x, first=4), x)
    assert not list(encoding.state_dict())


@pytest.mark.parametrize("off_grid", [0, 1, 2])
@pytest.mark.parametrize("columns", [None, 5])
def test_learned_sinusoids_are_the_formula(columns: int | None, off_grid: int) -> None:
    """Axis by axis its sines and then its cosines, each times its amplitude."""
    encoding = LearnedSinusoidalPositionalEncoding(DIM, 19, columns=columns, off_grid=off_grid).double()
    torch.nn.init.uniform_(encoding.frequencies, 0.1, 2)
    torch.nn.init.normal_(encoding.amplitudes)
    for token, row in enumerate(encoding.table().tolist()):
        place = token - off_grid
        expected = []
        for axis, x in enumerate([place] if columns is None else [place // columns, place % columns]):
            expected += [math.sin(w * x) for w in encoding.frequencies[axis].tolist()]
            expected += [math.cos(w * x) for w in encoding.frequencies[axis].tolist()]
        on_grid = float(token >= off_grid)
        expected = [on_grid * a * x for a, x in zip(encoding.amplitudes.tolist(), expected, strict=True)]
        assert row == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("columns", "axes", "dim"), [(None, 1, 8), (5, 2, 16)])
def test_learned_sinusoids_start_small_with_wavelengths_from_4_to_the_longest(columns, axes, dim) -> None:
    encoding = LearnedSinusoidalPositionalEncoding(dim, 50, columns=columns, longest=108)
    wavelengths = 2 * math.pi / encoding.frequencies
    torch.testing.assert_close(wavelengths, torch.tensor([[4.0, 12.0, 36.0, 108.0]] * axes))
    length = 0.02 * math.sqrt(dim / 2)  # a sine and its cosine lie on a circle
    torch.testing.assert_close(encoding.table().norm(dim=-1), torch.full((50,), length))


def test_learned_sinusoids_learn() -> None:
    encoding = LearnedSinusoidalPositionalEncoding(DIM, 20, columns=4, off_grid=1)
    (encoding(torch.zeros(1, 20, DIM)) * torch.randn(20, DIM)).sum().backward()
    assert {name for name, _ in encoding.named_parameters()} == {"frequencies", "amplitudes"}
    assert all((p.grad != 0).all() for p in encoding.parameters())


@pytest.mark.parametrize(
    ("dim", "settings", "message"),
    [
        (7, {}, "dim 7 is not divisible by 2"),
        (6, {"columns": 4}, "dim 6 is not divisible by 4"),
        (8, {"columns": 0}, "columns is 0"),
        (8, {"off_grid": -1}, "off_grid is -1"),
    ],
)
def test_learned_sinusoids_that_cannot_be_are_refused(dim: int, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedSinusoidalPositionalEncoding(dim, 24, **settings)


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
    assert encoding(torch.zeros(1, 3, _width(encoding), dtype=torch.bfloat16)).dtype == torch.bfloat16
