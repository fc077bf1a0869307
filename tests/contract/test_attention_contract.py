"""What every attention mechanism satisfies, whatever it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import CASES, DEVICES, STRICT, Case, attend, heads, steps

LENGTHS = st.integers(1, 70)
few = settings(max_examples=15, deadline=None)
every = pytest.mark.parametrize("case", CASES, ids=str)
strict = pytest.mark.parametrize("case", STRICT, ids=str)


def directions(cases: list[Case]) -> pytest.MarkDecorator:
    """Each case both bidirectional and causal, where it can be."""
    both = [(case, causal) for case in cases for causal in case.directions]
    names = [f"{'causal' if causal else 'bidirectional'}-{case}" for case, causal in both]
    return pytest.mark.parametrize(("case", "causal"), both, ids=names)


every_direction = directions(CASES)


def grads(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return torch.autograd.grad(out, inputs, torch.randn_like(out), allow_unused=True, materialize_grads=True)


@every_direction
@few
@given(n=LENGTHS, batch=st.integers(1, 3), h=st.integers(1, 3))
def test_any_length(case: Case, causal: bool, n: int, batch: int, h: int) -> None:
    h = max(h, case.min_heads)
    q, k, v = heads(n, batch=batch, h=h)
    out = attend(case.build(causal=causal, heads=h), q, k, v)
    assert out.shape == v.shape
    assert out.isfinite().all()


@directions([case for case in CASES if not case.mixes_values])
@few
@given(n=LENGTHS, seed=st.integers(0, 99))
def test_output_is_a_weighted_mean_of_values(case: Case, causal: bool, n: int, seed: int) -> None:
    q, k, v = heads(n, seed=seed)
    out = attend(case.build(causal=causal).eval(), q, k, torch.ones_like(v))
    torch.testing.assert_close(out, torch.ones_like(v))  # rounds summed instead of weighed would give n_rounds


@every
@few
@given(n=st.integers(1, 50), seed=st.integers(0, 99))
def test_heads_and_samples_are_independent(case: Case, n: int, seed: int) -> None:
    mechanism = case.build(causal=case.directions[-1], heads=3).eval()
    q, k, v = heads(n, seed=seed, batch=3, h=3)
    out = attend(mechanism, q, k, v)
    for x in (q, k, v):
        x[1] = torch.randn_like(x[1])
        x[:, 2] *= -3
    changed = attend(mechanism, q, k, v)
    torch.testing.assert_close(changed[::2, :2], out[::2, :2], rtol=0, atol=1e-12)


@strict
@few
@given(data=st.data(), n=st.integers(2, 70), seed=st.integers(0, 99))
def test_causal_means_causal(case: Case, data: st.DataObject, n: int, seed: int) -> None:
    t = data.draw(st.integers(1, n - 1), label="t")
    mechanism = case.build(causal=True).eval()
    qkv = [x.requires_grad_() for x in heads(n, seed=seed)]
    out = attend(mechanism, *qkv)
    new = heads(n, seed=seed + 1000)  # another direction, so another bucket, not only another size
    changed = [torch.cat((x[:, :, :t], y[:, :, t:]), dim=2) for x, y in zip(qkv, new, strict=True)]
    torch.testing.assert_close(attend(mechanism, *changed)[:, :, :t], out[:, :, :t], rtol=0, atol=case.reordering)
    for gradient in grads(out[:, :, :t], qkv):
        assert (gradient[:, :, t:] == 0).all()


@strict
def test_moving_chunk_borders_is_invisible_to_the_past(case: Case) -> None:
    """All tokens in one crowded bucket, and the future moved into another one: where chunk rules leak."""
    n, t = 64, 37
    q, k, v = heads(n, seed=5)
    q[:, :, :] = q[:, :, :1] + 0.01 * q
    mechanism = case.build(causal=True).eval()
    out = attend(mechanism, q, k, v)
    q = torch.cat((q[:, :, :t], -q[:, :, t:]), dim=2)
    torch.testing.assert_close(attend(mechanism, q, k, v)[:, :, :t], out[:, :, :t], rtol=0, atol=case.reordering)


def test_the_papers_chunk_rule_leaks_as_documented() -> None:
    case = next(case for case in CASES if case.name == "lsh-chunk")
    q, k, v = heads(64, seed=5)
    q[:, :, :] = q[:, :, :1] + 0.01 * q
    mechanism = case.build(causal=True).eval()
    out = attend(mechanism, q, k, v)
    changed = attend(mechanism, torch.cat((q[:, :, :37], -q[:, :, 37:]), dim=2), k, v)
    assert (changed[:, :, :37] - out[:, :, :37]).abs().max() > 1e-3


@every_direction
@few
@given(data=st.data(), n=st.integers(1, 40), padding=st.integers(0, 30), seed=st.integers(0, 99))
def test_padding_is_invisible(case: Case, causal: bool, data: st.DataObject, n: int, padding: int, seed: int) -> None:
    """Whatever stands at masked positions, wherever they are, and to the gradient as well."""
    mechanism = case.build(causal=causal).eval()
    total = n + padding
    places = data.draw(st.permutations(range(total)), label="places")
    mask = torch.zeros(2, total, dtype=torch.bool)
    mask[:, sorted(places[:n])] = True
    qkv = [x.requires_grad_() for x in heads(total, seed=seed)]
    other = [torch.where(mask[:, None, :, None], x, 50 * torch.randn_like(x)) for x in qkv]
    out, changed = (attend(mechanism, *tensors, mask=mask) for tensors in (qkv, other))
    assert changed.isfinite().all()
    torch.testing.assert_close(changed.mT[..., mask[0]], out.mT[..., mask[0]], rtol=0, atol=1e-12)
    for gradient in grads(out.mT[..., mask[0]], qkv):
        assert (gradient.mT[..., ~mask[0]] == 0).all()


@directions([case for case in CASES if not case.circle])
def test_padding_behind_equals_no_padding(case: Case, causal: bool) -> None:
    """With the number of buckets held fixed, for it follows from the padded length."""
    mechanism = case.build(causal=causal).eval()
    if hasattr(mechanism, "n_buckets"):
        mechanism.n_buckets = 4
    q, k, v = heads(40)
    mask = torch.arange(40).expand(2, -1) < 29
    padded = attend(mechanism, q, k, v, mask=mask)[:, :, :29]
    bare = attend(mechanism, *(x[:, :, :29] for x in (q, k, v)))
    torch.testing.assert_close(padded, bare, rtol=0, atol=1e-12)


@strict
@few
@given(n=st.integers(1, 60), seed=st.integers(0, 99))
def test_steps_equal_the_whole(case: Case, n: int, seed: int) -> None:
    mechanism = case.build(causal=True).eval()
    q, k, v = heads(n, seed=seed)
    torch.testing.assert_close(steps(mechanism, q, k, v), attend(mechanism, q, k, v), rtol=0, atol=1e-12)


@strict
@pytest.mark.parametrize("n", [1, 5, 11])
def test_rows_picked_anew_go_on_as_if_they_had_been_there_from_the_start(case: Case, n: int) -> None:
    """More rows than before, as many and fewer, some several times and others not at all, as a beam search does it."""
    mechanism = case.build(causal=True).eval()
    history = heads(n, batch=2)
    cache = mechanism.new_cache(history[0], 4 * n)
    found = [steps(mechanism, *history, cache=cache)]
    for rows in ([1, 0, 1, 1, 0], [4, 0, 0, 2, 3], [3, 1]):
        cache.select_rows(torch.tensor(rows))
        new = heads(n, seed=len(found), batch=len(rows))
        history = [torch.cat((old[rows], x), dim=2) for old, x in zip(history, new, strict=True)]
        found = [*(out[rows] for out in found), steps(mechanism, *new, cache=cache)]
    torch.testing.assert_close(torch.cat(found, dim=2), attend(mechanism, *history), rtol=0, atol=1e-12)


@every_direction
def test_steps_are_refused_where_they_cannot_be_right(case: Case, causal: bool) -> None:
    if causal and not case.leaks_by_design:
        return  # they are right: see above
    with pytest.raises(ValueError, match="causal=True"):
        case.build(causal=causal).new_cache(heads(4)[0], 4)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.directions) == 1], ids=str)
def test_a_direction_that_there_is_not_is_refused_and_another_mechanism_named(case: Case) -> None:
    with pytest.raises(ValueError, match=case.instead):
        case.build(causal=not case.directions[0])


@strict
def test_a_full_cache_says_so(case: Case) -> None:
    mechanism = case.build(causal=True).eval()
    q, k, v = heads(3)
    cache = mechanism.new_cache(q, 2)
    token = [x[:, :, :1] for x in ((q, v) if mechanism.shared_query_key else (q, k, v))]
    mechanism.step(*token, cache)
    mechanism.step(*token, cache)
    with pytest.raises(ValueError, match="max_len=2"):
        mechanism.step(*token, cache)


@every
@pytest.mark.parametrize("device", DEVICES)
def test_replayable(case: Case, device: str) -> None:
    """The same generator state gives the same output and gradient bit for bit; another state gives others."""
    mechanism = case.build(causal=case.directions[-1], dropout=0.3, device=device).train()
    qkv = [x.requires_grad_() for x in heads(50, dtype=torch.float32, device=device)]
    weights = torch.randn_like(qkv[2])

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        out = attend(mechanism, *qkv)
        return [out, *torch.autograd.grad(out, qkv, weights, allow_unused=True, materialize_grads=True)]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    mechanism.eval()
    assert torch.equal(run(1)[0], run(2)[0])  # evaluation is not random


@every_direction
def test_dropout_keeps_the_mean(case: Case, causal: bool) -> None:
    """Over many draws the mean is the output without dropout, within five standard errors."""
    q, k, v = heads(12, batch=1)
    mechanism = case.build(causal=causal, dropout=0.4)
    if hasattr(mechanism, "fresh_rotations"):
        mechanism.fresh_rotations = False
    elif hasattr(mechanism, "rotations"):
        mechanism.n_buckets = 1  # whatever is drawn
    exact = attend(mechanism.eval(), q, k, v)
    mechanism.train()
    torch.manual_seed(0)
    draws = torch.stack([attend(mechanism, q, k, v) for _ in range(600)])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * error + 1e-9).all()
    assert (draws.std(0).amax((0, 2, 3)) > 0.05).all()  # in every head


@every_direction
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(case: Case, causal: bool, device: str, dtype: torch.dtype) -> None:
    """Against the same numbers in float64; buckets are held fixed by hashing numbers that survive rounding."""
    mechanism = case.build(causal=causal, device=device).eval()
    if hasattr(mechanism, "n_buckets"):
        mechanism.n_buckets = 1
    rounded = [x.to(dtype).requires_grad_() for x in heads(33, device=device)]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    low, high = attend(mechanism, *rounded), attend(mechanism, *exact)
    weights = torch.randn_like(high)
    tolerance = 0.05 if dtype == torch.bfloat16 else 0.01
    torch.testing.assert_close(low.double(), high, rtol=tolerance, atol=tolerance)
    for a, b in zip(
        torch.autograd.grad(low, rounded, weights.to(dtype), allow_unused=True, materialize_grads=True),
        torch.autograd.grad(high, exact, weights, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a.double(), b, rtol=4 * tolerance, atol=4 * tolerance)


@every_direction
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1e-20, 1e4], ids=["tiny", "large"])
def test_finite_where_numbers_are_extreme(case: Case, causal: bool, device: str, size: float) -> None:
    """Huge and vanishing logits, one real token in a row, all of a row padded: output and gradient stay finite."""
    mechanism = case.build(causal=causal, device=device)
    qkv = [x.mul(size).requires_grad_() for x in heads(20, dtype=torch.float32, device=device)]
    mask = torch.zeros(2, 20, dtype=torch.bool, device=device)
    mask[0, 13] = True
    for visible in (None, mask):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=size > 1):
            out = attend(mechanism, *qkv, mask=visible)
        assert out.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in grads(out, qkv))
    if causal or not case.mixes_values:  # a lonely token sees itself
        rounded = torch.bfloat16 if size > 1 else torch.float32  # autocast may round some heads or all
        tolerance = {"rtol": case.alone, "atol": 0} if case.alone else {}
        torch.testing.assert_close(out[0, :, 13].to(rounded), qkv[2][0, :, 13].to(rounded), **tolerance)


@every_direction
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(case: Case, causal: bool, dropout: float) -> None:
    """Analytic gradients against finite differences in float64, padding included: without dropout all of q, k and v.

    With dropout, where it is the quick check along random directions, those of the parameters as well.
    """
    mechanism = case.build(causal=causal, dropout=dropout, head_dim=3).train().double()
    qkv = [x.requires_grad_() for x in heads(9, batch=1, d=3)]
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, [2, 8]] = False

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return attend(mechanism, q, k, v, mask=mask)

    inputs = [*qkv, *mechanism.parameters()] if dropout else qkv  # parameters are moved in place, where run finds them
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=dropout > 0)


@directions([case for case in CASES if case.compiled])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_whole(case: Case, causal: bool) -> None:
    """No graph break, equal output and gradient."""
    torch.compiler.reset()
    mechanism = case.build(causal=causal).eval()
    compiled = torch.compile(mechanism, fullgraph=True, backend="aot_eager")
    qkv = [x.requires_grad_() for x in heads(13)]
    mask = torch.arange(13).expand(2, -1) < 11
    plain, fast = attend(mechanism, *qkv, mask=mask), attend(compiled, *qkv, mask=mask)
    weights = torch.randn_like(plain)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        torch.autograd.grad(fast, qkv, weights, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(plain, qkv, weights, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@every_direction
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts synchronisations of a CUDA device")
def test_no_host_sync(case: Case, causal: bool) -> None:
    mechanism = case.build(causal=causal, dropout=0.1, device="cuda")
    qkv = [x.requires_grad_() for x in heads(70, dtype=torch.float32, device="cuda")]
    mask = torch.ones(2, 70, dtype=torch.bool, device="cuda")
    for training in (True, False):
        mechanism.train(training)
        attend(mechanism, *qkv, mask=mask).sum().backward()  # warm up
        torch.cuda.set_sync_debug_mode("error")
        try:
            attend(mechanism, *qkv, mask=mask).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
