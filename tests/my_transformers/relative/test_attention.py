import math

import pytest
import torch
from torch import Tensor, nn

from my_transformers import (
    FullAttention,
    LSHAttention,
    PerformerAttention,
    RelativeAttention,
    SharedQKAttention,
    extended_dim,
)

HEADS, HEAD_DIM, SCALES = 2, 5, 3


def _strong(mechanism: nn.Module | None = None, **settings: object) -> RelativeAttention:
    """With parameters that matter, none like another."""
    torch.manual_seed(0)
    settings = {"heads": HEADS, "head_dim": HEAD_DIM, "n_scales": SCALES} | settings
    attend = RelativeAttention(mechanism or FullAttention(), **settings).double()
    with torch.no_grad():
        attend.frequencies.copy_(torch.rand_like(attend.frequencies) * 2)
        attend.coefficients.normal_()
        if attend.by_content is not None:
            attend.by_content.normal_(std=0.5)
    return attend


def _heads(n: int, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, HEADS, n, HEAD_DIM, dtype=torch.float64, generator=generator).unbind(0)


def _logit(attend: RelativeAttention, head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
    """The class's formula for one pair: q and k (batch, head_dim) -> (batch,)."""
    logit = (q * k).sum(-1) / math.sqrt(HEAD_DIM)
    if min(i, j) < attend.off_grid:
        return logit
    i, j = i - attend.off_grid, j - attend.off_grid
    distances = [i - j]
    if attend.columns is not None:
        distances = [i // attend.columns - j // attend.columns, i % attend.columns - j % attend.columns]
    n_waves = attend.coefficients.shape[-1]
    for axis, t in enumerate(distances):
        for scale, w in enumerate(attend.frequencies[axis]):
            wave = axis * SCALES + scale
            a, b = attend.coefficients[head, :, wave]
            if attend.by_content is not None:
                a = a + q @ attend.by_content[head, :, wave]
                b = b + q @ attend.by_content[head, :, n_waves + wave]
            logit = logit + a * torch.cos(w * t) + b * torch.sin(w * t)
    return logit


def _by_formula(attend: RelativeAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    n = q.shape[2]
    heads = []
    for head in range(HEADS):
        pairs = [[_logit(attend, head, i, j, q[:, head, i], k[:, head, j]) for j in range(n)] for i in range(n)]
        heads.append(torch.stack([torch.stack(row, dim=-1) for row in pairs], dim=-2))
    logits = torch.stack(heads, dim=1)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -math.inf)
    if attend.causal:
        logits = logits.masked_fill(~torch.ones(n, n).tril().bool(), -math.inf)
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("off_grid", [0, 1, 2])
@pytest.mark.parametrize("columns", [None, 4])
def test_with_the_exact_softmax_it_is_the_formula(columns, off_grid, content, causal) -> None:
    attend = _strong(FullAttention(causal=causal), columns=columns, off_grid=off_grid, content=content)
    q, k, v = _heads(11)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v), _by_formula(attend, q, k, v), rtol=0, atol=1e-12)
        mask = torch.rand(2, 11) > 0.3
        mask[:, 0] = True
        real = mask[:, None, :, None]
        padded = attend(q, k, v, mask=mask) * real
        torch.testing.assert_close(padded, _by_formula(attend, q, k, v, mask) * real, rtol=0, atol=1e-12)


def test_gradients_are_the_formulas() -> None:
    attend = _strong(columns=3, off_grid=1)
    inputs = [x.requires_grad_() for x in _heads(8)]
    inputs += attend.parameters()
    direction = torch.randn(2, HEADS, 8, HEAD_DIM, dtype=torch.float64)
    ours = torch.autograd.grad((attend(*inputs[:3]) * direction).sum(), inputs)
    formulas = torch.autograd.grad((_by_formula(attend, *inputs[:3]) * direction).sum(), inputs)
    for x, y in zip(ours, formulas, strict=True):
        assert y.abs().max() > 1e-3
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_no_content_is_what_content_is_without_its_weights() -> None:
    without, content = _strong(content=False), _strong(content=True)
    assert {name for name, _ in content.named_parameters()} == {"frequencies", "coefficients", "by_content"}
    content.load_state_dict(without.state_dict() | {"by_content": content.by_content})
    q, k, v = _heads(9)
    assert (content(q, k, v) - without(q, k, v)).abs().mean() > 0.05
    nn.init.zeros_(content.by_content)
    torch.testing.assert_close(content(q, k, v), without(q, k, v), rtol=0, atol=1e-14)


@pytest.mark.parametrize("columns", [None, 7])
def test_wavelengths_go_from_4_to_the_longest(columns: int | None) -> None:
    attend = RelativeAttention(FullAttention(), heads=1, head_dim=4, n_scales=4, columns=columns, longest=108)
    expected = torch.tensor([4.0, 12.0, 36.0, 108.0]).expand(1 if columns is None else 2, -1)
    torch.testing.assert_close(2 * math.pi / attend.frequencies, expected)


class _Recording(nn.Module):
    """Any mechanism with queries and keys of their own will do."""

    shared_query_key, causal = False, False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        self.q, self.k = q, k
        return v


@pytest.mark.parametrize("columns", [None, 4])
def test_the_mechanism_gets_queries_and_keys_as_long_as_it_was_told(columns: int | None) -> None:
    """And their last numbers, cosines and then sines, turn with a translation: what a Performer's ``turned`` needs."""
    inner = _Recording()
    attend = _strong(inner, columns=columns, content=False)
    q, k, v = _heads(9)
    attend(q[:, :, :1].expand_as(q), k, v)
    length = extended_dim(HEAD_DIM, SCALES, columns)
    assert inner.q.shape[-1] == inner.k.shape[-1] == length
    frequencies = attend.frequencies[-1]  # along the only axis, or along a row
    for features in (inner.q, inner.k):
        cos, sin = features[..., HEAD_DIM:].unflatten(-1, (2, -1, SCALES))[..., -1, :].unbind(-2)
        here, next_to_it = (torch.complex(cos, sin)[:, :, t] for t in (1, 2))
        torch.testing.assert_close(next_to_it, here * torch.polar(torch.ones_like(frequencies), frequencies))


class _Translation:
    """A block of tokens at two places of a grid or a line, all else padded; weak enough for errors to be small."""

    def __init__(self, columns: int | None) -> None:
        self.columns = columns
        self.shape, self.block = ((1, 40), (1, 12)) if columns is None else ((7, columns), (4, 4))
        self.ends = (0, 0), (0, 9) if columns is None else (2, 3)
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randn(3, 1, 2, *self.block, 8, dtype=torch.float64, generator=generator)
        self.tokens[:2] *= 0.3

    def outputs(self, mechanism: nn.Module) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        attend = RelativeAttention(mechanism, heads=2, head_dim=8, n_scales=2, columns=self.columns).double()
        nn.init.normal_(attend.coefficients, std=0.1)
        nn.init.normal_(attend.by_content, std=0.035)
        return tuple(self._at(attend, *end) for end in self.ends)

    @torch.no_grad()
    def _at(self, attend: nn.Module, row: int, column: int) -> Tensor:
        where = (slice(row, row + self.block[0]), slice(column, column + self.block[1]))
        grid = torch.zeros(3, 1, 2, *self.shape, 8, dtype=torch.float64)
        mask = torch.zeros(1, *self.shape, dtype=torch.bool)
        grid[:, :, :, *where], mask[:, *where] = self.tokens, True
        return attend(*grid.flatten(3, 4), mask=mask.flatten(1)).unflatten(2, self.shape)[:, :, *where]

    def errors(self, n_features: int, turned: bool) -> tuple[float, float]:
        """How far the output changes as the block moves, and how far it is from the exact softmax's; over seeds."""
        length = extended_dim(8, 2, self.columns)
        exact = self.outputs(FullAttention())[0]
        moved, estimated = [], []
        for seed in range(12):
            inner = PerformerAttention(length, n_features=n_features, turned=turned * (length - 8), seed=seed)
            here, there = self.outputs(inner)
            moved.append((there - here).square().mean().sqrt())
            estimated.append((here - exact).square().mean().sqrt())
        return torch.stack(moved).mean().item(), torch.stack(estimated).mean().item()


@pytest.mark.parametrize(("columns", "gain"), [(None, 0.5), (7, 0.9)], ids=["line", "grid"])
def test_with_random_features_errors_fall_as_the_root_of_their_number(columns: int | None, gain: float) -> None:
    """16 times the features: a quarter of the errors, within 30%; turned directions: smaller ones from the start.

    Errors of the estimate and of translation-equivariance, which is its consequence.
    """
    translation = _Translation(columns)
    exact = translation.outputs(FullAttention())
    torch.testing.assert_close(*exact, rtol=0, atol=1e-12)
    moved = {}
    for turned in (False, True):
        few, many = (translation.errors(m, turned) for m in (256, 4096))
        for name, before, after in zip(("moved", "from the exact softmax"), few, many, strict=True):
            print(f"{columns=} {turned=}: {name} {before:.4f} at 256, {after:.4f} at 4096, ratio {before / after:.2f}")
            assert 2.8 < before / after < 5.2
        assert many[1] < 0.05 * exact[0].std()
        moved[turned] = few[0], many[0]
    for plain, turned in zip(moved[False], moved[True], strict=True):
        assert turned < gain * plain


@pytest.mark.parametrize("inner", [SharedQKAttention(), LSHAttention(bucket_size=4)], ids=["shared_qk", "lsh"])
def test_shared_queries_and_keys_are_refused(inner: nn.Module) -> None:
    with pytest.raises(ValueError, match="separate queries and keys; use PerformerAttention or FullAttention"):
        RelativeAttention(inner, heads=2, head_dim=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_scales": 0}, "n_scales is 0"),
        ({"longest": 3}, "longest 3: must be at least 1 and 4"),
        ({"columns": 0}, "columns is 0"),
        ({"off_grid": -1}, "off_grid is -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeAttention(FullAttention(), heads=2, head_dim=4, **settings)
