"""Export a model's forward pass, in eval mode, as a graph, and run it: torch.export, ONNX, onnxruntime.

The model's own forward pass is traced, with three exceptions. They split their work into pieces, and a graph would fix
the number of pieces: LSH and local attention of variable length use their definitions (O(n^2), see their files),
causal kernel attention has a single chunk, and feed-forward networks process all positions at once.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dl_proj.exporting.onnx_operators import translations
from my_custom_ai.utils.files import whole_file
from my_transformers import FeedForward
from my_transformers.performer.base import KernelAttention


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Args:
        example: an example value; a variable length must be strictly inside its range.
        axes: the names of the variable axes, by index.
    """

    example: Tensor
    axes: Mapping[int, str]


def graph_of(model: nn.Module, inputs: Mapping[str, Input], *, max_len: int) -> ExportedProgram:
    """Export a model's forward pass in eval mode with ``torch.export``, for any batch size.

    Args:
        model: the model, which is not modified.
        inputs: by argument name of forward. The axis "batch" has any size, all others at most ``max_len``.
        max_len: maximum tokens of a sequence.

    Returns:
        A program that uses only PyTorch's operators and, with LSH attention, ``my_transformers::seeded_rotations``; in
        that case import ``my_transformers`` before loading it.
    """
    model = _for_any_length(copy.deepcopy(model).cpu().eval(), max_len)
    names = {name for one in inputs.values() for name in one.axes.values()}
    dims = {name: Dim(name, min=1) if name == "batch" else Dim(name, min=1, max=max_len) for name in sorted(names)}
    with torch.no_grad(), _quiet():
        return torch.export.export(
            model,
            (),
            {name: one.example for name, one in inputs.items()},
            dynamic_shapes={
                name: {axis: dims[dim] for axis, dim in one.axes.items()} or None for name, one in inputs.items()
            },
            strict=False,  # run forward in Python; strict mode analyses bytecode, and supports less of Python
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _for_any_length(model: nn.Module, max_len: int) -> nn.Module:
    for module in model.modules():
        if isinstance(module, KernelAttention):
            module.chunk_size = max(module.chunk_size, max_len)
        if isinstance(module, FeedForward):
            module.chunk_size = 0
    return model


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a .pt2 file atomically."""
    with whole_file(path) as part, open(part, "wb") as file:
        torch.export.save(program, file)


def write_onnx(program: ExportedProgram, inputs: Mapping[str, Input], path: Path) -> None:
    """Write an .onnx file atomically, including the weights; its output is called "logits".

    Raises:
        ModuleNotFoundError: onnx or onnxscript is missing.
    """
    with _quiet():
        exported = torch.onnx.export(
            program,
            (),
            kwargs={name: one.example for name, one in inputs.items()},
            dynamo=True,
            custom_translation_table=translations(),
            output_names=["logits"],
            verbose=False,
        )
    assert exported is not None  # always the case with dynamo=True
    _name_axes(exported.model.graph, inputs)
    with whole_file(path) as part:
        exported.save(part)


def _name_axes(graph: Any, inputs: Mapping[str, Input]) -> None:
    """Name the variable axes, which the exporter calls s52 and s27."""
    from onnx_ir import Shape

    names = {str(value.shape[axis]): name for value in graph.inputs for axis, name in inputs[value.name].axes.items()}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = Shape([names.get(str(size), size) for size in value.shape])


def onnx_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return a function that runs an .onnx file on the CPU.

    Raises:
        ModuleNotFoundError: onnxruntime is missing.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        (out,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(out)

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings, which are addressed to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "onnx_ir", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
