"""Schemas of generation_train.py and mnist_generator.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic_settings import CliImplicitFlag

from dl_proj.experiments.images.settings import GeneratorDataConfig, ImageTrainConfig, Labels
from dl_proj.experiments.images.sources import IMAGE_SETS
from dl_proj.experiments.settings import MonitorMode
from dl_proj.models.settings import StackConfig
from dl_proj.settings.base import Strict
from dl_proj.settings.changes import Changes, changes_to
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    DataChanges = Changes
else:
    DataChanges = changes_to(GeneratorDataConfig, without=("val_share", "max_len"))  # of training, and of the model


class CrossEntropyConfig(Strict):
    """-log p, the likelihood itself."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    """loss of a pixel, in training"""


class FocalConfig(Strict):
    """-weight (1 - p)^gamma log p (Lin et al. 2017): pixels that are already well predicted count less."""

    kind: Literal["focal"] = "focal"
    """loss of a pixel, in training"""
    gamma: float = Field(0.5, ge=0)
    """focal: 0 is cross-entropy; larger turns away from what is well predicted"""
    frequency_power: float = Field(0.0, ge=0, le=1)
    """focal: a level that is c times as frequent weighs c^-power; 0 weighs all alike"""


LossConfig = Annotated[CrossEntropyConfig | FocalConfig, Field(discriminator="kind")]


class GeneratorTrainConfig(ImageTrainConfig):
    """Train a class-conditional autoregressive model of small grey images, pixel by pixel."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/bits_per_dim": "min"}
    LENGTH: ClassVar[str] = "data.max_len"

    task: Literal["generation"] = "generation"
    """what is trained"""
    data: GeneratorDataConfig = GeneratorDataConfig()
    """the images"""
    model: StackConfig = StackConfig()
    """the model"""
    loss: LossConfig = FocalConfig()
    """the loss in training, chosen by kind; validation and test also give bits per dim, which is the likelihood's"""
    samples_per_label: int = Field(8, ge=0)
    """images a label that the trained model draws into samples.png; 0: no picture"""

    @property
    def tokens_per_example(self) -> int:
        """See ExperimentConfig."""
        return self.data.max_len

    @property
    def default_name(self) -> str:
        """See ExperimentConfig; with the pixels, where images do not keep their size."""
        name = f"{self.data.slug}-gen-{self.model.attention_slug}"
        keeps = self.data.dataset in IMAGE_SETS and self.data.side == IMAGE_SETS[self.data.dataset].side
        return name if keeps else f"{name}-{self.data.max_len}"

    @classmethod
    def quick(cls) -> dict[str, Any]:
        """See ExperimentConfig."""
        return super().quick() | {"samples_per_label": 1}

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_at(self.data.max_len, causal=True, grid=True) + super().mistakes()
        return found + self.model.moving_chunks("generate")


class DrawConfig(Strict):
    """Draw images with a trained generator."""

    checkpoint: str = Field("mnist-gen-full-144", min_length=1)
    """name of a shipped checkpoint, or folder of a run of generation_train.py"""
    labels: Labels = None
    """classes to draw, by name or number, one row each; null: all that the model knows"""
    per_label: int = Field(10, ge=1)
    """images a label"""
    temperature: float = Field(1.0, gt=0)
    """below 1: more probable pixels; above 1: more variety"""
    top_k: int | None = Field(None, ge=1)
    """draw from so many most probable levels; 1: always the most probable; null: all"""
    top_p: float = Field(1.0, gt=0, le=1)
    """draw from the smallest set of levels with at least this probability"""
    seed: int = Field(0, ge=0, lt=2**31)
    """of the draws: the same seed gives the same pictures, whatever the batch size"""
    batch_size: int = Field(100, ge=1)
    """images that are drawn together"""
    complete: CliImplicitFlag[bool] = False
    """finish the lower half of test images instead; a row shows each image and then what the model made of its half"""
    data: DataChanges = DataChanges()
    """settings of the images, as the training has them, for complete and for the class names of an image folder"""
    judge: str | None = Field(None, min_length=1)
    """a classifier's checkpoint that says how many images it reads as their label"""
    single_files: CliImplicitFlag[bool] = False
    """write one PNG an image, too"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/mnist_generator")
    """where grid.png and single files go"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return ["labels is empty, needs one at least"] if self.labels == () else []
