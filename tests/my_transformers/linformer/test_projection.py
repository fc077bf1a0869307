import math

import pytest
import torch
from torch import Tensor

from my_transformers import ConvolutionProjection, LearnedProjection, LengthProjection, MaxProjection, MeanProjection

KINDS = ["learned", "learned-heads", "mean", "max", "convolution", "convolution-heads"]


def make(kind: str, max_len: int, rank: int, *, heads: int = 2, head_dim: int = 4) -> LengthProjection:
    return {
        "learned": lambda: LearnedProjection(max_len, rank),
        "learned-heads": lambda: LearnedProjection(max_len, rank, heads=heads),
        "mean": lambda: MeanProjection(max_len, rank),
        "max": lambda: MaxProjection(max_len, rank),
        "convolution": lambda: ConvolutionProjection(max_len, rank, head_dim=head_dim),
        "convolution-heads": lambda: ConvolutionProjection(max_len, rank, head_dim=head_dim, heads=heads),
    }[kind]().double()


def naive(projection: LengthProjection, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token: what comes out, and which of it is made of any real token."""
    batch, heads, n, d = x.shape
    out = torch.zeros(batch, heads, projection.rank, d, dtype=x.dtype)
    real = torch.zeros(batch, projection.rank, dtype=torch.bool)
    window = math.ceil(projection.max_len / projection.rank)
    for b in range(batch):
        for r in range(projection.rank):
            seen = [t for t in range(n) if mask[b, t]]
            if not isinstance(projection, LearnedProjection):
                seen = [t for t in seen if t // window == r]
            real[b, r] = bool(seen)
            for h in range(heads):
                tokens = x[b, h, seen]
                if isinstance(projection, LearnedProjection):
                    weights = projection.weight[min(h, len(projection.weight) - 1), r]
                    out[b, h, r] = sum((weights[t] * x[b, h, t] for t in seen), torch.zeros(d))
                elif isinstance(projection, MeanProjection) and seen:
                    out[b, h, r] = tokens.mean(0)
                elif isinstance(projection, MaxProjection) and seen:
                    out[b, h, r] = tokens.max(0).values
                elif isinstance(projection, ConvolutionProjection):
                    kernel = projection.weight[min(h, len(projection.weight) - 1)]
                    out[b, h, r] = sum((x[b, h, t] @ kernel[t - r * window] for t in seen), torch.zeros(d))
    return out, real


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("max_len", "rank"), [(12, 4), (11, 3), (5, 5), (7, 1)])
@pytest.mark.parametrize("missing", [0, 4], ids=["full", "short"])
def test_a_projection_equals_its_formula(kind: str, max_len: int, rank: int, missing: int) -> None:
    """With padding and, of fewer tokens, by the first columns, windows or weights."""
    projection, n = make(kind, max_len, rank), max_len - missing
    x = torch.randn(3, 2, n, 4, dtype=torch.float64)
    mask = torch.rand(3, n) < 0.6
    mask[0] = True
    mask[1] = False
    mask[1, 0] = True
    for given in (None, mask):
        ours, real = projection(x, given)
        expected, there = naive(projection, x, torch.ones_like(mask) if given is None else given)
        torch.testing.assert_close(ours, expected)
        if "learned" not in kind:
            assert (real == there).all()
        else:
            assert real is None  # each mixes all


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_at_padding_is_invisible(kind: str) -> None:
    projection = make(kind, 10, 5)
    x = torch.randn(2, 2, 10, 4, dtype=torch.float64)
    mask = torch.rand(2, 10) < 0.5
    other = torch.where(mask[:, None, :, None], x, torch.tensor(torch.inf))
    torch.testing.assert_close(projection(other, mask)[0], projection(x, mask)[0], rtol=0, atol=0)


def test_the_convolution_equals_torchs() -> None:
    projection = make("convolution", 12, 4)
    x = torch.randn(2, 3, 12, 4, dtype=torch.float64)
    kernel = projection.weight[0].permute(2, 1, 0)  # (out, in, window)
    expected = torch.nn.functional.conv1d(x.flatten(0, 1).mT, kernel, stride=3).mT.unflatten(0, (2, 3))
    torch.testing.assert_close(projection(x)[0], expected)


@pytest.mark.parametrize("kind", ["learned", "learned-heads", "convolution", "convolution-heads"])
def test_projected_tokens_start_as_large_as_tokens(kind: str) -> None:
    torch.manual_seed(0)
    projection = make(kind, 256, 64, head_dim=32)
    out, _ = projection(torch.randn(8, 2, 256, 32, dtype=torch.float64))
    assert 0.9 < out.std() < 1.1


@pytest.mark.parametrize("heads", [None, 2])
def test_the_identity_is_repeated(heads: int | None) -> None:
    projection = LearnedProjection(11, 4, heads=heads, start="identity").double()
    x = torch.randn(2, 2, 11, 3, dtype=torch.float64)
    assert projection.weight.shape == (heads or 1, 4, 11)
    torch.testing.assert_close(projection(x[:, :, :4])[0], x[:, :, :4], rtol=0, atol=0)
    expected = torch.stack([x[:, :, r::4].sum(2) for r in range(4)], dim=2)
    torch.testing.assert_close(projection(x)[0], expected)
    projection(x)[0].square().sum().backward()
    assert projection.weight.grad.ne(0).all(), "all of it learns"


def test_another_start_is_refused() -> None:
    with pytest.raises(ValueError, match="start is 'zero', must be one of noise, identity"):
        LearnedProjection(8, 4, start="zero")


@pytest.mark.parametrize("kind", KINDS)
def test_more_tokens_than_it_was_made_for_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="9 tokens, but the projection was made for max_len=8"):
        make(kind, 8, 4)(torch.randn(1, 2, 9, 4, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 9])
def test_an_impossible_rank_is_refused(kind: str, rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank is {rank}, must be in \[1, max_len\], and max_len is 8"):
        make(kind, 8, rank)


@pytest.mark.parametrize("kind", ["mean", "max", "convolution", "convolution-heads"])
def test_windows_that_would_stay_empty_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="rank is 7, but max_len 10 fills only 5 windows of 2 tokens"):
        make(kind, 10, 7)
