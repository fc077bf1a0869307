"""Choice of the implementation: PyTorch's own operators, or a Triton kernel (ours, or FlexAttention's).

The environment variable ``MY_TRANSFORMERS_KERNELS`` is read at every call. ``auto``, the default, runs a Triton kernel
if one supports the inputs and the GPU has at least as much shared memory as an A100 (the kernels have run on an H200).
``torch`` never runs one. ``triton`` raises an error where the kernel cannot run. On a CPU, kernels run only with
``triton`` and Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is imported), which is for tests.
"""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

VARIABLE = "MY_TRANSFORMERS_KERNELS"
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_SHARED_MEMORY = 162 * 1024
"""Bytes per thread block that the largest tiles need (float32, head_dim above 128); smaller GPUs have 100 KiB."""


def use_triton(*tensors: Tensor, largest_dim: int) -> bool:
    """Whether to run the Triton kernel.

    Args:
        tensors: the floating-point inputs (..., dim).
        largest_dim: the largest dim that the kernel supports.

    Raises:
        ValueError: the environment variable has an unknown value, or is ``triton`` where the kernel cannot run.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "torch", "triton"):
        raise ValueError(f"{VARIABLE} is {choice!r}, must be 'torch', 'auto' or 'triton'")
    device = tensors[0].device
    if choice == "torch" or (choice == "auto" and (device.type != "cuda" or not _large_enough(device.index))):
        return False
    obstacle = _obstacle(tensors, largest_dim)
    if choice == "triton":
        if obstacle:
            raise ValueError(f"{VARIABLE} is 'triton', but {obstacle}")
        return True
    return not obstacle


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _large_enough(index: int | None) -> bool:
    """Whether a GPU has enough shared memory for the kernels' largest tiles."""
    if not torch.cuda.is_available():  # a fake tensor on "cuda", as torch.compile traces with
        return True
    properties: Any = torch.cuda.get_device_properties(index)  # PyTorch's type stub lacks the next attribute
    return bool(properties.shared_memory_per_block_optin >= _SHARED_MEMORY)


def _obstacle(tensors: tuple[Tensor, ...], largest_dim: int) -> str:
    """Why the Triton kernel cannot run, for an error message; empty if it can."""
    for x in tensors:
        if x.dtype not in _DTYPES:
            return f"the kernels take float16, bfloat16 and float32, not {x.dtype}"
        if x.shape[-1] > largest_dim:
            return f"the kernels take up to {largest_dim} numbers per head, not {x.shape[-1]}"
        if x.device.type != "cuda" and not _interprets():
            return f"the kernels run on CUDA devices, not on {x.device.type}, where they need TRITON_INTERPRET=1"
    return "" if _HAS_TRITON else "Triton is not installed"


def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
