from types import SimpleNamespace

import pytest
import torch

from my_transformers import kernels
from my_transformers.kernels import use_triton


def x(dtype: torch.dtype = torch.bfloat16, dim: int = 64, device: str = "meta") -> torch.Tensor:
    return torch.empty(1, dim, dtype=dtype, device=device)


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: no interpreter, and nothing chosen."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_HAS_TRITON", True)


class OnCuda:
    """What is asked of a tensor on a GPU."""

    def __init__(self, dtype: torch.dtype = torch.bfloat16, dim: int = 64) -> None:
        self.dtype, self.shape, self.device = dtype, (1, dim), torch.device("cuda")


def test_a_gpu_takes_the_kernels_for_what_they_support(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_triton(OnCuda(), largest_dim=64)
    monkeypatch.setenv(kernels.VARIABLE, "auto")
    assert use_triton(OnCuda(), OnCuda(torch.float16), OnCuda(torch.float32), largest_dim=64)
    assert not use_triton(OnCuda(), OnCuda(torch.float64), largest_dim=64)
    assert not use_triton(OnCuda(), OnCuda(dim=65), largest_dim=64)
    assert not use_triton(x(device="cpu"), largest_dim=64)
    monkeypatch.setenv(kernels.VARIABLE, "torch")
    assert not use_triton(OnCuda(), largest_dim=64)


@pytest.mark.parametrize(("kibibytes", "enough"), [(99, False), (163, True), (227, True)])  # RTX 4090, A100, H100
def test_a_gpu_with_little_shared_memory_takes_pytorch_unless_told(
    monkeypatch: pytest.MonkeyPatch, kibibytes: int, enough: bool
) -> None:
    card = SimpleNamespace(shared_memory_per_block_optin=kibibytes * 1024)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert use_triton(OnCuda(), largest_dim=64) == enough
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    assert use_triton(OnCuda(), largest_dim=64)


def test_a_machine_without_triton_takes_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_HAS_TRITON", False)
    monkeypatch.setenv(kernels.VARIABLE, "auto")
    assert not use_triton(OnCuda(), largest_dim=64)
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    with pytest.raises(ValueError, match="'triton', but Triton is not installed"):
        use_triton(OnCuda(), largest_dim=64)


def test_the_interpreter_must_be_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not use_triton(x(device="cpu"), largest_dim=64)
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    assert use_triton(x(device="cpu"), largest_dim=64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (OnCuda(torch.float64), "take float16, bfloat16 and float32, not torch.float64"),
        (OnCuda(dim=65), "up to 64 numbers per head, not 65"),
        (x(device="cpu"), "run on CUDA devices, not on cpu, where they need TRITON_INTERPRET=1"),
    ],
)
def test_the_kernels_cannot_be_forced_on_what_they_do_not_support(
    given: torch.Tensor, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    with pytest.raises(ValueError, match=message):
        use_triton(given, largest_dim=64)


def test_another_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "Triton")
    with pytest.raises(ValueError, match="MY_TRANSFORMERS_KERNELS is 'Triton', must be 'torch', 'auto' or 'triton'"):
        use_triton(OnCuda(), largest_dim=64)
