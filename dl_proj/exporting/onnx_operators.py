"""Translations of two operators, one of ours and one of PyTorch's, that ONNX lacks."""

from collections.abc import Callable
from typing import Any

import torch

from my_transformers.lsh.hashing import seeded_rotations


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the argument custom_translation_table for torch.onnx.export.

    Raises:
        ModuleNotFoundError: onnxscript is missing.
    """
    import onnx_ir
    from onnxscript import opset18

    op: Any = opset18  # typed for tensors, but called with nodes of a graph here

    def rotations(
        like: Any, heads: int, n_rounds: int, head_dim: int, n_buckets: int, seed: int, nested: bool = False
    ) -> Any:
        """Turn LSH attention's rotations into a constant, because the graph fixes their seed and sizes."""
        sizes = (heads, n_rounds, head_dim, n_buckets)
        drawn = seeded_rotations(torch.empty(0), *sizes, seed, nested)
        return op.Constant(value=onnx_ir.tensor(drawn.numpy()))

    def running_maximum(x: Any, dim: int) -> tuple[Any, Any]:
        """Translate torch.cummax along the last axis: the maximum over each position and all earlier ones."""
        n = op.Shape(x, start=-1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Concat(n, n, axis=0))
        later = op.Cast(op.Trilu(ones, op.Constant(value_int=1), upper=1), to=onnx_ir.DataType.BOOL)
        rows = op.Unsqueeze(x, op.Constant(value_ints=[-2]))
        seen = op.Where(later, op.Constant(value_float=float("-inf")), rows)
        largest = op.ReduceMax(seen, op.Constant(value_ints=[-1]), keepdims=0)
        return largest, op.Cast(largest, to=onnx_ir.DataType.INT64)  # the indices are never used

    return {
        torch.ops.my_transformers.seeded_rotations.default: rotations,
        torch.ops.aten.cummax.default: running_maximum,
    }
