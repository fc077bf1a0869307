"""Schemas of image data."""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from dl_proj.experiments.images.sources import IMAGE_SETS, OWN_PICTURES, ImageSetName, chosen_classes
from dl_proj.experiments.settings import ExperimentConfig, TrainConfig, as_name
from dl_proj.models.patches import patches_a_side, sequence_length
from dl_proj.settings.base import Strict, null_is_none


def _number_to_string(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[str, BeforeValidator(_number_to_string)]  # a class's name or number; flags pass both as strings
Labels = Annotated[tuple[Label, ...] | None, BeforeValidator(null_is_none)]


class ImageDataConfig(Strict):
    """Labelled images, quantised; validation images are held out from the training images, always the same ones."""

    dataset: ImageSetName = "digits"
    """the dataset: digits needs no files; mnist, fashion_mnist and cifar10 are downloaded; image_folder and
    image_shards are for your own pictures"""
    root: Path = Path("data")
    """folder of the files; image_folder: contains train/<class>/, test/<class>/ and optionally val/<class>/;
    image_shards: contains .tar or .parquet files in train/, test/ and optionally val/, or called train-* and so on"""
    labels: Labels = None
    """classes to keep, by name or number, at least two; null: all"""
    val_share: float = Field(0.1, gt=0, lt=1)
    """fraction of the training images held out for validation"""
    skip_broken: bool = False
    """image_folder, image_shards: skip unreadable pictures and report their number; false: refuse them"""
    streamed: bool = False
    """image_folder, image_shards: decode a picture when it is needed, in train.num_workers processes; false: hold all
    in memory"""
    cache: Path = Path("data/pictures")
    """image_folder, image_shards: folder for what is unpacked from .parquet, and for the result of checking streamed
    pictures"""
    vocab_size: int = Field(256, ge=2, le=256)
    """number of levels of a pixel"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.root.name if self.dataset in OWN_PICTURES else self.dataset)

    @property
    def n_train(self) -> int | None:
        """Number of training images, if it is known without reading them."""
        if self.dataset not in IMAGE_SETS or self.labels is not None:
            return None
        total = IMAGE_SETS[self.dataset].n_train
        return total - round(self.val_share * total)

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.dataset not in OWN_PICTURES and (given := [name for name in _OWN if getattr(self, name) != _OWN[name]]):
            only = " and ".join(OWN_PICTURES)
            value = str(getattr(self, given[0])).lower()
            return [f"{given[0]} {value} has no effect with dataset {self.dataset}, only with {only}"]
        if self.labels is None:
            return []
        if len(self.labels) < 2:
            return [f"labels {list(self.labels)} must name at least two classes"]
        if self.dataset in IMAGE_SETS:
            try:
                chosen_classes(IMAGE_SETS[self.dataset].classes, self.labels)
            except ValueError as error:
                return [f"labels: {error}"]
        return []


_OWN = {name: ImageDataConfig.model_fields[name].default for name in ("skip_broken", "streamed", "cache")}


class ClassifierDataConfig(ImageDataConfig):
    """Images as sequences of patches."""

    image_size: int | None = Field(None, ge=1)
    """height and width to which images are resized; null: not resized"""
    greyscale: bool = False
    """convert colours to grey"""
    patch_size: int = Field(1, ge=1)
    """side of a patch in pixels; each patch is a token"""
    patch_stride: int | None = Field(None, ge=1)
    """pixels from one patch to the next; less than patch_size: patches overlap; null: patch_size"""
    split_channels: bool = False
    """make each channel of a patch a token"""
    random_shift: int = Field(0, ge=0)
    """maximum of the random shifts of training images, in pixels along each axis"""

    @property
    def slug(self) -> str:
        """See ImageDataConfig; includes the size of resized images."""
        return f"{super().slug}{self.image_size or ''}"

    @property
    def side(self) -> int:
        """Height and width of the images."""
        return self.image_size or IMAGE_SETS[self.dataset].side

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 1 if self.greyscale else IMAGE_SETS[self.dataset].channels if self.dataset in IMAGE_SETS else 3

    @property
    def values(self) -> int:
        """Pixel values per token."""
        return self.patch_size**2 * (1 if self.split_channels else self.channels)

    @property
    def columns(self) -> int:
        """Patches per row."""
        return patches_a_side(self.side, self.patch_size, stride=self.patch_stride)

    @property
    def length(self) -> int:
        """Tokens per image."""
        return sequence_length(
            self.side,
            self.channels,
            self.patch_size,
            stride=self.patch_stride,
            split_channels=self.split_channels,
        )

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.dataset in OWN_PICTURES and self.image_size is None:
            return [*found, f"image_size is required with dataset: {self.dataset}"]
        found += self._patch_mistakes()
        if self.random_shift >= self.side:
            found.append(f"random_shift {self.random_shift} must be less than the images' side of {self.side} pixels")
        return found

    def _patch_mistakes(self) -> list[str]:
        size, stride = self.patch_size, self.patch_stride
        if stride is not None and stride > size:
            return [f"patch_stride {stride} must be at most patch_size {size}, or pixels between patches would be lost"]
        if size > self.side or (self.side - size) % (stride or size):
            if stride is None:
                return [f"patch_size {size} does not divide the images' side of {self.side} pixels"]
            return [f"patch_size {size} and patch_stride {stride} must end at the images' side of {self.side} pixels"]
        return []


class GeneratorDataConfig(ImageDataConfig):
    """Grey images as sequences of pixels."""

    max_len: int = Field(64, ge=4)
    """pixels per image, a square number; images are resized to that square and converted to grey"""

    @property
    def greyscale(self) -> bool:
        """Always true: a pixel is one token."""
        return True

    @property
    def side(self) -> int:
        """Height and width of the images."""
        return math.isqrt(self.max_len)

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = super().mistakes()
        if self.side**2 != self.max_len:
            near = f"{self.side**2} or {(self.side + 1) ** 2}"
            found.append(f"max_len {self.max_len} must be a square number, such as {near}")
        return found


class ImageTrainConfig(ExperimentConfig):
    """The base class of trainings on images."""

    GRID: ClassVar[bool] = True

    data: ImageDataConfig
    """the images"""
    train: TrainConfig
    """the pace of training"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found, n_train = super().mistakes(), self.data.n_train
        if n_train is None or self.train.length_mistakes():
            return found
        if self.train.batch_size > n_train:
            return [*found, f"train.batch_size {self.train.batch_size} is more than the {n_train} training images"]
        return found + self.schedule_mistakes(self.train.steps(n_train))
