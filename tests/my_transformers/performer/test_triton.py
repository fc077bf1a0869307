"""The Triton form against the definition and the PyTorch form; see tests/my_transformers/triton_interpreter.py."""

import pytest
import torch
from torch import Tensor
from triton_interpreter import DEVICE, triton_form

from my_transformers import PerformerAttention, kernels, reference
from my_transformers.performer.features import log_features

pytest.importorskip("triton")
TOLERANCE = 1e-5  # of float32, on a GPU in products of TF32 numbers
pytestmark = [pytest.mark.cuda] if DEVICE == "cuda" else [pytest.mark.slow]  # of the interpreter
causal_or_not = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
__all__ = ["triton_form"]  # a fixture


@pytest.fixture
def small_tiles(triton_form, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short sequences have several chunks and spans, and there are several blocks of features."""
    from my_transformers.performer import triton_attention

    monkeypatch.setattr(triton_attention._Call, "tile", triton_attention.Tile(16, 16, 2))
    monkeypatch.setattr(triton_attention, "_SPAN", 32)
    monkeypatch.setattr(triton_attention, "_SCANNED", 64)


def draw(
    n: int, dims: tuple[int, int] = (6, 5), dtype: torch.dtype = torch.float32, *, n_keys: int | None = None
) -> list[Tensor]:
    """q (2, 1, n, d), k (2, 1, m, d), v (2, 1, m, e), and the output's gradient, in different layouts."""
    generator = torch.Generator().manual_seed(n)
    m = n if n_keys is None else n_keys
    q = torch.randn(2, n, 1, dims[0], generator=generator).transpose(1, 2)
    k = torch.randn(2, 1, dims[0], m, generator=generator).mT
    v = torch.randn(2, m, 1, dims[1], generator=generator).transpose(1, 2)
    grad = torch.randn(2, 1, dims[1], n, generator=generator).mT
    return [x.to(DEVICE, dtype) for x in (q, k, v, grad)]


def gradients(attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of a function of q, k and v."""
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*inputs)
    return out, *torch.autograd.grad(out, inputs, grad)


def pytorch_form(attend, *inputs: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """The same without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.VARIABLE, "torch")
        return gradients(attend, *(x.to(dtype) for x in inputs))


def assert_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> None:
    """Of the largest number."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b.double()).abs().max() <= tolerance * b.abs().max()


def performer(causal: bool, dim: int = 6, n_features: int = 20, **settings) -> PerformerAttention:
    return PerformerAttention(dim, n_features=n_features, causal=causal, chunk_size=8, **settings).to(DEVICE)


def padding(n: int) -> Tensor:
    """(2, n): gaps in one sample, an end that is longer than a chunk in the other."""
    mask = torch.ones(2, n, dtype=torch.bool, device=DEVICE)
    mask[0, 3::7] = False
    mask[1, -20:] = False
    return mask


@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic"])
@causal_or_not
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_definition(small_tiles, causal: bool, masked: bool, kernel: str) -> None:
    """Tokens and features do not fill their blocks; bidirectional attention has more queries than keys."""
    n, n_keys = (70, 70) if causal else (70, 37)
    inputs, mask = draw(n, n_keys=n_keys), padding(n_keys) if masked else None
    attention = performer(causal, kernel=kernel)
    visible = torch.ones(2, n, n_keys, dtype=torch.bool, device=DEVICE)
    visible = visible.tril() if causal else visible
    if masked:
        visible &= mask[:, None, :]
        inputs[3] *= visible.any(-1)[:, None, :, None]  # what sees nothing does not count

    def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        phi_q, phi_k = (log_features(x, attention.projection, kernel=kernel).exp() for x in (q, k))
        seen = visible | ~visible.any(-1, keepdim=True)
        return reference.performer_attention(phi_q, phi_k, v, seen[:, None])

    ours = gradients(lambda *qkv: attention(*qkv, mask=mask), *inputs)
    theirs = gradients(definition, *(x.double() for x in inputs))
    counts = visible.any(-1)[:, None, :, None]
    assert ours[0].isfinite().all()
    assert_close((ours[0] * counts, *ours[1:]), (theirs[0] * counts, *theirs[1:]), TOLERANCE)


@causal_or_not
@pytest.mark.parametrize(
    ("dtype", "dims", "tolerance"),
    [(torch.float32, (80, 130), TOLERANCE), (torch.bfloat16, (24, 40), 3e-2), (torch.float16, (24, 40), 4e-3)],
)
def test_dropout_and_dtypes_equal_the_pytorch_form(
    triton_form, causal: bool, dtype: torch.dtype, dims: tuple[int, int], tolerance: float
) -> None:
    """In tiles as they are; the same values are dropped, which a GPU draws differently for float64."""
    inputs = draw(70, dims, dtype)
    attention = performer(causal, dims[0], n_features=36, dropout=0.3, turned=4).train()

    def attend(*qkv: Tensor) -> Tensor:
        torch.manual_seed(0)
        with torch.device(DEVICE), pytest.MonkeyPatch.context() as patch:
            kept = torch.rand(2, 1, 70, 1) >= 0.3
            patch.setattr(torch.nn.functional, "dropout", lambda ones, p: ones * kept.to(ones.dtype) / (1 - p))
            return attention(*qkv)

    ours = gradients(attend, *inputs)
    assert [x.dtype for x in ours] == [dtype] * 4
    assert ours[0].transpose(1, 2).is_contiguous()
    assert_close(ours, pytorch_form(attend, *inputs), tolerance)


@causal_or_not
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_queries_and_keys(small_tiles, causal: bool, dtype: torch.dtype) -> None:
    """Logarithms of some hundreds: single features decide, and float16 could not hold the others."""
    q, k, v, grad = draw(37, (8, 5))
    sizes = torch.linspace(0.1, 1.5, 37, device=DEVICE)[:, None]
    inputs = [x.to(dtype) for x in (12 * q, 12 * k * sizes, v, grad)]
    attention = performer(causal, 8)
    ours, theirs = gradients(attention, *inputs), pytorch_form(attention, *inputs)
    assert_close(ours, theirs, 1e-4 if dtype == torch.float32 else 5e-3)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of later keys, before they are masked
def test_where_all_weights_vanish_a_query_sees_itself(small_tiles) -> None:
    """Key 3 is huge in the first of two features. Every fifth query has nothing of it, and the second of no key."""
    q, k, v, grad = draw(37, (2, 5))
    q[:], k[:] = 0, torch.tensor([-150.0, 0.0], device=DEVICE)
    q[:, :, 5::5, 0], k[:, :, 3, 0] = -150, 150
    attention = performer(causal=True, dim=2, n_features=2)
    attention.projection.copy_(torch.eye(2))
    ours, theirs = gradients(attention, q, k, v, grad), pytorch_form(attention, q, k, v, grad, dtype=torch.float32)
    assert torch.equal(ours[0][:, :, 5::5], v[:, :, 5::5])
    torch.testing.assert_close(ours[0][:, :, 6], v[:, :, 3])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)  # gradients of queries and keys are 0


def test_a_huge_later_key_changes_no_earlier_output(small_tiles) -> None:
    """Not in a single bit, nor an earlier gradient, inside its chunk or behind it; all later outputs are its value."""
    q, k, v, grad = draw(37)
    attention = performer(causal=True)
    raised = k.clone()
    raised[:, :, 20] *= 1e4
    grad[:, :, 20:] = 0
    once, again = (gradients(attention, q, keys, v, grad) for keys in (k, raised))
    assert all(torch.equal(a[:, :, :20], b[:, :, :20]) for a, b in zip(once, again, strict=True))


@causal_or_not
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:All-NaN slice")  # NumPy's
def test_numbers_that_are_not_finite(small_tiles, causal: bool, value: float) -> None:
    """A query's own output is NaN, or those of all queries that see the key; padding's own NaN reaches no token."""
    mask = torch.ones(2, 20, dtype=torch.bool, device=DEVICE)
    mask[1, 7] = False
    for spoilt, expected in ((0, [11]), (1, range(11 if causal else 0, 20))):
        *inputs, _ = draw(20)
        inputs[spoilt][0, 0, 11, 3] = value
        inputs[2][1, 0, 7] = torch.nan
        is_nan = performer(causal)(*inputs, mask=mask).isnan()
        assert is_nan[0, 0].all(-1).nonzero().flatten().tolist() == list(expected)
        assert is_nan.sum() == 5 * len(expected)


def test_a_module_takes_either_form(small_tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one token alone, float64 and other features, which the kernels do not take; steps are the same as ever."""
    attention = performer(causal=True, dim=8).eval()
    for n in (1, 21):
        q, k, v, _ = draw(n, (8, 8))
        ours = attention(q, k, v)
        cache = attention.new_cache(q, n)
        steps = torch.cat([attention.step(*(x[:, :, i : i + 1] for x in (q, k, v)), cache) for i in range(n)], dim=2)
        assert_close((ours,), (steps,), TOLERANCE)
    assert performer(causal=True, kernel="relu")(*draw(5)[:3]).isfinite().all()
    monkeypatch.setenv(kernels.VARIABLE, "auto" if DEVICE == "cuda" else "torch")
    exact = attention(q.double(), k.double(), v.double())
    assert exact.dtype == torch.float64
    assert_close((ours,), (exact,), TOLERANCE)


@causal_or_not
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
def test_the_operators_are_lawful(small_tiles, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they tell the compiler of shapes, strides and aliases is true."""
    from my_transformers.performer import triton_attention

    name = "_causal" if causal else "_bidirectional"
    forward, calls = getattr(triton_attention, name), []
    monkeypatch.setattr(triton_attention, name, lambda *given: calls.append(given) or forward(*given))
    *inputs, grad = draw(5)
    performer(causal, n_features=6)(*(x.requires_grad_() for x in inputs), mask=padding(5))
    torch.library.opcheck(forward, calls[0])
    given = [x.detach() for x in calls[0]]
    backward = getattr(triton_attention, f"{name}_backward")
    torch.library.opcheck(backward, (grad, *(given[:4] if causal else given), *forward(*given)))


@causal_or_not
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_without_a_graph_break(small_tiles, causal: bool) -> None:
    torch.compiler.reset()
    attention = performer(causal, redraw_every=3 if causal else None).eval()
    inputs = draw(18)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, *inputs), gradients(attention, *inputs), strict=True):
        assert torch.equal(ours, theirs)


@causal_or_not
def test_two_runs_are_equal_bit_for_bit(triton_form, causal: bool) -> None:
    inputs = draw(4000, (64, 64), torch.bfloat16) if DEVICE == "cuda" else draw(20, (16, 16))
    attention = performer(causal, inputs[0].shape[-1], n_features=64)
    first = gradients(attention, *inputs)
    for _ in range(3 if DEVICE == "cuda" else 1):
        assert all(torch.equal(a, b) for a, b in zip(gradients(attention, *inputs), first, strict=True))
