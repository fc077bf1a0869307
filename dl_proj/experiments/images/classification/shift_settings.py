"""Schema of shift_test.py."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dl_proj.experiments.images.settings import Labels
from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class ShiftConfig(Strict):
    """Accuracy of classifiers on images that are moved sideways (Horn et al. 2021)."""

    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...]
    """a curve each: names of shipped checkpoints, or folders of runs of cls_train.py"""
    labels: Labels = ("1",)
    """classes whose test images are moved, by name or number; null: all"""
    max_shift: int = Field(8, ge=1)
    """pixels to either side, of the images as the dataset has them, before they are resized for the model; only
    images that have so many empty (black) columns on both sides take part, the same at each shift"""
    data_root: Path | None = None
    """folder of image data; null: where each model's configuration says"""
    batch_size: int = Field(100, ge=1)
    """images a batch"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/shift_test")
    """where shifts.csv and shifts.png go"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return [
            f"{name} is empty, needs one at least" for name in ("checkpoints", "labels") if getattr(self, name) == ()
        ]
