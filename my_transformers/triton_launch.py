"""Launching Triton kernels; used by all mechanisms."""

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

from my_transformers import triton_rows

ROWS = 64  # rows per program in kernels that read each row once


def launch(
    kernel: Any, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any], warps: int, stages: int = 1
) -> None:
    """Launch a kernel on the device of its first argument.

    ``stages`` is the depth of the software pipeline; 1 means none, since loops of two or three steps gain nothing.
    """
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[(programs,)](*arguments, **constants, num_warps=warps, num_stages=stages)


def padded(dim: int) -> int:
    """Next power of two, as Triton's block sizes must be, and at least 16, as tl.dot requires."""
    return max(16, triton.next_power_of_2(dim))


def precision() -> str:
    """Precision of float32 products: "tf32x3", nearly exact in three tensor-core products, or "tf32" with 10 bits."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def row_products(grad: Tensor, out: Tensor) -> Tensor:
    """Inner product of the output's gradient and the output of each token: (b, h, n, e) both -> (b, h, n), float32."""
    products = out.new_empty(out.shape[:3], dtype=torch.float32)
    batch, heads, n, dim = out.shape
    blocks = triton.cdiv(n, ROWS)
    arguments = (grad, *grad.stride(), out, *out.stride()[:3], products, heads, n, blocks)
    constants = {"BLOCK": ROWS, "VALUE_DIM": dim, "PADDED_VALUE_DIM": padded(dim)}
    launch(triton_rows.row_products, blocks * batch * heads, arguments, constants, warps=4)
    return products
