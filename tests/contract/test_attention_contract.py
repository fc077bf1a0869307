"""What every attention mechanism satisfies, whatever it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import BOOKKEEPING, CASES, DEFAULTS, DEVICES, STRICT, Case, attend, heads, steps

from my_transformers import MECHANISMS, Mechanism, MultiHeadAttention

LENGTHS = st.integers(1, 70)
few = settings(max_examples=8, deadline=None)  # others each time
every = pytest.mark.parametrize("case", CASES, ids=str)
strict = pytest.mark.parametrize("case", STRICT, ids=str)
on_devices = pytest.mark.parametrize("device", DEVICES)


def directions(cases: list[Case]) -> pytest.MarkDecorator:
    """Each case both bidirectional and causal, where it can be."""
    both = [(case, causal) for case in cases for causal in case.directions]
    names = [f"{'causal' if causal else 'bidirectional'}-{case}" for case, causal in both]
    return pytest.mark.parametrize(("case", "causal"), both, ids=names)


every_direction = directions(CASES)
bookkeeping = pytest.mark.parametrize("case", [case for case in BOOKKEEPING if case in STRICT], ids=str)


def grads(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return torch.autograd.grad(out, inputs, torch.randn_like(out), allow_unused=True, materialize_grads=True)


def test_every_mechanism_is_here() -> None:
    """One that is registered without a case would be held to nothing; an imported one has no defaults of its own."""
    there = {mechanism.__name__ for mechanism in MECHANISMS}
    cases, defaults = (
        {type(case.build(causal=case.directions[0])).__name__ for case in some} for some in (CASES, DEFAULTS)
    )
    assert cases == there
    assert defaults == there - {"TransformersLSHAttention"}


@every
def test_a_class_declares_what_it_can_do(case: Case) -> None:
    """Directions, steps, attention to a context, and whether there is a greatest length."""
    mechanism = case.build(causal=case.directions[0]).eval()
    assert isinstance(mechanism, Mechanism)
    assert set(case.directions) <= set(mechanism.directions)
    assert [case.build(causal=causal).causal for causal in case.directions] == list(case.directions)
    assert case in STRICT or not (mechanism.steps and True in case.directions) or case.name.startswith("lsh-chunk")
    long = heads(130)
    if mechanism.needs_max_len:
        with pytest.raises(ValueError, match="max_len"):
            attend(mechanism, *long)
    else:
        assert attend(mechanism, *long).shape == long[2].shape


@pytest.mark.parametrize("case", [case for case in CASES if False in case.directions], ids=str)
def test_a_context_is_attended_to_or_refused(case: Case) -> None:
    """Whoever declares ``cross`` gives the same for the own tokens as a context, and can have another one."""
    mechanism = case.build(causal=False)
    layer = MultiHeadAttention(mechanism, dim=16, heads=2).double().eval()
    x, context = (torch.randn(2, n, 16, dtype=torch.float64) for n in (5, 9))
    if not mechanism.cross:
        with pytest.raises(ValueError, match="cannot attend to a context"):
            layer(x, context=context)
        return
    torch.testing.assert_close(layer(x, context=x), layer(x))
    out = layer(x, context=context)
    assert out.shape == x.shape
    assert (layer(x, context=context.flip(2)) - out).abs().max() > 1e-3
    torch.testing.assert_close(layer(x.flip(1), context=context), out.flip(1))  # queries do not see each other


@directions(BOOKKEEPING)
@few
@given(n=LENGTHS, batch=st.integers(1, 3), h=st.integers(1, 3))
def test_any_length(case: Case, causal: bool, n: int, batch: int, h: int) -> None:
    h = max(h, case.min_heads)
    q, k, v = heads(n, batch=batch, h=h)
    out = attend(case.build(causal=causal, heads=h), q, k, v)
    assert out.shape == v.shape
    assert out.isfinite().all()


@directions([case for case in CASES if not case.mixes_values and not case.inexact])
@few
@given(n=LENGTHS, seed=st.integers(0, 99))
def test_output_is_a_weighted_mean_of_values(case: Case, causal: bool, n: int, seed: int) -> None:
    q, k, v = heads(n, seed=seed)
    out = attend(case.build(causal=causal).eval(), q, k, torch.ones_like(v))
    torch.testing.assert_close(out, torch.ones_like(v))  # rounds summed instead of weighed would give n_rounds


@pytest.mark.parametrize("case", BOOKKEEPING, ids=str)
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
@on_devices
@few
@given(data=st.data(), n=st.integers(2, 70), seed=st.integers(0, 99))
def test_causal_means_causal(case: Case, device: str, data: st.DataObject, n: int, seed: int) -> None:
    t = data.draw(st.integers(1, n - 1), label="t")
    mechanism = case.build(causal=True, device=device).eval()
    qkv = [x.requires_grad_() for x in heads(n, seed=seed, device=device)]
    out = attend(mechanism, *qkv)
    new = heads(n, seed=seed + 1000, device=device)  # another direction, so another bucket, not only another size
    changed = [torch.cat((x[:, :, :t], y[:, :, t:]), dim=2) for x, y in zip(qkv, new, strict=True)]
    again = attend(mechanism, *changed)[:, :, :t]
    torch.testing.assert_close(again, out[:, :, :t], rtol=0, atol=case.reordering(device))
    for gradient in grads(out[:, :, :t], qkv):
        assert (gradient[:, :, t:] == 0).all()


@strict
@on_devices
def test_future_tokens_that_move_chunk_borders_change_nothing_before(case: Case, device: str) -> None:
    """All tokens in one crowded bucket, and the future moved into another one: where chunk rules leak."""
    n, t = 64, 37
    q, k, v = heads(n, seed=5, device=device)
    q[:, :, :] = q[:, :, :1] + 0.01 * q
    mechanism = case.build(causal=True, device=device).eval()
    out = attend(mechanism, q, k, v)
    q = torch.cat((q[:, :, :t], -q[:, :, t:]), dim=2)
    again = attend(mechanism, q, k, v)[:, :, :t]
    torch.testing.assert_close(again, out[:, :, :t], rtol=0, atol=case.reordering(device))


def test_the_papers_chunk_rule_leaks_as_documented() -> None:
    case = next(case for case in CASES if case.name == "lsh-chunk")
    q, k, v = heads(64, seed=5)
    q[:, :, :] = q[:, :, :1] + 0.01 * q
    mechanism = case.build(causal=True).eval()
    out = attend(mechanism, q, k, v)
    changed = attend(mechanism, torch.cat((q[:, :, :37], -q[:, :, 37:]), dim=2), k, v)
    assert (changed[:, :, :37] - out[:, :, :37]).abs().max() > 1e-3


@every_direction
@on_devices
@few
@given(data=st.data(), n=st.integers(1, 40), padding=st.integers(0, 30), seed=st.integers(0, 99))
def test_padding_is_invisible(
    case: Case, causal: bool, device: str, data: st.DataObject, n: int, padding: int, seed: int
) -> None:
    """Whatever stands at masked positions, wherever they are, and to the gradient as well."""
    mechanism = case.build(causal=causal, device=device).eval()
    total = n + padding
    places = data.draw(st.permutations(range(total)), label="places")
    mask = torch.zeros(2, total, dtype=torch.bool, device=device)
    mask[:, sorted(places[:n])] = True
    qkv = [x.requires_grad_() for x in heads(total, seed=seed, device=device)]
    other = [torch.where(mask[:, None, :, None], x, 50 * torch.randn_like(x)) for x in qkv]
    out, changed = (attend(mechanism, *tensors, mask=mask) for tensors in (qkv, other))
    assert changed.isfinite().all()
    torch.testing.assert_close(changed.mT[..., mask[0]], out.mT[..., mask[0]], rtol=0, atol=1e-12)
    for gradient in grads(out.mT[..., mask[0]], qkv):
        assert (gradient.mT[..., ~mask[0]] == 0).all()


@directions([case for case in CASES if not case.circle])
@on_devices
def test_padding_behind_equals_no_padding(case: Case, causal: bool, device: str) -> None:
    mechanism = case.build(causal=causal, device=device).eval()
    q, k, v = heads(40, device=device)
    mask = torch.arange(40, device=device).expand(2, -1) < 29
    padded = attend(mechanism, q, k, v, mask=mask)[:, :, :29]
    bare = attend(mechanism, *(x[:, :, :29] for x in (q, k, v)))
    torch.testing.assert_close(padded, bare, rtol=0, atol=1e-12)


@directions(DEFAULTS)
@on_devices
@pytest.mark.parametrize("real", [1, 200, 377])
def test_defaults_do_not_see_padding(case: Case, causal: bool, device: str, real: int) -> None:
    """A sequence alone, and padded beside a longer one: the same output, however much padding there is."""
    mechanism = case.build(causal=causal, device=device).eval()
    q, k, v = heads(400, device=device)
    mask = torch.arange(400, device=device) < torch.tensor([[real], [400]], device=device)
    padded = attend(mechanism, q, k, v, mask=mask)
    bare = attend(mechanism, *(x[:1, :, :real] for x in (q, k, v)))
    torch.testing.assert_close(padded[:1, :, :real], bare, rtol=0, atol=1e-12)
    torch.testing.assert_close(padded[1:], attend(mechanism, *(x[1:] for x in (q, k, v))), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in (*STRICT, *DEFAULTS) if True in case.directions], ids=str)
@on_devices
def test_appended_tokens_change_no_earlier_output(case: Case, device: str) -> None:
    """Not even by being there: how long the sequence becomes decides nothing."""
    mechanism = case.build(causal=True, device=device).eval()
    qkv = heads(300, device=device)
    whole = attend(mechanism, *qkv)
    for n in (1, 5, 63, 64, 65, 200):
        beginning = attend(mechanism, *(x[:, :, :n] for x in qkv))
        torch.testing.assert_close(beginning, whole[:, :, :n], rtol=0, atol=1e-12)


@every_direction
@on_devices
def test_nan_and_inf_stay_in_their_sequence(case: Case, causal: bool, device: str) -> None:
    """NaN in one sample and infinity in one head reach no other, neither outputs nor gradients; nor are they hidden."""
    mechanism = case.build(causal=causal, heads=3, device=device).eval()
    qkv = [x.requires_grad_() for x in heads(24, batch=3, h=3, device=device)]
    spoilt = [x.detach().clone() for x in qkv]
    for x in spoilt:
        x[1, :, 5] = torch.nan
    spoilt[-1][2, 0, 7] = torch.inf
    spoilt = [x.requires_grad_() for x in spoilt]
    options = {"allow_unused": True, "materialize_grads": True}
    found, wanted = (
        [out := attend(mechanism, *x), *torch.autograd.grad(out.sum(), x, **options)] for x in (spoilt, qkv)
    )
    assert found[0][1, :, 5].isnan().any(-1).all()
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(a[2, 1:], b[2, 1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "case",
    [case for case in (*STRICT, *DEFAULTS) if True in case.directions and not case.pointwise_variant_of],
    ids=str,
)
@pytest.mark.parametrize("cuts", [(150,), (1, 63, 2, 64, 20), (149, 1)], ids=str)
@on_devices
def test_several_tokens_a_step_equal_the_whole(case: Case, device: str, cuts: tuple[int, ...]) -> None:
    """A prompt may go through at once, and text in pieces of any size."""
    mechanism = case.build(causal=True, device=device).eval()
    q, k, v = heads(sum(cuts), device=device)
    tokens = (q, v) if mechanism.shared_query_key else (q, k, v)
    cache = mechanism.new_cache(q, 150)
    pieces = zip(*(x.split(cuts, dim=2) for x in tokens), strict=True)
    found = torch.cat([mechanism.step(*piece, cache) for piece in pieces], dim=2)
    torch.testing.assert_close(found, attend(mechanism, q, k, v), rtol=0, atol=1e-12)
    assert cache.length == 150


@bookkeeping
def test_a_step_of_another_shape_is_refused(case: Case) -> None:
    """One row for a cache of two, one head too few, more values than keys, more tokens than there is room for.

    And queries, keys or values of another width, of which a width of 1 would be broadcast. The cache stays as it was.
    """
    mechanism = case.build(causal=True).eval()
    q, k, v = heads(6)
    tokens = [q, v] if mechanism.shared_query_key else [q, k, v]
    cache = mechanism.new_cache(q, 5)
    one, two = ([x[:, :, 3 : 3 + t] for x in tokens] for t in (1, 2))
    found = [mechanism.step(*(x[:, :, :3] for x in tokens), cache)]
    for wrong in (
        [x[:1] for x in one],
        [x[:, :1] for x in one],
        [*one[:-1], tokens[-1][:, :, :2]],
        [x[:, :, :3] for x in tokens],
        [x[0] for x in one],
        *(
            [*new[:i], new[i][..., :width], *new[i + 1 :]]
            for new in (one, two)
            for i in range(len(new))
            for width in (1, 7)
        ),
    ):
        with pytest.raises(ValueError, match="the cache"):
            mechanism.step(*wrong, cache)
    found.append(mechanism.step(*two, cache))
    whole = attend(mechanism, *(x[:, :, :5] for x in (q, k, v)))
    torch.testing.assert_close(torch.cat(found, dim=2), whole, rtol=0, atol=1e-12)


@strict
@on_devices
@few
@given(n=st.integers(1, 60), seed=st.integers(0, 99))
def test_steps_equal_the_whole(case: Case, device: str, n: int, seed: int) -> None:
    mechanism = case.build(causal=True, device=device).eval()
    q, k, v = heads(n, seed=seed, device=device)
    torch.testing.assert_close(steps(mechanism, q, k, v), attend(mechanism, q, k, v), rtol=0, atol=1e-12)


@bookkeeping
@on_devices
@pytest.mark.parametrize("n", [1, 5, 11])
def test_selected_cache_rows_continue_as_whole_sequences(case: Case, device: str, n: int) -> None:
    """More rows than before, as many and fewer, some several times and others not at all, as a beam search does it."""
    mechanism = case.build(causal=True, device=device).eval()
    history = heads(n, batch=2, device=device)
    cache = mechanism.new_cache(history[0], 4 * n)
    found = [steps(mechanism, *history, cache=cache)]
    for rows in ([1, 0, 1, 1, 0], [4, 0, 0, 2, 3], [3, 1]):
        cache.select_rows(torch.tensor(rows, device=device))
        new = heads(n, seed=len(found), batch=len(rows), device=device)
        history = [torch.cat((old[rows], x), dim=2) for old, x in zip(history, new, strict=True)]
        found = [*(out[rows] for out in found), steps(mechanism, *new, cache=cache)]
    torch.testing.assert_close(torch.cat(found, dim=2), attend(mechanism, *history), rtol=0, atol=1e-12)


@directions(BOOKKEEPING)
def test_steps_are_refused_unless_strictly_causal(case: Case, causal: bool) -> None:
    if causal and not case.leaks_by_design:
        return  # they are right: see above
    with pytest.raises(ValueError, match="causal=True"):
        case.build(causal=causal).new_cache(heads(4)[0], 4)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.directions) == 1], ids=str)
def test_missing_direction_is_refused_with_an_alternative(case: Case) -> None:
    with pytest.raises(ValueError, match=case.instead):
        case.build(causal=not case.directions[0])


@bookkeeping
def test_full_cache_raises_with_max_len(case: Case) -> None:
    mechanism = case.build(causal=True).eval()
    q, k, v = heads(3)
    cache = mechanism.new_cache(q, 2)
    token = [x[:, :, :1] for x in ((q, v) if mechanism.shared_query_key else (q, k, v))]
    mechanism.step(*token, cache)
    mechanism.step(*token, cache)
    with pytest.raises(ValueError, match="max_len=2"):
        mechanism.step(*token, cache)


@every
@on_devices
def test_same_generator_state_gives_same_result(case: Case, device: str) -> None:
    """The same generator state gives the same output and gradient bit for bit; another state gives others.

    On CUDA up to rounding: some of PyTorch's kernels add up in the order in which their threads come by.
    """
    rounding = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
    mechanism = case.build(causal=case.directions[-1], dropout=0.3, device=device).train()
    qkv = [x.requires_grad_() for x in heads(50, dtype=torch.float32, device=device)]
    weights = torch.randn_like(qkv[2])

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        out = attend(mechanism, *qkv)
        return [out, *torch.autograd.grad(out, qkv, weights, allow_unused=True, materialize_grads=True)]

    first, again, other = run(1), run(1), run(2)
    torch.testing.assert_close(again, first, **rounding)
    assert (first[0] - other[0]).abs().max() > 1e-2
    mechanism.eval()
    torch.testing.assert_close(run(1)[0], run(2)[0], **rounding)  # evaluation is not random


@every_direction
def test_dropout_keeps_the_mean(case: Case, causal: bool) -> None:
    """Over many draws the mean is the output without dropout, within five standard errors; rows of a batch differ."""
    q, k, v = (x.expand(50, -1, -1, -1) for x in heads(12, batch=1))
    mechanism = case.build(causal=causal, dropout=0.4)
    if hasattr(mechanism, "fresh_rotations"):
        mechanism.fresh_rotations = False
    elif hasattr(mechanism, "rotations"):
        mechanism.n_buckets = 1  # whatever is drawn
    exact = attend(mechanism.eval(), q, k, v)[:1]
    mechanism.train()
    torch.manual_seed(0)
    draws = torch.cat([attend(mechanism, q, k, v) for _ in range(12)]).unsqueeze(1)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * error + 1e-9).all()
    assert (draws.std(0).amax((0, 2, 3)) > 0.05).all()  # in every head


@every_direction
@on_devices
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
@on_devices
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
    """Analytic gradients against finite differences in float64, padding included, of the parameters too with dropout.

    Along random directions, which miss errors of a thousandth. Those ``test_definitions.py`` sees, without dropout;
    of what has no definition there, every entry is compared here.
    """
    mechanism = case.build(causal=causal, dropout=dropout, head_dim=3).train().double()
    qkv = [x.requires_grad_() for x in heads(9, batch=1, d=3)]
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, [2, 8]] = False

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return attend(mechanism, q, k, v, mask=mask)

    inputs = [*qkv, *mechanism.parameters()] if dropout else qkv  # parameters are moved in place, where run finds them
    fast = dropout > 0 or case.name != "transformers-lsh"
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=fast)


@every_direction
def test_second_derivatives_are_right_or_refused(case: Case, causal: bool) -> None:
    """Of a sum, whose own gradient is a constant: what backward recomputes must not pass for one as well."""
    mechanism = case.build(causal=causal, head_dim=3)
    mechanism.eval().double()
    qkv = [x.requires_grad_() for x in heads(5, batch=1, d=3)]
    try:
        right = torch.autograd.gradgradcheck(
            lambda *x: attend(mechanism, *x).sum(), qkv, atol=1e-4, rtol=1e-3, fast_mode=True
        )
    except RuntimeError as error:
        right = "not supported here" in str(error) or "is not implemented" in str(error)
    assert right


@pytest.mark.slow
@directions([case for case in BOOKKEEPING if case.compiled])
@on_devices
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_without_graph_break(case: Case, causal: bool, device: str) -> None:
    """No graph break, equal output and gradient."""
    torch.compiler.reset()
    mechanism = case.build(causal=causal, device=device).eval()
    compiled = torch.compile(mechanism, fullgraph=True, backend="aot_eager")
    qkv = [x.requires_grad_() for x in heads(13, device=device)]
    mask = torch.arange(13, device=device).expand(2, -1) < 11
    plain, fast = attend(mechanism, *qkv, mask=mask), attend(compiled, *qkv, mask=mask)
    weights = torch.randn_like(plain)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        torch.autograd.grad(fast, qkv, weights, allow_unused=True, materialize_grads=True),
        torch.autograd.grad(plain, qkv, weights, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
