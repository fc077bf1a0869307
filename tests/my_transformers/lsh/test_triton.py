"""The Triton form against the definition and the PyTorch form; see tests/my_transformers/triton_interpreter.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from triton_interpreter import DEVICE, triton_form

from my_transformers import LSHAttention, kernels, reference
from my_transformers.lsh.attention import attend_in_buckets
from my_transformers.lsh.hashing import bucket_of

pytest.importorskip("triton")
TOLERANCE = 1e-5  # of float32, on a GPU in products of TF32 numbers
pytestmark = [pytest.mark.cuda] if DEVICE == "cuda" else [pytest.mark.slow]  # of the interpreter
__all__ = ["triton_form"]  # a fixture


@pytest.fixture
def small_tiles(triton_form, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short sequences have several blocks, and blocks several steps."""
    from my_transformers.lsh import triton_attention

    monkeypatch.setattr(triton_attention, "_tile", lambda *_, backward: triton_attention.Tile(16, 32 >> backward, 2))


def draw(n: int, dims: tuple[int, int] = (6, 5), dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """qk (2, 1, n, .), v, and the output's gradient, in two layouts; buckets (2, 1, 2, n), some of them full."""
    generator = torch.Generator().manual_seed(n)
    qk = torch.randn(2, n, 1, dims[0], generator=generator).transpose(1, 2)
    v, grad = torch.randn(2, 2, 1, dims[1], n, generator=generator).mT
    buckets = torch.randint(0, 16, (2, 1, 2, n), generator=generator).sqrt().int()
    return [*(x.to(DEVICE, dtype) for x in (qk, v, grad)), buckets.to(DEVICE)]


def gradients(attend, qk: torch.Tensor, v: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output and gradients of a function of qk and v."""
    qk, v = qk.detach().requires_grad_(), v.detach().requires_grad_()
    out = attend(qk, v)
    return out, *torch.autograd.grad(out, (qk, v), grad)


def pytorch_form(attend, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same in float64, which has no other form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.VARIABLE, "torch")
        return gradients(attend, *(x.double() for x in inputs))


def assert_close(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...], tolerance: float) -> None:
    """Of the largest number."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b.double()).abs().max() < tolerance * b.abs().max()


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("rule", "across"), [("bucket", False), ("chunk", False), ("chunk", True)])
def test_equals_the_definition(small_tiles, rule: str, across: bool, causal: bool, deduplicate: bool) -> None:
    """With padding, 37 tokens do not fill their blocks, and buckets of up to 16 tokens overflow the window."""
    n, window = 37, 9
    qk, v, grad, buckets = draw(n)
    mask = torch.ones(2, n, dtype=torch.bool, device=DEVICE)
    mask[0, 3::7] = False
    mask[1, -4:] = False
    grad = grad * mask[:, None, :, None]
    settings = {"window": window, "causal": causal, "rule": rule, "attend_across_buckets": across}

    def ours(qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        marked = buckets.masked_fill(~mask[:, None, None, :], 4)
        out = attend_in_buckets(qk, v, marked, n_buckets=4, deduplicate=deduplicate, **settings)
        return out * mask[:, None, :, None]

    def definition(qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shown = (reference.bucket_rule if rule == "bucket" else reference.chunk_rule)(
            torch.zeros_like(buckets) if across else buckets, reference.sorted_places(buckets, mask), window
        )
        visible = reference.visible_keys(n, mask, causal=causal)
        return reference.attention_over_rounds(qk, v, shown, visible, once=deduplicate) * mask[:, None, :, None]

    assert_close(gradients(ours, qk, v, grad), gradients(definition, qk.double(), v.double(), grad.double()), TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "dims", "tolerance"),
    [(torch.float32, (80, 130), TOLERANCE), (torch.bfloat16, (24, 40), 2e-2), (torch.float16, (24, 40), 2e-3)],
)
def test_dropout_and_dtypes_equal_the_pytorch_form(
    triton_form, dtype: torch.dtype, dims: tuple[int, int], tolerance: float
) -> None:
    """In tiles as they are; the same seeds drop the same pairs."""
    qk, v, grad, buckets = draw(70, dims, dtype)

    def attend(qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return attend_in_buckets(qk, v, buckets, n_buckets=4, window=12, causal=True, dropout=0.3)

    ours = gradients(attend, qk, v, grad)
    assert [x.dtype for x in ours] == [dtype] * 3
    assert ours[0].transpose(1, 2).is_contiguous()
    assert_close(ours, pytorch_form(attend, qk, v, grad), tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
def test_numbers_that_are_not_finite(small_tiles, causal: bool) -> None:
    """The same outputs and gradients are NaN as in the PyTorch form, and padding's own NaN reaches no other token."""
    qk, v, grad, buckets = draw(20)
    qk[0, 0, 11, 1] = torch.nan
    v[1, 0, 7, 1] = torch.inf
    buckets[1, 0, :, 7] = 4

    def attend(qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend_in_buckets(qk, v, buckets, n_buckets=4, window=6, causal=causal)

    ours, theirs = gradients(attend, qk, v, grad), pytorch_form(attend, qk, v, grad)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
    assert ours[0][0].isnan().any() and not ours[0][1].isnan().any()
    assert_close([x[1] for x in ours], [x[1] for x in theirs], TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hashing_equals_the_definition(triton_form, dtype: torch.dtype) -> None:
    """Each sample by its own number of directions; tokens of zeros and of NaN get a bucket that there is."""
    generator = torch.Generator().manual_seed(0)
    qk = torch.randn(3, 70, 2, 20, generator=generator).transpose(1, 2).to(DEVICE, dtype)
    rotations = torch.randn(2, 3, 20, 45, generator=generator).to(DEVICE, dtype)
    limits = torch.tensor([45, 33, 0], device=DEVICE)
    ours = bucket_of(qk, rotations), bucket_of(qk, rotations, limits)
    exact = qk.double(), rotations.double()
    assert torch.equal(ours[0].long(), reference.buckets(*exact))
    for i, used in enumerate(limits.tolist()):
        assert torch.equal(ours[1][i].long(), reference.buckets(exact[0][i : i + 1], exact[1][..., :used])[0])
    odd = torch.stack((torch.zeros(1, 2, 20), torch.full((1, 2, 20), torch.nan)), dim=2).to(DEVICE, dtype)
    assert ((bucket_of(odd, rotations) >= 0) & (bucket_of(odd, rotations) < 90)).all()


def test_a_module_takes_either_form(small_tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one token alone, one round, and float64, which the kernels do not take."""
    attention = LSHAttention(bucket_size=4, n_rounds=1, causal=True).eval()
    for n in (1, 21):
        qk, v, *_ = draw(n, (8, 8))
        ours = attention(qk, v)
        monkeypatch.setenv(kernels.VARIABLE, "torch")
        assert_close((ours,), (attention(qk.double(), v.double()),), TOLERANCE)
        monkeypatch.setenv(kernels.VARIABLE, "triton")


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
def test_the_operators_are_lawful(small_tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they tell the compiler of shapes, strides and aliases is true."""
    from my_transformers.lsh import triton_attention

    forward, calls = triton_attention._attention, []
    monkeypatch.setattr(triton_attention, "_attention", lambda *given: calls.append(given) or forward(*given))
    qk, v, grad, buckets = draw(11)
    attend_in_buckets(qk.requires_grad_(), v.requires_grad_(), buckets, n_buckets=4, window=4, causal=True, dropout=0.2)
    torch.library.opcheck(forward, calls[0])
    tensors, (layout, _, *settings) = [x.detach() for x in calls[0][:6]], calls[0][7:]
    kept = forward(*(x.detach() if isinstance(x, torch.Tensor) else x for x in calls[0]))
    torch.library.opcheck(triton_attention._attention_backward, (grad, *tensors, *kept, layout, *settings))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_without_a_graph_break(small_tiles) -> None:
    torch.compiler.reset()
    attention = LSHAttention(bucket_size=4, n_rounds=2, causal=True).eval()
    qk, v, grad, _ = draw(11)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, qk, v, grad), gradients(attention, qk, v, grad), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(DEVICE == "cpu", reason="on a CPU nothing runs at the same time")
def test_two_runs_are_equal_bit_for_bit(triton_form) -> None:
    qk, v, grad, _ = draw(4000, (64, 64), torch.bfloat16)
    attention = LSHAttention(bucket_size=64, n_rounds=3, causal=True).eval()
    first = gradients(attention, qk, v, grad)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(gradients(attention, qk, v, grad), first, strict=True))


@pytest.mark.slow
def test_kernels_compile_for_a_gpu() -> None:
    """For sm_90 without a GPU: what the interpreter takes may still be wrong for the compiler."""
    script = Path(__file__).parents[1] / "compile_kernels.py"
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
