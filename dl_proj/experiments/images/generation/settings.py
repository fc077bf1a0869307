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
    DataChanges = changes_to(GeneratorDataConfig, without=("val_share", "max_len"))  # training and model


class CrossEntropyConfig(Strict):
    """-log p, the negative log-likelihood."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    """training loss of a pixel"""


class FocalConfig(Strict):
    """-weight (1 - p)^gamma log p (Lin et al. 2017): well-predicted pixels count less."""

    kind: Literal["focal"] = "focal"
    """training loss of a pixel"""
    gamma: float = Field(0.5, ge=0)
    """focal: 0 is cross-entropy; larger values give well-predicted pixels less weight"""
    frequency_power: float = Field(0.0, ge=0, le=1)
    """focal: weight c^-power for a level c times as frequent; 0: equal weights"""


LossConfig = Annotated[CrossEntropyConfig | FocalConfig, Field(discriminator="kind")]


class GeneratorTrainConfig(ImageTrainConfig):
    """Train a class-conditional autoregressive model of small grey images, pixel by pixel."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/bits_per_dim": "min"}
    LENGTH: ClassVar[str] = "data.max_len"

    task: Literal["generation"] = "generation"
    """type of training; fixed"""
    data: GeneratorDataConfig = GeneratorDataConfig()
    """the images"""
    model: StackConfig = StackConfig()
    """the model"""
    loss: LossConfig = FocalConfig()
    """the training loss, chosen by kind; validation and test also report bits per dim, the likelihood"""
    samples_per_label: int = Field(8, ge=0)
    """images per label that the trained model draws into samples.png; 0: no picture"""

    @property
    def tokens_per_example(self) -> int:
        """See ExperimentConfig."""
        return self.data.max_len

    @property
    def default_name(self) -> str:
        """See ExperimentConfig; with the number of pixels if images are resized."""
        name = f"{self.data.slug}-gen-{self.model.attention_slug}"
        original_size = self.data.dataset in IMAGE_SETS and self.data.side == IMAGE_SETS[self.data.dataset].side
        return name if original_size else f"{name}-{self.data.max_len}"

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
    """classes to draw, by name or number, one row each; null: all"""
    per_label: int = Field(10, ge=1)
    """images per label"""
    temperature: float = Field(1.0, gt=0)
    """below 1: more probable pixels; above 1: more variety"""
    top_k: int | None = Field(None, ge=1)
    """sample from only the k most probable levels; 1: always the most probable; null: from all"""
    top_p: float = Field(1.0, gt=0, le=1)
    """sample from the smallest set of levels with at least this probability"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of the sampling: the same seed gives the same pictures, whatever the batch size"""
    batch_size: int = Field(100, ge=1)
    """images drawn together"""
    complete: CliImplicitFlag[bool] = False
    """instead, complete the lower half of test images; a row shows each image followed by its completion"""
    data: DataChanges = DataChanges()
    """data settings to override, under the training's names; for complete, and for an image folder's class names"""
    judge: str | None = Field(None, min_length=1)
    """checkpoint of a classifier, to count the images that it reads as their label"""
    single_files: CliImplicitFlag[bool] = False
    """also write a PNG per image"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/mnist_generator")
    """folder for grid.png and single files"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return ["labels is empty, needs at least one"] if self.labels == () else []
