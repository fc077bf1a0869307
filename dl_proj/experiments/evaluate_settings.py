"""Schema of evaluate.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class EvaluateConfig(Strict):
    """Measure trained models on their test data."""

    checkpoint: str | None = Field(None, min_length=1)
    """name of a shipped checkpoint, folder of a run, or a folder of them: all below it; null: all shipped ones"""
    data_root: Path | None = None
    """folder of image data, or of a text's downloads and token files; null: where each model's configuration says"""
    batch_size: int = Field(100, ge=1)
    """examples a batch"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/evaluation")
    """where evaluation.csv goes, and in a folder a model what there is besides figures"""
