"""Schemas of the tasks' data: what is made or read, and how long the sequences are."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.images.settings import ImageDataConfig
from dl_proj.experiments.images.sources import ImageSetName
from dl_proj.settings.base import Strict

Examples = Annotated[int, Field(ge=2)]


class ListOpsConfig(Strict):
    """Nested lists such as [MAX 2 9 [MIN 4 7 ] 0 ], whose value is asked for: ten classes."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["listops"] = "listops"
    """which task"""
    root: Path = Path("data")
    """folder of files that are made or read"""
    seed: int = Field(0, ge=0, lt=2**31)
    """of the examples that are made, the same for all trainings unless it is changed"""
    min_length: int = Field(500, ge=4)
    """listops: tokens of an expression at least"""
    max_length: int = Field(2000, ge=4)
    """tokens of a sequence at most; listops draws none that are longer, text and retrieval cut longer ones off"""
    max_depth: int = Field(10, ge=2, le=64)
    """listops: levels of an expression at most, that of the digits included"""
    max_arguments: int = Field(10, ge=2)
    """listops: arguments of an operator at most"""
    n_train: Examples = 96_000
    """listops, pathfinder: training examples"""
    n_val: Examples = 2000
    """listops, pathfinder: validation examples"""
    n_test: Examples = 2000
    """listops, pathfinder: test examples"""

    @property
    def vocab_size(self) -> int:
        """Ten digits, four operators, a closing bracket."""
        return 15

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return f"listops{self.max_length}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.min_length > self.max_length:
            return [f"min_length {self.min_length} must be at most max_length {self.max_length}"]
        return []


class ImageSequenceConfig(ImageDataConfig):
    """Grey images, one token a pixel, row by row."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["image"] = "image"
    """which task"""
    dataset: ImageSetName = "cifar10"
    """image: digits needs no files; mnist, fashion_mnist and cifar10 are downloaded; image_folder is for your own"""
    image_size: int = Field(32, ge=1)
    """image: height and width that images are resized to; their square is the number of tokens"""

    @property
    def max_length(self) -> int:
        """Tokens of a sequence."""
        return self.image_size**2

    @property
    def slug(self) -> str:
        """See ImageDataConfig; images of another size are others."""
        return f"{super().slug}{self.image_size}"


LongRangeDataConfig = Annotated[ListOpsConfig | ImageSequenceConfig, Field(discriminator="kind")]
