"""Schema of predict.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class PredictConfig(Strict):
    """Classify pictures with a trained classifier: files, folders or patterns such as 'pics/*.png'."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of cls_train.py"""
    top: int = Field(3, ge=1)
    """number of classes to print for each picture, most probable first"""
    output: Path | None = None
    """CSV file for every picture's class and the probabilities of all classes; null: none"""
    batch_size: int = Field(100, ge=1)
    """pictures per forward pass"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
