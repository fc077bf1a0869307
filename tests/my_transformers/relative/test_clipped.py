import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from my_transformers import (
    ClippedRelativeAttention,
    FullAttention,
    LSHAttention,
    PerformerAttention,
    SharedQKAttention,
)

HEAD_DIM = 6


def _strong(inner: nn.Module | None = None, heads: int = 3, **settings: object) -> ClippedRelativeAttention:
    torch.manual_seed(0)
    attend = ClippedRelativeAttention(inner or FullAttention(), heads=heads, head_dim=HEAD_DIM, **settings).double()
    for parameter in attend.parameters():
        nn.init.normal_(parameter)
    return attend.eval()


def _heads(n: int, heads: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(3, 2, heads, n, HEAD_DIM, dtype=torch.float64, generator=generator))


def _log_weight(attend: ClippedRelativeAttention, head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
    """The class's formula for one pair: q and k (batch, head_dim) -> (batch,)."""
    far, off, columns = attend.distance, attend.off_grid, attend.columns
    gate = torch.sigmoid(k @ attend.gate[head, :, 0] / math.sqrt(HEAD_DIM)).clamp(min=1e-4)
    if j < off:
        e = attend.nowhere[head, :, 0]
    elif i < off:
        e = attend.nowhere[head, :, 1]
    else:
        i, j = i - off, j - off
        if columns is None:
            number = min(max(j - i, -far), far) + far
        else:
            row = min(max(j // columns - i // columns, -far), far) + far
            column = min(max(j % columns - i % columns, -far), far) + far
            number = row * (2 * far + 1) + column
        e = attend.displacements[head, :, number]
    return q @ e / math.sqrt(HEAD_DIM) + gate.log()


def _by_formula(
    attend: ClippedRelativeAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The second half of the heads (b, heads // 2, n, e)."""
    n, first = q.shape[2], attend.content_heads
    mask = torch.ones(len(q), n, dtype=torch.bool) if mask is None else mask
    outs = []
    for head in range(first, q.shape[1]):
        for i in range(n):
            keys = range(i + 1 if attend.causal else n)
            logs = [_log_weight(attend, head - first, i, j, q[:, head, i], k[:, head, j]) for j in keys]
            logs = torch.stack(logs, dim=-1).masked_fill(~mask[:, : len(keys)], -math.inf)
            outs.append(torch.einsum("bj,bje->be", logs.softmax(-1), v[:, head, : len(keys)]))
    return torch.stack(outs, dim=1).unflatten(1, (-1, n))


GRIDS = pytest.mark.parametrize(
    ("columns", "n", "distance"),
    [
        (None, 1, 2),
        (None, 2, 5),  # farther than the line is long
        (None, 14, 3),
        (4, 3, 1),  # less than a row
        (4, 16, 2),
        (4, 15, 1),  # the last row is not full
        (5, 17, 6),  # farther than the grid is large
        (1, 6, 2),
    ],
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("off_grid", [0, 1, 2])
@GRIDS
def test_it_is_the_formula(columns, n, distance, off_grid, causal) -> None:
    attend = _strong(FullAttention(causal=causal), distance=distance, columns=columns, off_grid=off_grid)
    with torch.no_grad():
        attend.gate[0] *= 8  # some gates shut
    q, k, v = _heads(n + off_grid)
    mask = torch.rand(2, n + off_grid) > 0.3
    mask[:, 0] = True
    with torch.no_grad():
        for padding in (None, mask):
            real = 1 if padding is None else padding[:, None, :, None]
            first, second = (attend(q, k, v, mask=padding) * real).split((2, 1), dim=1)
            formula = _by_formula(attend, q, k, v, padding) * real
            torch.testing.assert_close(second, formula, rtol=0, atol=1e-12)
            inner = attend.mechanism(q[:, :2], k[:, :2], v[:, :2], mask=padding) * real
            assert torch.equal(first, inner)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("columns", [None, 4])
def test_a_displacement_at_which_nothing_stands_takes_no_part(columns: int | None, causal: bool) -> None:
    """Weights are relative to the largest: beside one of nothing, exp(1000) times theirs, all would vanish."""
    attend = _strong(FullAttention(causal=causal), distance=2, columns=columns, off_grid=1)
    q, k, v = _heads(12)
    q = 1000 * q
    mask = torch.rand(2, 12) > 0.5
    mask[:, 0], mask[:, 1] = causal, True
    real = mask[:, None, :, None]
    with torch.no_grad():
        ours = attend(q, k, v, mask=mask)[:, 2:]
        torch.testing.assert_close(ours * real, _by_formula(attend, q, k, v, mask) * real, rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("columns", "n"), [(None, 9), (4, 11)])
def test_gradients_are_the_formulas(columns, n, causal) -> None:
    attend = _strong(FullAttention(causal=causal), distance=2, columns=columns, off_grid=2)
    inputs = [x.requires_grad_() for x in _heads(n)]
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[1, -3:] = False
    inputs += attend.parameters()
    direction = torch.randn(2, 1, n, HEAD_DIM, dtype=torch.float64) * mask[:, None, :, None]
    ours = torch.autograd.grad((attend(*inputs[:3], mask=mask)[:, 2:] * direction).sum(), inputs)
    formulas = torch.autograd.grad((_by_formula(attend, *inputs[:3], mask) * direction).sum(), inputs)
    assert len(inputs) == 3 + 3
    for x, y in zip(ours, formulas, strict=True):
        assert y.abs().max() > 1e-3
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("heads", "second"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_of_the_heads_know_no_places(heads: int, second: int) -> None:
    attend = _strong(heads=heads, distance=2)
    q, k, v = _heads(9, heads)
    order = torch.randperm(9)
    out, shuffled = attend(q, k, v)[:, :, order], attend(q[:, :, order], k[:, :, order], v[:, :, order])
    alike = torch.isclose(out, shuffled, rtol=0, atol=1e-12).all(-1).all(-1).all(0)
    assert alike.tolist() == [True] * (heads - second) + [False] * second


def _weights(attend: ClippedRelativeAttention, n: int, at: int) -> Tensor:
    """The weights of all keys, which are all alike, for the query there: values that name the keys show them."""
    q, k, _ = _heads(n, 2)
    v = torch.eye(n, dtype=torch.float64).expand(2, 2, n, n)
    with torch.no_grad():
        return attend(q, k[:, :, :1].expand_as(k), v)[0, 1, at]


def test_on_a_line_all_beyond_the_distance_are_alike_and_left_is_not_right() -> None:
    weights = _weights(_strong(heads=2, distance=3), 21, at=10).tolist()
    assert weights[:8] == pytest.approx([weights[7]] * 8, rel=1e-12)
    assert weights[13:] == pytest.approx([weights[13]] * 8, rel=1e-12)
    assert all(abs(a / b - 1) > 0.01 for i, a in enumerate(weights[7:14]) for b in weights[7 + i + 1 : 14])


def test_on_a_grid_each_axis_is_clipped_by_itself() -> None:
    weights = _weights(_strong(heads=2, distance=1, columns=7), 49, at=24).unflatten(0, (7, 7))
    thirds = [slice(0, 3), slice(3, 4), slice(4, 7)]
    regions = [weights[row, column].flatten() for row in thirds for column in thirds]
    for region in regions:
        torch.testing.assert_close(region, region[:1].expand_as(region), rtol=1e-12, atol=0)
    values = torch.stack([region[0] for region in regions])
    differences = (values[:, None] / values - 1).abs() + torch.eye(9)
    assert differences.min() > 0.01


def test_a_shut_gate_still_lets_a_ten_thousandth_through() -> None:
    attend = _strong(heads=2, distance=1)
    q, k, _ = _heads(8, 2)
    open_gate = 1e4 * attend.gate[0, :, 0].detach()
    k = torch.stack([open_gate] * 3 + [-open_gate] * 5).expand_as(k)
    v = torch.eye(8, dtype=torch.float64).expand(2, 2, 8, 8)
    weights = attend(0 * q, k, v)[0, 1]
    expected = torch.tensor([1.0] * 3 + [1e-4] * 5, dtype=torch.float64)
    torch.testing.assert_close(weights, (expected / expected.sum()).expand_as(weights))


def test_dropout_drops_whole_values_of_the_second_half() -> None:
    attend = _strong(heads=2, distance=2, off_grid=1, dropout=0.25)
    q, k, _ = _heads(40, 2)
    v = torch.eye(40, dtype=torch.float64).repeat(1, 2).expand(2, 2, 40, 80)  # each weight, twice
    with torch.no_grad():
        whole, dropped = attend(q, k, v), attend.train()(q, k, v)
    assert torch.equal(whole[:, 0], dropped[:, 0])
    assert torch.equal(dropped[..., :40], dropped[..., 40:])
    whole, dropped = whole[..., :40], dropped[..., :40]
    kept = dropped[:, 1] / whole[:, 1]
    torch.testing.assert_close(kept, kept[:, :1].expand_as(kept))  # for all queries at once
    missing = kept[:, 0] == 0
    torch.testing.assert_close(kept[:, 0][~missing], torch.full(((~missing).sum(),), 4 / 3, dtype=torch.float64))
    assert 8 <= missing.sum() <= 32  # of 80, a quarter


class _Largest(TorchDispatchMode):
    """The most numbers in any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *(x.untyped_storage().nbytes() // x.element_size() for x in made)])
        return out


def _memory(attend: nn.Module, n: int, e: int = 8) -> tuple[int, int]:
    """The largest tensor of forward and backward, and all numbers kept for backward."""
    saved = {}

    def keep(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    q, k, v = (torch.randn(1, 2, n, size, requires_grad=True) for size in (HEAD_DIM, HEAD_DIM, e))
    with _Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = attend(q, k, v)
        out.sum().backward()
    return largest.numbers, sum(saved.values())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("columns", [None, 16])
def test_memory_grows_as_the_length(columns: int | None, causal: bool) -> None:
    inner = PerformerAttention(HEAD_DIM, n_features=8, causal=causal, chunk_size=32)
    attend = ClippedRelativeAttention(inner, heads=2, head_dim=HEAD_DIM, distance=2, columns=columns)
    short, long = _memory(attend, 256), _memory(attend, 2048)
    for at_256, at_2048 in zip(short, long, strict=True):
        assert at_2048 < 8.5 * at_256
    assert long[0] < 2048**2 / 10  # no weight for each pair


def test_nothing_has_a_value_for_each_place_and_displacement() -> None:
    """O(n (C + e)): here C = 81 and e = 64."""
    inner = PerformerAttention(HEAD_DIM, n_features=8)
    attend = ClippedRelativeAttention(inner, heads=2, head_dim=HEAD_DIM, distance=4, columns=32)
    largest, saved = _memory(attend, 1024, e=64)
    assert max(largest, saved) < 1024 * 81 * 64 / 2


@pytest.mark.parametrize("inner", [SharedQKAttention(), LSHAttention(bucket_size=4)], ids=["shared_qk", "lsh"])
def test_shared_queries_and_keys_are_refused(inner: nn.Module) -> None:
    with pytest.raises(ValueError, match="separate queries and keys; use PerformerAttention or FullAttention"):
        ClippedRelativeAttention(inner, heads=2, head_dim=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 1}, "heads is 1"),
        ({"distance": 0}, "distance 0: must be at least 2 and 1"),
        ({"columns": 0}, "columns is 0"),
        ({"off_grid": -1}, "off_grid is -1"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClippedRelativeAttention(FullAttention(), **{"heads": 2, "head_dim": 4} | settings)
