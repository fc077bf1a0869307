"""Every mechanism on a CUDA device that is not there: no tensor on another device, and no host that waits for one."""

import pytest
import torch
from fake_cuda import HostWaits, fake_cuda, gradients, on_cuda
from mechanisms import CASES, Case, attend, steps
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from my_transformers import EncoderLayer, FeedForward, LSHAttention, MultiHeadAttention, ReversibleStack, kernels

both = [(case, causal) for case in CASES for causal in case.directions]
names = [f"{'causal' if causal else 'bidirectional'}-{case}" for case, causal in both]


def tensors(n: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.empty(2, 2, n, 8, dtype=dtype, device="cuda", requires_grad=True) for _ in range(3)]


def check(out: Tensor, inputs: list[Tensor], dtype: torch.dtype | None = None) -> None:
    """Forward stayed on the device, and so does backward, which may leave out what ``out`` does not depend on."""
    assert out.device.type == "cuda" and (dtype is None or out.dtype == dtype)
    for x, grad in zip(inputs, gradients(out, inputs, torch.empty_like(out)), strict=True):
        assert grad is None or (grad.device == x.device and grad.dtype == x.dtype and grad.shape == x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "auto"])
@pytest.mark.parametrize(("case", "causal"), both, ids=names)
def test_stays_on_the_device(case: Case, causal: bool, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training under autocast with dropout and a mask; evaluation in bfloat16; steps."""
    monkeypatch.setenv(kernels.VARIABLE, form)
    mechanism = case.build(causal=causal, dropout=0.3)
    with fake_cuda():
        on_cuda(mechanism)
        qkv, mask = tensors(26, torch.float32), torch.empty(2, 26, dtype=torch.bool, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = attend(mechanism, *qkv, mask=mask)
        check(out, [*qkv, *mechanism.parameters()])
        mechanism.eval()
        half = tensors(13, torch.bfloat16)
        check(attend(mechanism, *half), half, torch.bfloat16)
        if causal and not case.leaks_by_design:
            with torch.no_grad():
                out = steps(mechanism, *(x[:, :, :5] for x in half))
            assert out.device.type == "cuda" and out.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_reversible_stack_stays_on_the_device(dtype: torch.dtype) -> None:
    layers = [
        EncoderLayer(
            MultiHeadAttention(LSHAttention(bucket_size=4, causal=True, dropout=0.1), dim=16, heads=2),
            FeedForward(16, chunk_size=10),
            dim=16,
            dropout=0.1,
        )
        for _ in range(2)
    ]
    stack = ReversibleStack(layers, dim=16)
    with fake_cuda():
        on_cuda(stack)
        x = torch.empty(2, 26, 16, device="cuda", requires_grad=True)
        mask = torch.empty(2, 26, dtype=torch.bool, device="cuda")
        with torch.autocast("cuda", dtype=dtype):
            out = stack(x, mask=mask)
        check(out, [x, *stack.parameters()])


class _Slip(nn.Module):
    """A mechanism with a mistake."""

    def __init__(self, slip: object) -> None:
        super().__init__()
        self.slip = slip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.slip(x)


@pytest.mark.parametrize(
    ("slip", "error", "message"),
    [
        (lambda x: torch.ones(4), (HostWaits, RuntimeError), "cpu"),
        (lambda x: x.amax().item(), DataDependentOutputException, "local_scalar_dense"),
        (lambda x: 1 if x.sum() > 0 else 2, DataDependentOutputException, "local_scalar_dense"),
        (lambda x: x[x > 0].sum(), DynamicOutputShapeException, "nonzero"),
        (lambda x: x[:, [0, 2]].sum(), HostWaits, "_to_copy"),
        (lambda x: x[:, torch.tensor([0, 2])].sum(), HostWaits, "index"),
        (lambda x: torch.tensor(2.0, device=x.device), HostWaits, "_to_copy"),
        (lambda x: x.cpu().sum().to("cuda", non_blocking=True), HostWaits, "_to_copy"),
        (lambda x: x.to("cpu", non_blocking=True).sum().cuda(), HostWaits, "_to_copy"),
        (lambda x: torch.empty(4).copy_(x[0]).sum(), HostWaits, "copy_"),
    ],
)
def test_slips_are_seen(slip: object, error: type, message: str) -> None:
    """The means itself: each of these lets the host wait on a GPU, or mixes devices."""
    with fake_cuda(), pytest.raises(error, match=message):
        _Slip(slip)(torch.empty(3, 4, device="cuda"))


def test_numbers_that_need_no_waiting_pass() -> None:
    with fake_cuda():
        x = torch.empty(3, 4, device="cuda")
        x[0] = 5.0
        x += torch.where(x > 0, x, 1) + torch.ones(4).to("cuda", non_blocking=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_engine(dtype: torch.dtype) -> None:
    """The walk through the graph in Python, on a CPU: through the custom operator, shared and unused inputs."""
    attention = LSHAttention(bucket_size=4, causal=True).eval()
    qk, v, unused = torch.randn(3, 1, 2, 20, 8, dtype=dtype).unbind(0)
    inputs = [x.requires_grad_() for x in (qk.clone(), v.clone(), unused.clone())]
    out = attention(inputs[0] * 2, inputs[1] + inputs[0]).square().float()
    weights = torch.randn_like(out)
    expected = torch.autograd.grad(out, inputs, weights, allow_unused=True, retain_graph=True)
    for ours, theirs in zip(gradients(out, inputs, weights), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
