"""Places on a grid, and what every mechanism that knows tokens by their places promises."""

import pytest
import torch
from torch import Tensor, nn

from my_transformers import (
    ClippedRelativeAttention,
    FullAttention,
    LearnedSinusoidalPositionalEncoding,
    PerformerAttention,
    RelativeAttention,
    extended_dim,
)
from my_transformers.relative.grid import check_grid, places

HEAD_DIM = 6


def _relative(columns: int | None, off_grid: int, causal: bool) -> nn.Module:
    return RelativeAttention(
        FullAttention(causal=causal), heads=3, head_dim=HEAD_DIM, n_scales=3, columns=columns, off_grid=off_grid
    )


def _relative_performer(columns: int | None, off_grid: int, causal: bool) -> nn.Module:
    inner = PerformerAttention(extended_dim(HEAD_DIM, 3, columns), n_features=32, causal=causal, chunk_size=4)
    return RelativeAttention(inner, heads=3, head_dim=HEAD_DIM, n_scales=3, columns=columns, off_grid=off_grid)


def _clipped(inner: nn.Module, columns: int | None, off_grid: int) -> nn.Module:
    return ClippedRelativeAttention(inner, heads=3, head_dim=HEAD_DIM, distance=2, columns=columns, off_grid=off_grid)


def _clipped_full(columns: int | None, off_grid: int, causal: bool) -> nn.Module:
    return _clipped(FullAttention(causal=causal), columns, off_grid)


def _clipped_performer(columns: int | None, off_grid: int, causal: bool) -> nn.Module:
    return _clipped(PerformerAttention(HEAD_DIM, n_features=16, causal=causal, chunk_size=4), columns, off_grid)


EXACT = [_relative, _clipped_full, _clipped_performer]  # random features inside a RelativeAttention are not
ALL = [*EXACT, _relative_performer]


def _build(make: object, columns: int | None, off_grid: int, causal: bool = False) -> nn.Module:
    torch.manual_seed(0)
    mechanism = make(columns, off_grid, causal).double().eval()
    with torch.no_grad():  # strong, so that what is seen depends on them
        for parameter in mechanism.parameters():
            parameter.mul_(2)
    return mechanism


def _names(value: object) -> str | None:
    return value.__name__.strip("_") if callable(value) else None


@pytest.mark.parametrize("off_grid", [0, 1, 3])
def test_places_go_row_by_row_after_the_tokens_off_the_grid(off_grid: int) -> None:
    tokens = torch.arange(off_grid, off_grid + 14)
    on_grid = [[row, column] for row in range(3) for column in range(5)][:14]
    assert places(tokens, 5, off_grid).tolist() == on_grid
    assert places(tokens[7:9], 5, off_grid).tolist() == on_grid[7:9]
    assert places(tokens, None, off_grid).tolist() == [[place] for place in range(14)]


def test_a_grid_that_cannot_be_is_refused() -> None:
    check_grid(1, 0)
    check_grid(None, 5)
    with pytest.raises(ValueError, match="columns is 0, must be at least 1, or None for a line"):
        check_grid(0, 0)
    with pytest.raises(ValueError, match="off_grid is -1, must be 0 or more"):
        check_grid(None, -1)


# A block of real tokens, moved about a grid of padding. Each is (shape of the grid, of the block, corners of it).
ON_A_LINE = ((1, 30), (1, 9), [(0, 0), (0, 7), (0, 21)])
ON_A_GRID = ((7, 8), (4, 4), [(0, 0), (2, 3), (1, 4), (3, 4), (3, 0)])


class _Block:
    """Queries, keys and values of a block of tokens and of one class token."""

    def __init__(self, shape: tuple[int, int], block: tuple[int, int]) -> None:
        torch.manual_seed(1)
        self.shape, self.block = shape, block
        self.tokens = torch.randn(3, 2, 3, *block, HEAD_DIM, dtype=torch.float64)
        self.class_token = torch.randn(3, 2, 3, 1, HEAD_DIM, dtype=torch.float64)

    def at(self, row: int, column: int) -> tuple[list[Tensor], Tensor]:
        """Q, k, v and mask of the sequence that has the block there; what is padded is something else each time."""
        grid = 3 * torch.randn(3, 2, 3, *self.shape, HEAD_DIM, dtype=torch.float64)
        mask = torch.zeros(2, *self.shape, dtype=torch.bool)
        where = (slice(row, row + self.block[0]), slice(column, column + self.block[1]))
        grid[:, :, :, *where] = self.tokens
        mask[:, *where] = True
        mask = torch.cat((torch.ones(2, 1, dtype=torch.bool), mask.flatten(1)), dim=1)
        return list(torch.cat((self.class_token, grid.flatten(3, 4)), dim=3)), mask

    def cut(self, out: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
        """Outputs of the class token and of the block."""
        grid = out[:, :, 1:].unflatten(2, self.shape)
        return out[:, :, 0], grid[:, :, row : row + self.block[0], column : column + self.block[1]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("shape", "block", "corners"), [ON_A_LINE, ON_A_GRID], ids=["line", "grid"])
@pytest.mark.parametrize("make", EXACT, ids=_names)
def test_moving_a_block_moves_its_output(make, shape, block, corners, causal: bool) -> None:
    mechanism = _build(make, None if shape[0] == 1 else shape[1], 1, causal)
    moved = _Block(shape, block)
    outs = []
    for corner in corners:
        qkv, mask = moved.at(*corner)
        outs.append(moved.cut(mechanism(*qkv, mask=mask), *corner))
    for of_class, of_block in outs[1:]:
        torch.testing.assert_close(of_class, outs[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(of_block, outs[0][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "block", "corners"), [ON_A_LINE, ON_A_GRID], ids=["line", "grid"])
def test_with_absolute_positions_it_does_not(shape, block, corners) -> None:
    """What the test above would not see if its blocks were all alike."""
    encoding = LearnedSinusoidalPositionalEncoding(
        3 * 2 * HEAD_DIM // 3, 1 + shape[0] * shape[1], columns=None if shape[0] == 1 else shape[1], off_grid=1
    ).double()
    nn.init.ones_(encoding.amplitudes)
    moved = _Block(shape, block)
    outs = []
    for corner in corners[:2]:
        (q, k, v), mask = moved.at(*corner)
        both = encoding(torch.cat((q, k), dim=-1).flatten(0, 1)).unflatten(0, (2, 3))
        out = FullAttention()(*both.chunk(2, dim=-1), v, mask=mask)
        outs.append(moved.cut(out, *corner))
    for first, second in zip(*outs, strict=True):
        assert (first - second).abs().mean() > 0.02


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("make", EXACT, ids=_names)
def test_a_token_off_the_grid_has_no_place(make, columns: int | None) -> None:
    """In whatever order the others stand, it sees them alike; and they see those off the grid in any order alike."""
    mechanism = _build(make, columns, off_grid=2)
    torch.manual_seed(2)
    qkv = torch.randn(3, 2, 3, 2 + 13, HEAD_DIM, dtype=torch.float64)
    mask = torch.rand(2, 15) > 0.2
    mask[:, :2] = True
    order = torch.cat((torch.tensor([1, 0]), 2 + torch.randperm(13)))
    out = mechanism(*qkv, mask=mask)
    shuffled = mechanism(*qkv[:, :, :, order], mask=mask[:, order])
    torch.testing.assert_close(shuffled[:, :, :2], out[:, :, [1, 0]], rtol=0, atol=1e-12)
    assert (shuffled - out[:, :, order])[:, -1, 2:].abs().mean() > 0.01  # but those on the grid have a place

    order[2:] = torch.arange(2, 15)
    swapped = mechanism(*qkv[:, :, :, order], mask=mask)
    torch.testing.assert_close(swapped, out[:, :, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("make", ALL, ids=_names)
def test_a_sample_changes_no_others_output(make, columns: int | None) -> None:
    """Scales that all samples shared would let them."""
    mechanism = _build(make, columns, off_grid=1)
    q, k, v = torch.randn(3, 3, 3, 11, HEAD_DIM, dtype=torch.float64)
    before = mechanism(q, k, v)
    others = [x.clone() for x in (q, k, v)]
    for some in (others[1:], others):  # keys and values, then the queries too
        for x in some:
            x[1] = 7 * x[1] + 3
        after = mechanism(*others)
        assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] - before[1]).abs().mean() > 0.01


@pytest.mark.parametrize("off_grid", [0, 2])
@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("make", ALL, ids=_names)
def test_steps_stand_at_the_places_of_the_whole(make, columns: int | None, off_grid: int) -> None:
    mechanism = _build(make, columns, off_grid, causal=True)
    q, k, v = torch.randn(3, 2, 3, 15, HEAD_DIM, dtype=torch.float64)
    cache = mechanism.new_cache(q, 15)
    steps = [mechanism.step(*(x[:, :, t : t + 1] for x in (q, k, v)), cache) for t in range(15)]
    torch.testing.assert_close(torch.cat(steps, dim=2), mechanism(q, k, v), rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="the cache is full"):
        mechanism.step(*(x[:, :, :1] for x in (q, k, v)), cache)


@pytest.mark.parametrize("make", ALL, ids=_names)
def test_only_what_is_causal_goes_step_by_step(make) -> None:
    assert _build(make, 4, 1, causal=True).causal
    both_ways = _build(make, 4, 1)
    assert not both_ways.causal
    with pytest.raises(ValueError, match="needs causal=True"):
        both_ways.new_cache(torch.zeros(1, 3, 1, HEAD_DIM), 5)


@pytest.mark.parametrize("make", ALL, ids=_names)
def test_other_places_for_keys_than_for_queries_are_refused(make) -> None:
    q, k = torch.zeros(1, 3, 4, HEAD_DIM), torch.zeros(1, 3, 5, HEAD_DIM)
    with pytest.raises(ValueError, match="4 queries and 5 keys"):
        make(None, 0, False)(q, k, k)
