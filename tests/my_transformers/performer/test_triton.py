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
    """q (2, 2, n, d), k (2, 2, m, d), v (2, 2, m, e), and the output's gradient, in different layouts."""
    generator = torch.Generator().manual_seed(n)
    m = n if n_keys is None else n_keys
    q = torch.randn(2, n, 2, dims[0], generator=generator).transpose(1, 2)
    k = torch.randn(2, 2, dims[0], m, generator=generator).mT
    v = torch.randn(2, m, 2, dims[1], generator=generator).transpose(1, 2)
    grad = torch.randn(2, 2, dims[1], n, generator=generator).mT
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


def performer(causal: bool, dim: int = 6, n_features: int = 40, **settings) -> PerformerAttention:
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
    """37 or 70 tokens and 40 features do not fill their blocks; of bidirectional attention there are more queries."""
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
