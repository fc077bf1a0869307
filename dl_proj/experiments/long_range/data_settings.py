"""Schemas of the tasks' data: what is generated or read, and the length of the sequences."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.images.settings import ImageDataConfig
from dl_proj.experiments.images.sources import ImageSetName
from dl_proj.experiments.settings import as_name
from dl_proj.settings.base import Strict

Examples = Annotated[int, Field(ge=2)]


class ListOpsConfig(Strict):
    """Nested lists such as [MAX 2 9 [MIN 4 7 ] 0 ], whose value is to be predicted: ten classes."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["listops"] = "listops"
    """the task"""
    root: Path = Path("data")
    """folder for generated and converted data"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of the generated examples; independent of the training's seed"""
    min_length: int = Field(500, ge=4)
    """listops: minimum tokens of an expression"""
    max_length: int = Field(2000, ge=4)
    """maximum tokens of a sequence; listops: longer ones are rejected; text, retrieval: longer ones are truncated"""
    max_depth: int = Field(10, ge=2, le=64)
    """listops: maximum nesting of an expression, including the level of the digits"""
    max_arguments: int = Field(10, ge=2)
    """listops: maximum arguments of an operator"""
    n_train: Examples = 96_000
    """listops, pathfinder: training examples"""
    n_val: Examples = 2000
    """listops, pathfinder: validation examples"""
    n_test: Examples = 2000
    """listops, pathfinder: test examples"""

    @property
    def vocab_size(self) -> int:
        """Number of symbols: ten digits, four operators, a closing bracket."""
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
    """Pictures of dashed contours and two dots; the label tells whether these are the ends of one contour."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["pathfinder"] = "pathfinder"
    """the task"""
    root: Path = Path("data")
    """folder for generated and converted data"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of the generated examples; independent of the training's seed"""
    side: int = Field(32, ge=16, le=256)
    """pathfinder: height and width of the pictures in pixels; each pixel is a token"""
    dashes: int = Field(14, ge=4, le=16)
    """pathfinder: dashes of each of the two long contours; the others have a third as many"""
    distractors: int = Field(6, ge=0, le=20)
    """pathfinder: maximum number of shorter contours; fewer if there is no room"""
    n_train: Examples = 160_000
    """listops, pathfinder: training examples"""
    n_val: Examples = 20_000
    """listops, pathfinder: validation examples"""
    n_test: Examples = 20_000
    """listops, pathfinder: test examples"""

    @property
    def max_length(self) -> int:
        """Tokens per sequence."""
        return self.side**2

    @property
    def vocab_size(self) -> int:
        """Number of grey levels."""
        return 256

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return f"pathfinder{self.side}"


class ImageSequenceConfig(ImageDataConfig):
    """Grey images, one token per pixel, row by row."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["image"] = "image"
    """the task"""
    dataset: ImageSetName = "cifar10"
    """image: the dataset: digits needs no files; mnist, fashion_mnist and cifar10 are downloaded; image_folder and
    image_shards are for your own pictures"""
    image_size: int = Field(32, ge=1)
    """image: height and width to which images are resized; each pixel is a token"""

    @property
    def max_length(self) -> int:
        """Tokens per sequence."""
        return self.image_size**2

    @property
    def slug(self) -> str:
        """See ImageDataConfig; includes the size of the images."""
        return f"{super().slug}{self.image_size}"


class ReviewsConfig(Strict):
    """Texts as bytes, labelled with their sentiment."""

    PER_EXAMPLE: ClassVar[int] = 1

    kind: Literal["text"] = "text"
    """the task"""
    source: Literal["imdb", "folder"] = "imdb"
    """text: imdb, which is downloaded, or folder, for your own files at path"""
    path: Path | None = None
    """text: folder with train/ and test/, each with pos/ and neg/, which contain *.txt files"""
    root: Path = Path("data")
    """folder for generated and converted data"""
    max_length: int = Field(4000, ge=1)
    """maximum tokens of a sequence; listops: longer ones are rejected; text, retrieval: longer ones are truncated"""
    val_share: float = Field(0.1, gt=0, lt=1)
    """text: fraction of the training texts held out for validation, always the same ones"""

    @property
    def vocab_size(self) -> int:
        """Number of symbols: the bytes."""
        return 256

    @property
    def n_train(self) -> int | None:
        """Number of training texts, if it is known without reading them."""
        return 25_000 - round(25_000 * self.val_share) if self.source == "imdb" else None

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return f"text-{as_name(self.source if self.path is None else self.path.stem)}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.source == "folder" and self.path is None:
            return ["path is required with source: folder"]
        if self.source == "imdb" and self.path is not None:
            return [f"path {self.path} has no effect with source: imdb; use source: folder"]
        return []


class RetrievalConfig(Strict):
    """Pairs of documents as bytes, labelled with whether one cites the other."""

    PER_EXAMPLE: ClassVar[int] = 2

    kind: Literal["retrieval"] = "retrieval"
    """the task"""
    path: Path = Path("data/lra_release/lra_release/tsv_data")
    """retrieval: folder with the benchmark's new_aan_pairs.train.tsv, .eval.tsv and .test.tsv"""
    root: Path = Path("data")
    """folder for generated and converted data"""
    max_length: int = Field(4000, ge=1)
    """maximum tokens of a sequence; listops: longer ones are rejected; text, retrieval: longer ones are truncated"""

    @property
    def vocab_size(self) -> int:
        """Number of symbols: the bytes."""
        return 256

    @property
    def n_train(self) -> None:
        """Number of training pairs: unknown without reading the files."""
        return

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return "retrieval"


LongRangeDataConfig = Annotated[
    ListOpsConfig | PathfinderConfig | ImageSequenceConfig | ReviewsConfig | RetrievalConfig,
    Field(discriminator="kind"),
]
