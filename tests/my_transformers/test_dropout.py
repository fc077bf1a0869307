"""Dropout: the share that is dropped, the expectation, gradients, and PyTorch's form where the fast one cannot be."""

import math

import pytest
import torch
from torch import nn

from my_transformers.dropout import Dropout, drop, drop_values

N = 400_000


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.9])
def test_elements_are_dropped_independently(probability):
    """Four elements share one draw: the share is right in each of the four places, and for pairs of neighbours."""
    torch.manual_seed(0)
    kept = (drop(torch.ones(N), probability) != 0).double().view(-1, 4)
    keep = 1 - probability
    noise = 5 * math.sqrt(keep * probability / (N / 4))
    assert ((kept.mean(0) - keep).abs() < noise).all()
    both = kept.T @ kept / (N / 4)
    assert ((both - keep**2).fill_diagonal_(0).abs() < 5 / math.sqrt(N / 4)).all()


@pytest.mark.parametrize("probability", [1e-4, 0.1, 1 / 3, 0.999])
def test_kept_elements_have_the_exact_expectation(probability):
    """Kept elements are divided by the probability with which they are really kept, a multiple of 2^-16."""
    torch.manual_seed(0)
    out = drop(torch.ones(N, dtype=torch.float64), probability)
    keep = round((1 - probability) * 2**16) / 2**16
    assert set(out.unique().tolist()) == {0.0, 1 / keep}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 7), (0, 4), ()])
def test_shape_and_dtype_stay(dtype, shape):
    out = drop(torch.ones(shape, dtype=dtype), 0.5)
    assert (out.shape, out.dtype) == (torch.Size(shape), dtype)


def test_gradients_pass_where_elements_were_kept():
    x = torch.randn(50, 30, dtype=torch.float64).t().requires_grad_()  # not contiguous
    out = drop(x, 0.25)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    assert 0 < (gradient == 0).sum() < x.numel()


def test_the_global_generator_decides():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = drop(x, 0.5), drop(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x, 0.5))
    assert not torch.equal(first, second)


def test_a_module_drops_in_training_alone():
    x = torch.ones(1000)
    module = Dropout(0.5)
    assert isinstance(module, nn.Dropout)
    assert (module(x) == 0).any()
    assert module.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert (Dropout(1.0)(x) == 0).all()


def test_it_works_under_vmap():
    outs = torch.func.vmap(lambda x: drop(x, 0.5), randomness="different")(torch.ones(4, 500))
    assert len({tuple(row.tolist()) for row in outs}) == 4


def test_values_are_dropped_whole():
    out = drop_values(torch.ones(2, 3, 100, 8), 0.5)
    assert torch.equal(out, out[..., :1].expand_as(out))
    assert set(out.unique().tolist()) == {0.0, 2.0}
