"""Attention by products of features against the same weights written out pair by pair."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from my_transformers.performer import bidirectional
from my_transformers.performer.bidirectional import bidirectional_kernel_attention
from my_transformers.performer.causal import PrefixSum, causal_kernel_attention, divide_by_weights
from my_transformers.performer.features import draw_projection, log_features
from my_transformers.performer.recompute import LogFeatures

few = settings(max_examples=25, deadline=None)
HUGE = 1e4


def draw(seed: int, n: int, m: int | None = None) -> tuple[list[Tensor], Tensor]:
    """q (2, 3, n, 4), k (2, 3, m, 4), v (2, 3, m, 5), and a mask (2, m) with at least one real key a sample."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((n, 4), (m or n, 4), (m or n, 5))
    qkv = [torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    mask = torch.rand(2, m or n, generator=generator) < 0.7
    mask[range(2), torch.randint(0, m or n, (2,), generator=generator)] = True
    return qkv, mask


def features(kernel: str) -> LogFeatures:
    projection = draw_projection(7, 4, generator=torch.Generator().manual_seed(1))
    return partial(log_features, projection=projection, kernel=kernel, epsilon=1e-3)


def of_queries(kernel: str) -> LogFeatures:
    """The same but for a factor of each query."""
    return partial(features(kernel), up_to_a_factor=True)


def naive(q: Tensor, k: Tensor, v: Tensor, log_phi: LogFeatures, visible: Tensor) -> Tensor:
    """A = phi(q) phi(k)^T where visible (b, n, m), each row divided by its sum; 0 where nothing is visible."""
    weights = (log_phi(q).exp() @ log_phi(k).exp().mT) * visible.unsqueeze(1)
    total = weights.sum(-1, keepdim=True)
    return weights @ v / total.where(total > 0, 1)


def by_logarithms(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The same for log phi(x) = x where weights are too large or too small for any number."""
    logs = (q.double().unsqueeze(-2) + k.double().unsqueeze(-3)).logsumexp(-1)
    return logs.masked_fill(~visible, -torch.inf).softmax(-1) @ v.double()


def itself(x: Tensor) -> Tensor:
    """Features whose logarithms are the numbers given."""
    return x


def assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor], *, only: Tensor | None = None) -> None:
    """Outputs, and gradients of all inputs; ``only``: (b, n) queries that count."""
    if only is not None:
        ours, theirs = (x.transpose(1, 2)[only] for x in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(x, inputs, weights) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize("masked", [False, True])
@few
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 30),
    seed=st.integers(0, 999),
    in_work=st.sampled_from([1, 300, 2000, 2**20]),
)
def test_bidirectional_equals_the_naive_formula(
    kernel: str, masked: bool, n: int, m: int, seed: int, in_work: int
) -> None:
    """As many keys as queries, or not; with gradients; also where samples and tokens are worked on one by one."""
    qkv, mask = draw(seed, n, m)
    mask = mask if masked else None
    visible = torch.ones(2, n, m, dtype=torch.bool) if mask is None else mask.unsqueeze(1).expand(-1, n, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bidirectional, "_FEATURES_IN_WORK", in_work)
        ours = bidirectional_kernel_attention(*qkv, of_queries(kernel), features(kernel), mask=mask)
        assert_same(ours, naive(*qkv, features(kernel), visible), qkv)


def test_bidirectional_keeps_no_features() -> None:
    """What forward keeps does not grow with length x features."""
    (q, k, v), _ = draw(0, 400, 400)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = bidirectional_kernel_attention(q, k, v, *2 * [features("softmax")])
    sums = sum(kept.values()) - sum(x.untyped_storage().nbytes() for x in (q, k, v, out))
    assert sums < 0.3 * q.shape[0] * q.shape[1] * 400 * features("softmax")(q).shape[-1] * 8


def test_a_large_key_in_a_later_piece_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums so far are scaled to the largest feature of all, whichever piece it is in."""
    (q, k, v), _ = draw(0, 12)
    k = (k.detach() * torch.linspace(0.1, 30, 12).view(-1, 1)).requires_grad_()
    monkeypatch.setattr(bidirectional, "_FEATURES_IN_WORK", 1)
    ours = bidirectional_kernel_attention(q, k, v, *2 * [features("softmax")])
    assert_same(ours, naive(q, k, v, features("softmax"), torch.ones(2, 12, 12, dtype=torch.bool)), (q, k, v))


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize("masked", [False, True])
@few
@given(n=st.integers(1, 30), chunk_size=st.sampled_from([1, 2, 5, 8, 64]), seed=st.integers(0, 999))
def test_causal_equals_the_naive_formula(kernel: str, masked: bool, n: int, chunk_size: int, seed: int) -> None:
    """Whatever the chunks; the hand-written backward against autograd's. Queries that see no key do not count."""
    qkv, mask = draw(seed, n)
    mask = mask if masked else None
    visible = torch.ones(2, n, n, dtype=torch.bool).tril() & (True if mask is None else mask.unsqueeze(1))
    ours = causal_kernel_attention(*qkv, of_queries(kernel), features(kernel), mask=mask, chunk_size=chunk_size)
    assert ours.isfinite().all()
    assert_same(ours, naive(*qkv, features(kernel), visible), qkv, only=visible.any(-1))


def test_a_sample_without_real_keys_sees_all() -> None:
    (q, k, v), mask = draw(0, 6, 9)
    mask[1] = False
    out = bidirectional_kernel_attention(q, k, v, *2 * [features("softmax")], mask=mask)
    visible = (mask | torch.tensor([[False], [True]])).unsqueeze(1).expand(-1, 6, -1)
    assert_same(out, naive(q, k, v, features("softmax"), visible), (q, k, v))


@pytest.mark.parametrize("attend", [bidirectional_kernel_attention, partial(causal_kernel_attention, chunk_size=4)])
def test_scale_of_features_is_divided_out(attend: object) -> None:
    """A constant added to the logarithms, one for each query, one for all keys of a head, changes nothing."""
    (q, k, v), mask = draw(0, 11)
    of_queries, of_heads = 1e5 * torch.randn(2, 3, 11, 1), 1e5 * torch.randn(2, 3, 1, 1)
    out, moved = (attend(*qk, v, itself, itself, mask=mask) for qk in ((q, k), (q + of_queries, k + of_heads)))
    torch.testing.assert_close(moved, out, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 4, 8, 64])
@pytest.mark.parametrize("place", [9, 12, 20])
def test_a_huge_later_key_changes_no_earlier_output(chunk_size: int, place: int) -> None:
    """Not in a single bit, inside its chunk or behind it; nor an earlier gradient."""
    qkv = [x.detach().float().requires_grad_() for x in draw(0, 21)[0]]
    raised = qkv[1].detach().clone()
    raised[:, :, place] += HUGE
    results = []
    for k in (qkv[1], raised.requires_grad_()):
        inputs = [qkv[0], k, qkv[2]]
        out = causal_kernel_attention(*inputs, *2 * [itself], chunk_size=chunk_size)
        assert out.isfinite().all()
        gradients = torch.autograd.grad(out[:, :, :place], inputs, torch.ones_like(out[:, :, :place]))
        results.append([x[:, :, :place] for x in (out, *gradients)])
    assert all(torch.equal(*both) for both in zip(*results, strict=True))


@pytest.mark.parametrize("chunk_size", [1, 4, 8, 64])
def test_a_huge_earlier_key_takes_all_weight(chunk_size: int) -> None:
    q, k, v = (x.detach().float().requires_grad_() for x in draw(0, 21)[0])
    raised = k.detach().clone()
    raised[:, :, 9] += HUGE
    before = causal_kernel_attention(q, k, v, *2 * [itself], chunk_size=chunk_size)[:, :, :9]
    out = causal_kernel_attention(q, raised.requires_grad_(), v, *2 * [itself], chunk_size=chunk_size)
    torch.testing.assert_close(out[:, :, :9], before)
    torch.testing.assert_close(out[:, :, 9:], v[:, :, 9:10].expand(-1, -1, 12, -1))
    gradients = torch.autograd.grad(out, (q, raised, v), torch.ones_like(out))
    assert all(x.isfinite().all() for x in gradients)
    torch.testing.assert_close(gradients[2][:, :, 9], torch.full((2, 3, 5), 12.0))
    assert (gradients[2][:, :, 10:] == 0).all()


@few
@given(seed=st.integers(0, 999), size=st.sampled_from([10.0, 1e3, HUGE]))
def test_bidirectional_is_exact_where_weights_leave_the_range_of_numbers(seed: int, size: float) -> None:
    """In float32, each feature of each token at a size of its own, against logarithms in float64."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (size * torch.randn(1, 1, n, 6, generator=generator) for n in (7, 9))
    v = torch.randn(1, 1, 9, 3, generator=generator)
    expected = by_logarithms(q, k, v, torch.ones(7, 9, dtype=torch.bool))
    ours = bidirectional_kernel_attention(q, k, v, *2 * [itself])
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6 * size + 1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_where_all_weights_vanish_a_query_sees_itself(chunk_size: int, masked: bool) -> None:
    """Token 1's key is huge in a feature that later queries have nothing of; output and gradients."""
    q = torch.tensor([[0.0, 0], [0, 0], [-200, 0], [0, 0], [-200, 0]]).view(1, 1, 5, 2)
    k = torch.tensor([[0.0, 0], [HUGE, -HUGE], [0, 0], [0, 0], [0, 0]]).view(1, 1, 5, 2)
    v = torch.randn(1, 1, 5, 3)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    mask = torch.tensor([[True, True, True, True, False]]) if masked else None
    out = causal_kernel_attention(*inputs, *2 * [itself], mask=mask, chunk_size=chunk_size)
    torch.testing.assert_close(out, v[:, :, [0, 1, 2, 1, 4]])
    weights = torch.randn_like(out)
    of_q, of_k, of_v = torch.autograd.grad(out, inputs, weights)
    assert (of_q == 0).all()
    assert (of_k == 0).all()
    expected = weights.clone()
    expected[:, :, 1] += weights[:, :, 3]
    expected[:, :, 3] = 0
    torch.testing.assert_close(of_v, expected)


@pytest.mark.parametrize("splits", [[11], [1] * 11, [4, 4, 3], [1, 7, 3]], ids=str)
def test_prefix_sums_are_what_all_tokens_so_far_add_up_to(splits: list[int]) -> None:
    """Chunk by chunk, however cut: the outputs, and sum_j phi(k_j) [v_j, 1]^T after each chunk."""
    (q, k, v), _ = draw(0, 11)
    log_q, log_k = features("softmax")(q), features("softmax")(k) + 20
    values = torch.cat((v, torch.ones(2, 3, 11, 1)), dim=-1)
    so_far, outs, end = PrefixSum.empty(v, 7), [], 0
    for chunk in zip(*(x.split(splits, dim=2) for x in (log_q, log_k, v)), strict=True):
        sums, so_far = so_far.attend(*chunk)
        outs.append(divide_by_weights(sums, chunk[2]))
        end += chunk[2].shape[2]
        expected = log_k[:, :, :end].exp().mT @ values[:, :, :end]
        torch.testing.assert_close(so_far.sums * so_far.largest.exp().unsqueeze(-1), expected)
        torch.testing.assert_close(so_far.largest.squeeze(-1), log_k[:, :, :end].amax((2, 3)))
    visible = torch.ones(2, 11, 11, dtype=torch.bool).tril()
    torch.testing.assert_close(torch.cat(outs, dim=2), naive(q, k, v, features("softmax"), visible))


@pytest.mark.parametrize("causal", [True, False])
def test_another_sample_changes_nothing(causal: bool) -> None:
    """Bit for bit, be its keys ever so large: scales are taken out for each sample and head by itself."""
    attend = partial(causal_kernel_attention, chunk_size=8) if causal else bidirectional_kernel_attention
    q, k, v = (torch.randn(3, 2, 21, 8) for _ in range(3))
    log_phi = partial(log_features, projection=draw_projection(16, 8))
    out = attend(q, k, v, log_phi, log_phi)
    k[1] *= 1000
    k[:, 1] += 100
    changed = attend(q, k, v, log_phi, log_phi)
    assert torch.equal(changed[::2, 0], out[::2, 0])
    assert not torch.isclose(changed[1], out[1]).all()
    assert not torch.isclose(changed[:, 1], out[:, 1]).all()


def saved_numbers(n: int, f: int, chunk_size: int, masked: bool = False) -> int:
    """What a forward of one head with d = 6 and e = 5 keeps for backward."""
    q, k, v = (torch.randn(1, 1, n, size, requires_grad=True) for size in (6, 6, 5))
    mask = torch.rand(1, n) < 0.7 if masked else None
    projection, kept = draw_projection(f, 6), {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        log_phi = partial(log_features, projection=projection)
        causal_kernel_attention(q, k, v, log_phi, log_phi, mask=mask, chunk_size=chunk_size)
    return sum(kept.values())


@pytest.mark.parametrize("masked", [False, True])
def test_backward_keeps_no_features(masked: bool) -> None:
    """q, k, v, the output, and at each chunk's start f (e + 1) sums and a scale: no features (n, f), no weights."""
    for n in (256, 512):
        for f, chunk_size in ((40, 64), (80, 64), (40, 128)):
            inputs_and_output, starts = n * (6 + 6 + 5 + 5), n // chunk_size * (f * (5 + 1) + 1)
            assert saved_numbers(n, f, chunk_size, masked) == inputs_and_output + starts + n * masked


def test_second_derivatives_of_the_causal_form_are_refused_rather_than_wrong() -> None:
    qkv, _ = draw(0, 9)
    out = causal_kernel_attention(*qkv, *2 * [features("softmax")], chunk_size=4)
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        gradient.sum().backward()


@pytest.mark.parametrize("spoilt", [0, 1], ids=["query", "key"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_not_hidden(spoilt: int, value: float) -> None:
    """Its weights are no smaller than any number, but they are not there: the token's own value is not the output."""
    log_phi = partial(log_features, projection=draw_projection(16, 8), kernel="softmax", epsilon=0.0)
    q, k, v = (torch.randn(1, 1, 12, 8) for _ in range(3))
    clean = causal_kernel_attention(q, k, v, log_phi, log_phi, chunk_size=4)
    (q, k)[spoilt][0, 0, 8, 3] = value
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = causal_kernel_attention(q, k, v, log_phi, log_phi, chunk_size=4)
    assert out[0, 0, 8:].isnan().all(-1).tolist() == ([True] + [False] * 3 if spoilt == 0 else [True] * 4)
    torch.testing.assert_close(out[:, :, :8], clean[:, :, :8])
    (grad_v,) = torch.autograd.grad(out[0, 0, 8].sum(), [v])
    assert not grad_v.isfinite().all()
