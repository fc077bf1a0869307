"""The three splits of a task, generated or read once into files in the data's root."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import assert_never

from torch import Tensor
from torch.utils.data import Dataset

from dl_proj.experiments.images.data import Images, load_images
from dl_proj.experiments.long_range.data_settings import (
    ImageSequenceConfig,
    ListOpsConfig,
    LongRangeDataConfig,
    PathfinderConfig,
    RetrievalConfig,
    ReviewsConfig,
)
from dl_proj.experiments.long_range.listops import Grammar, different_expressions
from dl_proj.experiments.long_range.pathfinder import Scenery, pictures
from dl_proj.experiments.long_range.sequences import SPLITS, Example, Sequences, Splits, batch_of, write_sequences
from dl_proj.experiments.long_range.texts import (
    document_pairs,
    folder_texts,
    held_out,
    imdb_texts,
    pair_files,
    text_files_digest,
)
from dl_proj.settings.errors import ConfigError, reason
from my_custom_ai.utils.files import content_digest

_LISTOPS_VERSION = "1"  # to be raised when the generated examples change
_PATHFINDER_VERSION = "1"
_TEXT_VERSION = _RETRIEVAL_VERSION = "1"  # to be raised when reading changes


def load_task(data: LongRangeDataConfig) -> Splits:
    """Load the sequences of a configuration.

    Raises:
        ConfigError: examples that cannot be generated, read or downloaded, or a folder that is not writable.
    """
    try:
        match data:
            case ListOpsConfig():
                return listops(data)
            case PathfinderConfig():
                return pathfinder(data)
            case ImageSequenceConfig():
                return images(data)
            case ReviewsConfig():
                return reviews(data)
            case RetrievalConfig():
                return retrieval(data)
            case _:
                assert_never(data)
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"data: {error.filename}: {reason(error)}") from None


def listops(data: ListOpsConfig) -> Splits:
    """Generate expressions that are all different, so that no test expression occurs in training."""
    path = _path(data, _LISTOPS_VERSION)
    grammar = Grammar(data.min_length, data.max_length, data.max_depth, data.max_arguments)
    different = different_expressions(grammar, data.n_test + data.n_val + data.n_train, data.seed)
    write_sequences(path, _cut(data, (((tokens,), value) for tokens, value in different)))
    return _splits(path, data.max_length, tuple("0123456789"))


def _cut(data: ListOpsConfig, examples: Iterator[Example]) -> Iterator[Iterator[Example]]:
    """Yield the first examples for test, then for validation, then for training."""
    for name, number in (("n_test", data.n_test), ("n_val", data.n_val), ("n_train", data.n_train)):
        yield _first(examples, number, name, data)


def _first(examples: Iterator[Example], number: int, name: str, data: ListOpsConfig) -> Iterator[Example]:
    for count in range(number):
        example = next(examples, None)
        if example is None:
            raise ConfigError(
                f"data.{name}: {number} are wanted, but only {count} different expressions of {data.min_length} to "
                f"{data.max_length} tokens were found; widen data.min_length and data.max_length, or raise "
                f"data.max_depth {data.max_depth} or data.max_arguments {data.max_arguments}"
            )
        yield example


def pathfinder(data: PathfinderConfig) -> Splits:
    """Generate pictures, half of them with label 1."""
    path = _path(data, _PATHFINDER_VERSION)
    scenery = Scenery(data.dashes, data.distractors)
    numbers = {"test": data.n_test, "val": data.n_val, "train": data.n_train}
    drawn = (
        pictures(scenery, data.side, numbers[split], f"{data.seed} {split}", f"{split}, {data.side} x {data.side}")
        for split in SPLITS
    )
    write_sequences(path, ((((pixels,), label) for pixels, label in part) for part in drawn))
    return _splits(path, data.max_length, ("apart", "joined"))


class PixelSequences(Dataset[tuple[tuple[Tensor, ...], int]]):
    """Grey images as sequences of levels, row by row; items are like those of ``Sequences``.

    Args:
        images: images with one channel.
    """

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    @property
    def digest(self) -> str:
        """A digest of all images and labels."""
        return self._images.digest

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the unreadable pictures that were left out."""
        return self._images.skipped

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        """Return an item, see the class."""
        levels, label = self._images[index]
        return (levels.flatten().long(),), int(label)

    def collate(self, items: list[tuple[tuple[Tensor, ...], int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Make a batch of items, see :func:`batch_of`; nothing is padded."""
        return batch_of(items, max_len=items[0][0][0].numel())


def images(data: ImageSequenceConfig) -> Splits:
    """Load the images of a dataset in grey."""
    found = load_images(
        data.dataset,
        data.root,
        side=data.image_size,
        greyscale=True,
        vocab_size=data.vocab_size,
        labels=data.labels,
        val_share=data.val_share,
        min_classes=2,
        skip_broken=data.skip_broken,
        streamed=data.streamed,
        cache=data.cache,
    )
    train, val, test = (PixelSequences(part) for part in (found.train, found.val, found.test))
    return Splits(train, val, test, found.classes)


def reviews(data: ReviewsConfig) -> Splits:
    """Load texts of two classes; the held-out ones are the same in every training."""
    read = imdb_texts if data.path is None else partial(folder_texts, data.path)
    content = "imdb" if data.path is None else text_files_digest(data.path)
    path = _path(data, f"{_TEXT_VERSION} {content}")
    write_sequences(path, held_out(read, data.val_share))
    return _splits(path, data.max_length, ("negative", "positive"))


def retrieval(data: RetrievalConfig) -> Splits:
    """Load the benchmark's pairs of documents, with its own splits."""
    files = pair_files(data.path)
    content = "".join(content_digest(files[split]) for split in SPLITS)
    path = _path(data, f"{_RETRIEVAL_VERSION} {content}")
    write_sequences(path, (document_pairs(files[split]) for split in SPLITS))
    return _splits(path, data.max_length, ("unrelated", "related"))


def _path(data: LongRangeDataConfig, version: str) -> Path:
    """Return the path of a file, named after everything that determines its content."""
    excluded = {"root", "path"} | ({"max_length"} if isinstance(data, ReviewsConfig | RetrievalConfig) else set())
    settings = data.model_dump_json(exclude=excluded)  # texts are stored in full, and truncated when read
    key = hashlib.sha256(f"{version} {settings}".encode()).hexdigest()[:12]
    return data.root / "long_range" / f"{data.slug}-{key}.bin"


def _splits(path: Path, max_len: int, classes: tuple[str, ...]) -> Splits:
    train, val, test = (Sequences(path, split, max_len=max_len) for split in ("train", "val", "test"))
    return Splits(train, val, test, classes)
