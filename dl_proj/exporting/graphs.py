"""Make a model's forward a graph, in eval mode, and run the graph: torch.export, ONNX, onnxruntime.

What is traced is the model's own forward, but for three things whose work is cut into pieces, the number of which a
graph would fix: LSH and local attention of any length are their definitions (O(n^2), see their files), causal kernel
attention has one chunk, and a feed-forward network takes all positions at once.
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
        example: a tensor like those that will come; any length in the middle of what is allowed.
        axes: names of the axes that may have other sizes, by their numbers.
    """

    example: Tensor
    axes: Mapping[int, str]


def graph_of(model: nn.Module, inputs: Mapping[str, Input], *, max_len: int) -> ExportedProgram:
    """``torch.export`` of a model's forward in eval mode, for any batch.

    Args:
        model: is not changed.
        inputs: by the names of forward's arguments. The axis "batch" is any size; all others go up to ``max_len``.
        max_len: tokens.

    Returns:
        A program whose only operator that is not PyTorch's is ``my_transformers::seeded_rotations``, and that only if
        there is LSH attention: import ``my_transformers`` before you load such a program.
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
                name: {axis: dims[of] for axis, of in one.axes.items()} or None for name, one in inputs.items()
            },
            strict=False,  # python runs the forward; the strict way reads its bytecode, and knows less of python
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
    """Write a .pt2 file, whole."""
    with whole_file(path) as part, open(part, "wb") as file:
        torch.export.save(program, file)


def write_onnx(program: ExportedProgram, inputs: Mapping[str, Input], path: Path) -> None:
    """Write an .onnx file, whole, with its weights inside; its output is called "logits".

    Raises:
        ModuleNotFoundError: onnx or onnxscript is missing.
    """
    with _quiet():
        made = torch.onnx.export(
            program,
            (),
            kwargs={name: one.example for name, one in inputs.items()},
            dynamo=True,
            custom_translation_table=translations(),
            output_names=["logits"],
            verbose=False,
        )
    assert made is not None  # as always with dynamo=True
    _name_axes(made.model.graph, inputs)
    with whole_file(path) as part:
        made.save(part)


def _name_axes(graph: Any, inputs: Mapping[str, Input]) -> None:
    """The exporter calls them s52 and s27."""
    from onnx_ir import Shape

    names = {str(value.shape[axis]): name for value in graph.inputs for axis, name in inputs[value.name].axes.items()}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = Shape([names.get(str(size), size) for size in value.shape])


def onnx_runner(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function that runs an .onnx file on the CPU.

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
    """Without the exporter's advice to its developers."""
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
