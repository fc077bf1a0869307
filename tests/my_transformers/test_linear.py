"""Linear attention: its cases for the contract, its definition, the paper's recurrent form."""

import pytest
import torch
from hypothesis import strategies as st
from mechanisms import Case, Defined, heads, plain

from my_transformers import LinearAttention, PerformerAttention, reference
from my_transformers.linear import log_elu_plus_one


def pair(*, causal, heads, head_dim, **given):
    def define(q, k, v, mask):
        return reference.linear_attention(q, k, v, reference.visible_keys(q.shape[2], mask, causal=causal))

    return LinearAttention(causal=causal, **given), define


CASES = [Case("linear", plain(LinearAttention, chunk_size=4))]
DEFAULTS = [Case("linear-default", plain(LinearAttention))]
DEFINITIONS = {"linear": Defined(pair, st.fixed_dictionaries({"chunk_size": st.integers(1, 12)}))}


def test_the_definition_is_the_papers_recurrence():
    """Equations 16 to 20: s and z from token to token."""
    q, k, v = heads(20)
    phi_q, phi_k = (torch.nn.functional.elu(x) + 1 for x in (q, k))
    s, z, outs = torch.zeros(2, 2, 8, 8).double(), torch.zeros(2, 2, 8).double(), []
    for i in range(20):
        s = s + phi_k[:, :, i, :, None] * v[:, :, i, None, :]
        z = z + phi_k[:, :, i]
        outs.append((phi_q[:, :, i, None] @ s)[:, :, 0] / (phi_q[:, :, i] * z).sum(-1, keepdim=True))
    visible = reference.visible_keys(20, torch.ones(2, 20).bool(), causal=True)
    torch.testing.assert_close(reference.linear_attention(q, k, v, visible), torch.stack(outs, dim=2))


def test_log_features_are_exact_where_elu_plus_one_is_not():
    x = torch.tensor([-1e4, -200.0, -1.5, -1e-9, 0.0, 1e-9, 2.0, 1e30], requires_grad=True)
    logs = log_elu_plus_one(x)
    torch.testing.assert_close(logs.detach().double(), torch.where(x > 0, x.detach().double().log1p(), x.detach()))
    (slope,) = torch.autograd.grad(logs.sum(), x)
    torch.testing.assert_close(slope, torch.where(x > 0, 1 / (1 + x), 1).detach())


@pytest.mark.parametrize("causal", [False, True])
def test_keys_that_elu_would_round_to_nothing_still_count(causal):
    """In float32, elu(-40) + 1 is 0, and so would be all sums; the weights are as if 40 had been added to the keys."""
    q, k, v = (x.float() for x in heads(30))
    k = -k.abs()
    mechanism = LinearAttention(causal=causal, chunk_size=8)
    torch.testing.assert_close(mechanism(q, k - 40, v), mechanism(q, k, v), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [10, 500])
def test_the_cache_does_not_grow(tokens):
    """d (e + 1) numbers and a scale a head."""
    cache = LinearAttention(causal=True).new_cache(torch.zeros(3, 2, 0, 8), tokens)
    assert sum(x.numel() for x in cache.so_far) == 3 * 2 * (8 * 9 + 1)


def test_what_is_out_of_range_is_refused():
    for wrong in ({"chunk_size": 0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LinearAttention(**wrong)


def test_it_is_no_performer_with_elu_kernel():
    """Whose features are of random projections: here they are of the numbers themselves, and unscaled."""
    q, k, v = heads(20)
    performer = PerformerAttention(8, kernel="elu", n_features=8, epsilon=1e-9)
    performer.projection = 8**0.25 * torch.eye(8)
    torch.testing.assert_close(LinearAttention()(q, k, v), performer(q, k, v), rtol=1e-6, atol=1e-6)
