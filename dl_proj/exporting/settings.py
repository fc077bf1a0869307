"""Schema of export.py."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dl_proj.settings.base import Strict


class ExportConfig(Strict):
    """Write a trained model's forward as a graph that runs without this project, and compare the two."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run or checkpoint"""
    formats: Annotated[tuple[Literal["onnx", "pt2"], ...], Field(min_length=1)] = ("onnx", "pt2")
    """onnx: for onnxruntime and others; pt2: for torch.export.load"""
    tolerance: float = Field(1e-5, gt=0)
    """largest difference from the model's own logits that is accepted, as a share of the largest logit"""
    output_dir: Path = Path("runs/export")
    """where model.onnx and model.pt2 go"""
