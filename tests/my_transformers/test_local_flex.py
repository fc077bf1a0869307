"""FlexAttention's form of local attention: unfused on a CPU, compiled on a GPU."""

import itertools

import pytest
import torch
from torch.nn.attention import flex_attention as library

from my_transformers import LocalAttention, kernels, local_flex, reference
from my_transformers.local_flex import BLOCK, flex_local_attention

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]
REACH = [
    (causal, back, ahead) for causal in (False, True) for back, ahead in ((0, 0), (1, 0), (3, 2)) if not causal * ahead
]


@pytest.fixture
def unfused(monkeypatch: pytest.MonkeyPatch):
    """Its plain form, in which a CPU can run backward, though FlexAttention refuses."""
    monkeypatch.setattr(library, "_validate_device", lambda *tensors: None)
    return library.flex_attention


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("causal", "back", "ahead"), REACH)
@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
def test_equals_the_definition(causal: bool, back: int, ahead: int, device: str, unfused) -> None:
    """Output and gradients at the real tokens; lengths and chunks fit the blocks, or not."""
    torch.compiler.reset()
    for n, chunk, masked in itertools.product((BLOCK, BLOCK + 1, 300), (5, 64, 200), (False, True)):
        q, k = torch.randn(2, 2, 3, n, 16, device=device).unbind(0)
        v = torch.randn(2, 3, n, 32, device=device)
        qkv = [x.requires_grad_() for x in (q, k, v)]
        mask = torch.rand(2, n, device=device) < (0.7 if masked else 1.0)
        real = mask[:, None, :, None]
        settings = {"chunk_size": chunk, "back": back, "ahead": ahead}
        attend = None if device == "cuda" else unfused
        ours = flex_local_attention(*qkv, mask if masked else None, causal=causal, attend=attend, **settings)
        assert ours.isfinite().all()  # that of padded queries, too
        ours = ours * real
        exact = [x.detach().double().requires_grad_() for x in qkv]
        visible = reference.visible_keys(n, mask, causal=causal) | torch.eye(n, dtype=torch.bool, device=device)
        theirs = reference.local_attention(*exact, visible, **settings) * real
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
        weights = torch.randn_like(v)
        pairs = zip(
            torch.autograd.grad(ours, qkv, weights), torch.autograd.grad(theirs, exact, weights.double()), strict=True
        )
        for mine, other in pairs:
            torch.testing.assert_close(mine.double(), other, rtol=1e-4, atol=1e-4)


def test_blocks_out_of_reach_are_skipped(unfused) -> None:
    """The kernel's work grows with the length: a query's own block of keys and the one before."""
    found = []

    def attend(q, k, v, *, block_mask):
        found.append(block_mask)
        return v

    q = torch.randn(1, 1, 16 * BLOCK, 8)
    flex_local_attention(q, q, q, None, chunk_size=64, back=1, ahead=0, causal=True, attend=attend)
    assert found[0].kv_num_blocks.flatten().tolist() == [1] + 15 * [2]
    assert found[0].to_dense()[0, 0].nonzero().diff(dim=1).unique().tolist() == [-1, 0]


class _Fused(Exception):
    pass


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would take ends in _Fused."""

    def fused(*qkv, **reach):
        raise _Fused

    monkeypatch.setattr(local_flex, "flex_local_attention", fused)
    monkeypatch.setattr(LocalAttention, "_fused", lambda self, *qkv: self.circle is None)


def test_a_gpu_takes_it_for_what_it_can(on_gpu) -> None:
    """Not with dropout, in a circle, or for few queries, for which FlexAttention has another kernel."""
    x = torch.randn(1, 1, 2 * BLOCK, 8)
    with pytest.raises(_Fused):
        LocalAttention()(x, x, x)
    with pytest.raises(_Fused):
        LocalAttention(dropout=0.1).eval()(x, x, x)
    LocalAttention(dropout=0.1)(x, x, x)
    LocalAttention(circle=64)(x, x, x)
    few = x[:, :, : BLOCK - 1]
    LocalAttention()(few, few, few)


@pytest.mark.parametrize("choice", ["torch", "auto"])
def test_a_cpu_never_takes_it(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, choice)
    assert not LocalAttention()._fused(torch.randn(1, 1, 2 * BLOCK, 8))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_takes_it_on_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "auto")
    q, k, v = torch.randn(3, 2, 4, 1000, 64, device="cuda", dtype=dtype).unbind(0)
    mechanism = LocalAttention(causal=True)
    assert mechanism._fused(q, k, v)
    assert not mechanism._fused(*(x.repeat(1, 1, 1, 3) for x in (q, k, v)))  # too many numbers per head
    fused = mechanism(q, k, v)
    monkeypatch.setenv(kernels.VARIABLE, "torch")
    torch.testing.assert_close(fused, mechanism(q, k, v), rtol=2e-2, atol=2e-2)
