"""Schema of export.py."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dl_proj.settings.base import Strict


class ExportConfig(Strict):
    """Export a trained model's forward pass as a graph that runs without this project, and compare the two."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run or checkpoint"""
    formats: Annotated[tuple[Literal["onnx", "pt2"], ...], Field(min_length=1)] = ("onnx", "pt2")
    """formats to write; onnx: for onnxruntime and others; pt2: for torch.export.load"""
    tolerance: float = Field(1e-5, gt=0)
    """maximum difference from the model's logits, relative to the largest logit"""
    output_dir: Path = Path("runs/export")
    """folder for model.onnx and model.pt2"""
