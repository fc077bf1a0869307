"""Which form of an operation runs: PyTorch's own operators, or a Triton kernel, ours or that of FlexAttention.

The environment variable ``MY_TRANSFORMERS_KERNELS`` decides, at every call. ``torch``, the default, never runs a Triton
kernel, since none has been run on a GPU yet. ``auto`` runs one on a GPU where there is one for the inputs, and
``triton`` raises an error where it cannot run. On a CPU they run only with ``triton`` and Triton's interpreter
(``TRITON_INTERPRET=1`` before Triton is imported), which is for tests.
"""

import importlib.util
import os

import torch
from torch import Tensor

VARIABLE = "MY_TRANSFORMERS_KERNELS"
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def use_triton(*tensors: Tensor, largest_dim: int) -> bool:
    """Whether the Triton form runs.

    Args:
        tensors: the inputs (..., dim) with floating-point numbers.
        largest_dim: that the kernels support in the last axis.

    Raises:
        ValueError: the environment variable has another value, or asks for Triton where it cannot run.
    """
    choice = os.environ.get(VARIABLE, "torch")
    if choice not in ("auto", "torch", "triton"):
        raise ValueError(f"{VARIABLE} is {choice!r}, must be 'torch', 'auto' or 'triton'")
    if choice == "torch" or (choice == "auto" and tensors[0].device.type != "cuda"):
        return False
    obstacle = _obstacle(tensors, largest_dim)
    if choice == "triton":
        if obstacle:
            raise ValueError(f"{VARIABLE} is 'triton', but {obstacle}")
        return True
    return not obstacle


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
