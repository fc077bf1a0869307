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
    DataChanges = changes_to(ClassifierDataConfig, without=("val_share", "random_shift"))  # which no test image needs


class ShiftConfig(Strict):
    """Accuracy of classifiers on images that are moved sideways (Horn et al. 2021)."""

    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...]
    """a curve each: names of shipped checkpoints, or folders of runs of cls_train.py"""
    labels: Labels = ("1",)
    """classes whose test images are moved, by name or number; null: all"""
    max_shift: int = Field(8, ge=1)
    """pixels to either side, of the images as the dataset has them, before they are resized for the model; only
    images that have so many empty (black) columns on both sides take part, the same at each shift"""
    data: DataChanges = DataChanges()
    """settings of all models' images, as the training has them: where they are now, or other ones"""
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
