"""Schemas of image data."""

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from dl_proj.experiments.images.sources import IMAGE_SETS, ImageSetName, chosen_classes
from dl_proj.experiments.settings import ExperimentConfig, TrainConfig, as_name
from dl_proj.models.patches import patches_a_side, sequence_length
from dl_proj.settings.base import Strict, null_is_none


def _numbers_as_words(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[str, BeforeValidator(_numbers_as_words)]  # a class's name or number; flags bring both as words
Labels = Annotated[tuple[Label, ...] | None, BeforeValidator(null_is_none)]


class ImageDataConfig(Strict):
    """Labelled images, quantised; the validation images are held out of the training images, always the same."""

    dataset: ImageSetName = "digits"
    """digits needs no files; mnist, fashion_mnist and cifar10 are downloaded; image_folder is for your own pictures"""
    root: Path = Path("data")
    """folder of the files; image_folder: it holds train/<class>/, test/<class>/ and perhaps val/<class>/"""
    labels: Labels = None
    """classes to keep, by name or number, two at least; null: all"""
    val_share: float = Field(0.1, gt=0, lt=1)
    """share of the training images that is held out for validation"""
    skip_broken: bool = False
    """image_folder: go on without pictures that cannot be read, and say how many; false: refuse them"""
    vocab_size: int = Field(256, ge=2, le=256)
    """levels of a pixel"""

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return as_name(self.root.name if self.dataset == "image_folder" else self.dataset)

    @property
    def n_train(self) -> int | None:
        """Training images, if that can be told without reading them."""
        if self.dataset not in IMAGE_SETS or self.labels is not None:
            return None
        there = IMAGE_SETS[self.dataset].n_train
        return there - round(self.val_share * there)

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.skip_broken and self.dataset != "image_folder":
            return [f"skip_broken true has no effect: dataset {self.dataset} is read whole or not at all"]
        if self.labels is None:
            return []
        if len(self.labels) < 2:
            return [f"labels {list(self.labels)} must name two classes at least"]
        if self.dataset in IMAGE_SETS:
            try:
                chosen_classes(IMAGE_SETS[self.dataset].classes, self.labels)
            except ValueError as error:
                return [f"labels: {error}"]
        return []


class ClassifierDataConfig(ImageDataConfig):
    """Images as sequences of patches."""

    image_size: int | None = Field(None, ge=1)
    """height and width that images are resized to; null: as they come"""
    greyscale: bool = False
    """turn colours into grey"""
    patch_size: int = Field(1, ge=1)
    """side of a patch, which is a token; 1: pixels"""
    patch_stride: int | None = Field(None, ge=1)
    """pixels from one patch to the next; less than patch_size makes them overlap; null: patch_size"""
    split_channels: bool = False
    """a token for each channel of a patch, instead of one for all"""
    random_shift: int = Field(0, ge=0)
    """training images are moved by up to so many pixels in each direction"""

    @property
    def slug(self) -> str:
        """See ImageDataConfig; images of another size are others."""
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
        """Pixel values a token."""
        return self.patch_size**2 * (1 if self.split_channels else self.channels)

    @property
    def columns(self) -> int:
        """Patches a row."""
        return patches_a_side(self.side, self.patch_size, stride=self.patch_stride)

    @property
    def length(self) -> int:
        """Patches an image."""
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
        if self.dataset == "image_folder" and self.image_size is None:
            return [*found, "image_size is needed for dataset: image_folder"]
        found += self._patch_mistakes()
        if self.random_shift >= self.side:
            found.append(f"random_shift {self.random_shift} must be less than the images' side of {self.side} pixels")
        return found

    def _patch_mistakes(self) -> list[str]:
        size, stride = self.patch_size, self.patch_stride
        if stride is not None and stride > size:
            return [f"patch_stride {stride} must be at most patch_size {size}: pixels between patches would be lost"]
        if size > self.side or (self.side - size) % (stride or size):
            if stride is None:
                return [f"patch_size {size} does not divide the images' side of {self.side} pixels"]
            return [f"patches of patch_size {size} at patch_stride {stride} do not end with the {self.side} pixels"]
        return []


class GeneratorDataConfig(ImageDataConfig):
    """Grey images as sequences of pixels."""

    max_len: int = Field(64, ge=4)
    """pixels an image: a square number; images are resized to that square, colours become grey"""

    @property
    def greyscale(self) -> bool:
        """A pixel is one token."""
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
            found.append(f"max_len {self.max_len} is no square number; {near} would be")
        return found


class ImageTrainConfig(ExperimentConfig):
    """What a training on images has; subclasses say which images."""

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
