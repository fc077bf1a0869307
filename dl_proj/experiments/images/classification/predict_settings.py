"""Schema of predict.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class PredictConfig(Strict):
    """Say what a trained classifier takes pictures for: files, folders and patterns such as 'pics/*.png'."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of cls_train.py"""
    top: int = Field(3, ge=1)
    """so many classes are printed for each picture, the likeliest first"""
    output: Path | None = None
    """CSV file with every picture's class and the probabilities of all classes; null: none is written"""
    batch_size: int = Field(100, ge=1)
    """pictures that go through the model together"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
