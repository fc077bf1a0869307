"""export.py: export a trained model as a graph, and compare the graph with the model."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dl_proj.experiments.load import load
from dl_proj.exporting.graphs import Input, graph_of, onnx_runner, write_onnx, write_program
from dl_proj.exporting.inputs import GraphInputs
from dl_proj.exporting.settings import ExportConfig
from dl_proj.models.sampling import check_logits
from dl_proj.settings.errors import ConfigError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Mapping[str, Tensor]], Tensor]


def export_model(config: ExportConfig) -> None:
    """Write the graphs, and print how far their logits differ from the model's.

    Raises:
        ConfigError: a package is missing, or a graph's logits differ by more than ``tolerance``.
        NonFinite: the model's logits are nan or infinite.
    """
    if "onnx" in config.formats and (missing := [name for name in _NEEDED if find_spec(name) is None]):
        raise ConfigError(
            f"formats: onnx needs {', '.join(missing)}, not installed; install the extra 'onnx' (pip install '.[onnx]' "
            "in the project's folder), or use --formats pt2"
        )
    trained = load(config.checkpoint)
    inputs = GraphInputs.of(trained)
    model = trained.model.cpu()
    program = graph_of(model, inputs.examples(), max_len=inputs.max_len)
    print(_described(inputs))
    for name in dict.fromkeys(config.formats):
        path = config.output_dir / f"model.{name}"
        run = _written(program, inputs.examples(), path)
        difference = largest_difference(model, run, inputs)
        print(f"written: {path}, its logits equal the model's within {difference:.1e} of the largest")
        if not difference <= config.tolerance:
            raise ConfigError(
                f"tolerance: the logits of {path} differ from the model's by {difference:.1e} of the largest, more "
                f"than {config.tolerance:g}; check the graph before using it, or raise --tolerance"
            )


def _written(program: ExportedProgram, examples: Mapping[str, Input], path: Path) -> Run:
    """Write one format; returns a function that runs the written graph."""
    if path.suffix == ".onnx":
        write_onnx(program, examples, path)
        return onnx_runner(path)
    write_program(program, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(**inputs)


@torch.no_grad()
def largest_difference(model: nn.Module, run: Run, inputs: GraphInputs) -> float:
    """Return the largest difference of a logit, relative to the largest logit (or 1, if that is larger).

    Inputs of several sizes are tried. The result is nan if a logit of the graph is.

    Raises:
        NonFinite: a logit of the model is nan or infinite.
    """
    differences = []
    for given in inputs.checks():
        own = model(**given)
        check_logits(own)
        differences.append((run(given) - own).abs().max() / own.abs().max().clamp_min(1))
    return torch.stack(differences).max().item()  # Python's max may ignore nan


def _described(inputs: GraphInputs) -> str:
    lines = []
    for name, one in inputs.examples().items():
        sizes = [one.axes.get(axis, str(size)) for axis, size in enumerate(one.example.shape)]
        lines.append(f"input: {name} ({', '.join(sizes)}) {str(one.example.dtype).removeprefix('torch.')}")
    most = f"; lengths up to {inputs.max_len}" if inputs.any_length else ""
    return "\n".join([*lines, f"output: logits{most}"])
