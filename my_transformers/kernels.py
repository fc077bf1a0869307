"""Which form of an operation runs: PyTorch's own operators, or a Triton kernel, ours or that of FlexAttention.

The environment variable ``MY_TRANSFORMERS_KERNELS`` decides, at every call. ``auto``, the default, runs a Triton kernel
on a GPU with as much shared memory as an A100 (the kernels have run on an H200), where there is one for the inputs.
``torch`` never runs one, and ``triton`` raises an error where it cannot run. On a CPU they run only with ``triton`` and
Triton's interpreter (``TRITON_INTERPRET=1`` before Triton is imported), which is for tests.
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
"""Bytes per block; heads of more than 128 numbers in float32 need that much, smaller GPUs have 100 KiB."""


def use_triton(*tensors: Tensor, largest_dim: int) -> bool:
    """Whether the Triton form runs.

    Args:
        tensors: the inputs (..., dim) with floating-point numbers.
        largest_dim: that the kernels support in the last axis.

    Raises:
        ValueError: the environment variable has another value, or asks for Triton where it cannot run.
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
    """Whether a GPU holds the largest of the kernels' blocks."""
    if not torch.cuda.is_available():  # a tensor without numbers, as torch.compile makes them
        return True
    properties: Any = torch.cuda.get_device_properties(index)  # whose stub lacks this one
    return bool(properties.shared_memory_per_block_optin >= _SHARED_MEMORY)


def _obstacle(tensors: tuple[Tensor, ...], largest_dim: int) -> str:
    """Why the Triton form cannot run; empty if it can."""
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
