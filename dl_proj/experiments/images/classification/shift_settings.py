"""Schema of shift_test.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dl_proj.experiments.images.settings import ClassifierDataConfig, Labels
from dl_proj.settings.base import Strict
from dl_proj.settings.changes import Changes, changes_to
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    DataChanges = Changes
else:
    DataChanges = changes_to(ClassifierDataConfig, without=("val_share", "random_shift"))  # not for test images


class ShiftConfig(Strict):
    """Measure classifiers on horizontally shifted images (Horn et al. 2021)."""

    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...]
    """models, one curve each: names of shipped checkpoints, or folders of runs of cls_train.py"""
    labels: Labels = ("1",)
    """classes whose test images are shifted, by name or number; null: all"""
    max_shift: int = Field(8, ge=1)
    """largest shift to either side, in pixels of the dataset's images before resizing; only images with at least this
    many empty (black) columns on both sides are used, the same ones for every shift"""
    data: DataChanges = DataChanges()
    """data settings to override in all models, under the training's names"""
    batch_size: int = Field(100, ge=1)
    """images per batch"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/shift_test")
    """folder for shifts.csv and shifts.png"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return [
            f"{name} is empty, needs at least one" for name in ("checkpoints", "labels") if getattr(self, name) == ()
        ]
