"""Schema of cls_train.py."""

from typing import ClassVar, Literal

from dl_proj.configs.images import ClassifierDataConfig, ImageTrainConfig
from dl_proj.configs.model import ClassifierConfig
from dl_proj.configs.training import MonitorMode


class ClassifierTrainConfig(ImageTrainConfig):
    """Train an image classifier."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}

    task: Literal["classification"] = "classification"
    """what is trained"""
    data: ClassifierDataConfig = ClassifierDataConfig()
    """the images"""
    model: ClassifierConfig = ClassifierConfig()
    """the model"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self.model.mistakes_on(self.data) + super().mistakes()
