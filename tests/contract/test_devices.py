"""What the contract asks beyond one device's numbers: half precision, CUDA against the CPU, a host that never waits."""

import pytest
import torch
from mechanisms import CASES, DEVICES, Case, attend, heads, steps

from my_transformers import MultiHeadAttention
from my_transformers.lsh import hashing
from my_transformers.lsh import layout as lsh_layout
from my_transformers.performer import bidirectional

both = [(case, causal) for case in CASES for causal in case.directions]
names = [f"{'causal' if causal else 'bidirectional'}-{case}" for case, causal in both]
every_direction = pytest.mark.parametrize(("case", "causal"), both, ids=names)
HALVES = [torch.bfloat16, torch.float16]
on_cuda = pytest.mark.parametrize("device", [device for device in DEVICES if device != "cpu"])


def found(mechanism: torch.nn.Module, qkv: list[torch.Tensor], mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Output and gradients of q, k, v and the parameters, on the CPU."""
    out = attend(mechanism, *qkv, mask=mask)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    inputs = [*qkv, *mechanism.parameters()]
    grads = torch.autograd.grad(out, inputs, weights, allow_unused=True, materialize_grads=True)
    return [x.detach().cpu() for x in (out, *grads)]


@every_direction
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.bfloat16),
        *(pytest.param("cuda", half, marks=pytest.mark.cuda) for half in HALVES if torch.cuda.is_available()),
    ],
)
def test_a_training_step_under_autocast_is_close(case: Case, causal: bool, device: str, dtype: torch.dtype) -> None:
    """Gradients of a whole sublayer, in float16 with a scaled loss, against float32; all tokens share a bucket."""
    layer = MultiHeadAttention(case.build(causal=causal), dim=16, heads=2).to(device).eval()
    if hasattr(layer.mechanism, "n_buckets"):
        layer.mechanism.n_buckets = 1
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, init_scale=2.0**10)
    x = torch.randn(2, 33, 16, generator=torch.Generator().manual_seed(0)).to(device)
    mask = torch.arange(33, device=device).expand(2, -1) < 29

    def gradient(half: bool) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=half):
            loss = layer(x, mask=mask)[:, :29].float().square().mean()
        (scaler.scale(loss) if half else loss).backward()
        if half:
            scaler.unscale_(optimizer)
        return torch.cat([p.grad.flatten() for p in layer.parameters()])

    exact, close = gradient(half=False), gradient(half=True)
    assert (close - exact).norm() < 0.05 * exact.norm()
    before = layer.to_heads.weight.detach().clone()
    scaler.step(optimizer)
    assert (layer.to_heads.weight != before).any()


@every_direction
@on_cuda
@pytest.mark.parametrize("masked", [False, True])
def test_cuda_computes_what_the_cpu_does(case: Case, causal: bool, device: str, masked: bool) -> None:
    """Output and all gradients in float64; the rotations of evaluation are the same on both."""
    qkv = heads(70)
    mask = torch.arange(70).expand(2, -1) % 9 != 4 if masked else None
    both = []
    for where in ("cpu", device):
        mechanism = case.build(causal=causal, device=where).double().eval()
        own = [x.to(where, copy=True).requires_grad_() for x in qkv]
        both.append(found(mechanism, own, None if mask is None else mask.to(where)))
    torch.testing.assert_close(both[1], both[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["lsh-3", "performer"])
@on_cuda
def test_work_in_pieces_changes_nothing(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes on more than these tests have: with less at a time there are pieces, as there are of long inputs."""
    mechanism = next(case for case in CASES if case.name == name).build(causal=False, device=device).eval()
    qkv = [x.requires_grad_() for x in heads(70, device=device)]
    whole = found(mechanism, qkv, None)
    monkeypatch.setattr(lsh_layout, "_ROWS_ON_DEVICE", 80)
    monkeypatch.setattr(lsh_layout, "_SCORES_ON_DEVICE", 300)
    monkeypatch.setattr(bidirectional, "_FEATURES_ON_DEVICE", 500)
    monkeypatch.setattr(hashing, "_PROJECTIONS_ON_DEVICE", 100)
    torch.testing.assert_close(found(mechanism, qkv, None), whole, rtol=1e-9, atol=1e-10)


@every_direction
@on_cuda
def test_the_host_never_waits(case: Case, causal: bool, device: str) -> None:
    """In forward and backward, and in a step where there are steps."""
    mechanism = case.build(causal=causal, dropout=0.1, device=device)
    qkv = [x.requires_grad_() for x in heads(70, dtype=torch.float32, device=device)]
    mask = torch.ones(2, 70, dtype=torch.bool, device=device)
    stepwise = causal and not case.leaks_by_design

    def run() -> None:
        attend(mechanism, *qkv, mask=mask).sum().backward()
        if stepwise and not mechanism.training:
            with torch.no_grad():
                steps(mechanism, *(x[:, :, :12] for x in qkv))

    for training in (True, False):
        mechanism.train(training)
        run()  # warm up
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["lsh-3", "performer", "local", "full"])
@on_cuda
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_the_default_compiler_gives_the_same(name: str, device: str) -> None:
    """The contract's own test of torch.compile has no code generated, which takes long."""
    torch.compiler.reset()
    mechanism = next(case for case in CASES if case.name == name).build(causal=True, device=device).eval()
    qkv = [x.requires_grad_() for x in heads(70, dtype=torch.float32, device=device)]
    plain, fast = found(mechanism, qkv, None), found(torch.compile(mechanism, fullgraph=True), qkv, None)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)
