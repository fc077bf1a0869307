"""Schemas of the tasks' data: what is made or read, and how long the sequences are."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.images.settings import ImageDataConfig
from dl_proj.experiments.images.sources import ImageSetName
from dl_proj.experiments.settings import as_name
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


class PathfinderConfig(Strict):
    """Pictures of dashed contours with two dots: are they the ends of one contour?"""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["pathfinder"] = "pathfinder"
    """which task"""
    root: Path = Path("data")
    """folder of files that are made or read"""
    seed: int = Field(0, ge=0, lt=2**31)
    """of the examples that are made, the same for all trainings unless it is changed"""
    side: int = Field(32, ge=16, le=256)
    """pathfinder: height and width of the pictures in pixels; their square is the number of tokens"""
    dashes: int = Field(14, ge=4, le=16)
    """pathfinder: of each of the two long contours; others have a third as many"""
    distractors: int = Field(6, ge=0, le=20)
    """pathfinder: shorter contours at most, as far as there is room for them"""
    n_train: Examples = 160_000
    """listops, pathfinder: training examples"""
    n_val: Examples = 20_000
    """listops, pathfinder: validation examples"""
    n_test: Examples = 20_000
    """listops, pathfinder: test examples"""

    @property
    def max_length(self) -> int:
        """Tokens of a sequence."""
        return self.side**2

    @property
    def vocab_size(self) -> int:
        """Grey levels."""
        return 256

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return f"pathfinder{self.side}"


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


class ReviewsConfig(Strict):
    """Texts as bytes, and whether each speaks well of its subject."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["text"] = "text"
    """which task"""
    source: Literal["imdb", "folder"] = "imdb"
    """text: imdb is downloaded; folder: files at path"""
    path: Path | None = None
    """text: a folder with train/ and test/, each with pos/ and neg/, of *.txt files; retrieval: see there"""
    root: Path = Path("data")
    """folder of files that are made or read"""
    max_length: int = Field(4000, ge=1)
    """tokens of a sequence at most; listops draws none that are longer, text and retrieval cut longer ones off"""
    val_share: float = Field(0.1, gt=0, lt=1)
    """text: share of the training texts that is held out for validation, always the same ones"""

    @property
    def vocab_size(self) -> int:
        """Bytes."""
        return 256

    @property
    def n_train(self) -> int | None:
        """Training texts, if that can be told without reading them."""
        return 25_000 - round(25_000 * self.val_share) if self.source == "imdb" else None

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return f"text-{as_name(self.source if self.path is None else self.path.stem)}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.source == "folder" and self.path is None:
            return ["path is needed for source: folder"]
        if self.source == "imdb" and self.path is not None:
            return [f"path {self.path} has no effect with source: imdb; give source: folder"]
        return []


class RetrievalConfig(Strict):
    """Pairs of documents as bytes, and whether one cites the other."""

    PER_EXAMPLE: ClassVar[int] = 2

    kind: Literal["retrieval"] = "retrieval"
    """which task"""
    path: Path = Path("data/lra_release/lra_release/tsv_data")
    """retrieval: the folder of the benchmark's new_aan_pairs.train.tsv, .eval.tsv and .test.tsv"""
    root: Path = Path("data")
    """folder of files that are made or read"""
    max_length: int = Field(4000, ge=1)
    """tokens of a sequence at most; listops draws none that are longer, text and retrieval cut longer ones off"""

    @property
    def vocab_size(self) -> int:
        """Bytes."""
        return 256

    @property
    def n_train(self) -> None:
        """It takes reading the files to know."""
        return

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return "retrieval"


LongRangeDataConfig = Annotated[
    ListOpsConfig | PathfinderConfig | ImageSequenceConfig | ReviewsConfig | RetrievalConfig,
    Field(discriminator="kind"),
]
