"""Two operators of ours and PyTorch's that ONNX lacks, in ONNX's own operators."""

from collections.abc import Callable
from typing import Any

import torch

from my_transformers.lsh.hashing import seeded_rotations


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch.onnx.export takes as custom_translation_table.

    Raises:
        ModuleNotFoundError: onnxscript is missing.
    """
    import onnx_ir
    from onnxscript import opset18

    op: Any = opset18  # its types are those of tensors, but what it is called with here are nodes of a graph

    def rotations(
        like: Any, heads: int, n_rounds: int, head_dim: int, n_buckets: int, seed: int, nested: bool = False
    ) -> Any:
        """LSH attention's directions follow from numbers that the graph knows: a constant."""
        sizes = (heads, n_rounds, head_dim, n_buckets)
        drawn = seeded_rotations(torch.empty(0), *sizes, seed, nested)
        return op.Constant(value=onnx_ir.tensor(drawn.numpy()))

    def running_maximum(x: Any, dim: int) -> tuple[Any, Any]:
        """torch.cummax along the last axis: of each place the maximum over it and those before it."""
        n = op.Shape(x, start=-1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Concat(n, n, axis=0))
        later = op.Cast(op.Trilu(ones, op.Constant(value_int=1), upper=1), to=onnx_ir.DataType.BOOL)
        rows = op.Unsqueeze(x, op.Constant(value_ints=[-2]))
        seen = op.Where(later, op.Constant(value_float=float("-inf")), rows)
        largest = op.ReduceMax(seen, op.Constant(value_ints=[-1]), keepdims=0)
        return largest, op.Cast(largest, to=onnx_ir.DataType.INT64)  # nobody here asks where the maximum stands

    return {
        torch.ops.my_transformers.seeded_rotations.default: rotations,
        torch.ops.aten.cummax.default: running_maximum,
    }
