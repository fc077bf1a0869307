"""Labelled images as quantised pixel levels, with a fixed split into training, validation and test."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms.v2 import functional as pictures

from dl_proj.checkpoint_folder import CLASSES
from dl_proj.experiments.images.decoding import Picture, quantised, square_pixels
from dl_proj.experiments.images.division import Labelled, divided, known_and_chosen, numbers_of, split_of
from dl_proj.experiments.images.own_pictures import find_own, stream
from dl_proj.experiments.images.picture_parts import Part, read_parts
from dl_proj.experiments.images.settings import ClassifierDataConfig, GeneratorDataConfig, ImageDataConfig
from dl_proj.experiments.images.shards import classes_in, find_in_shards
from dl_proj.experiments.images.sources import IMAGE_SETS, OWN_PICTURES, ImageSetName, chosen_classes, classes_of
from dl_proj.experiments.images.streamed import Look, StreamedImages
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import CheckpointError
from my_custom_ai.custom_train.checksums import agrees_with_sums
from my_custom_ai.utils.files import content_digest

_DIGITS_TEST = 360  # test images among the 1,797 digits, which have no official split
_MNIST_MD5 = {  # names and digests of the unpacked files, by size; torchvision only checks the archives
    47_040_016: ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    60_008: ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    7_840_016: ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    10_008: ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}

# torchvision's errors on damaged files
_NOT_WHOLE = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, EOFError)
_NOT_READ = (OSError, tarfile.TarError, *_NOT_WHOLE)


class LabelledImages(Dataset[Labelled]):
    """Images and their labels.

    Args:
        levels: (n, channels, side, side) uint8, each in [0, vocab_size).
        labels: (n,) int64, indices of the chosen classes.
        skipped: paths of unreadable pictures that were left out.
    """

    def __init__(self, levels: Tensor, labels: Tensor, skipped: tuple[str, ...] = ()) -> None:
        self.levels = levels
        self.labels = labels
        self.skipped = skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def digest(self) -> str:
        """A digest of images, labels and the paths that were left out."""
        digest = hashlib.sha256(str(tuple(self.levels.shape)).encode())
        for name in self.skipped:
            digest.update(os.fsencode(name) + b"\0")
        for part in (self.levels, self.labels):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Labelled:
        """Return levels (channels, side, side) uint8 and label () int64."""
        return self.levels[index], self.labels[index]


Images = LabelledImages | StreamedImages


@dataclass(frozen=True)
class ImageSplits:
    """The three parts of a dataset, and the names of its chosen classes."""

    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]


def load_images(
    dataset: ImageSetName,
    root: Path,
    *,
    side: int,
    greyscale: bool,
    vocab_size: int,
    labels: tuple[int | str, ...] | None,
    val_share: float,
    min_classes: int = 1,
    skip_broken: bool = False,
    streamed: bool = False,
    cache: Path = Path("data/pictures"),
    workers: int = 0,
) -> ImageSplits:
    """Load a dataset, downloading it to ``root`` if it is missing.

    Validation images are held out from the training images, always the same ones; the test set is the dataset's own.

    Args:
        dataset: its name.
        root: folder of the files; an image folder has ``train/<class>/``, ``test/<class>/`` and optionally
            ``val/<class>/``.
        side: height and width of the images, resized with antialiasing; one's own pictures are cropped to a square.
        greyscale: convert colours to grey.
        vocab_size: number of pixel levels: a value v from 0 to 255 becomes v * vocab_size // 256.
        labels: classes to keep, by name or number, renumbered in this order; None keeps all.
        val_share: fraction of the training images to hold out, unless one's own pictures have a ``val``.
        min_classes: fewer classes are refused.
        skip_broken: skip unreadable pictures of one's own, and report their number on standard error.
        streamed: decode pictures of one's own when they are needed, instead of holding all in memory.
        cache: folder for what is known of streamed pictures, and for unpacked Parquet files.
        workers: processes that check streamed pictures; 0: this one.

    Raises:
        ConfigError: files that are missing and cannot be downloaded, or cannot be read; an unknown label; too few
            classes.
    """
    own: dict[str, Part] = {}
    if dataset in OWN_PICTURES:
        everything, classes, own = find_own(dataset, root, labels, skip_broken, cache)
    else:
        everything, classes = known_and_chosen(dataset, root, labels, skip_broken)
    if len(classes) < min_classes:
        raise ConfigError(
            f"data.root: {root / 'train'} has {len(classes)} class, {classes[0]}; must have at least {min_classes}"
        )
    look = Look(side, greyscale, vocab_size)
    split: dict[str, LabelledImages] | dict[str, StreamedImages]
    if streamed and own:
        record = cache / root.resolve().name
        split = stream(root, own, everything, classes, look, val_share, skip_broken, record, workers)
    else:
        broken: list[str] | None = [] if skip_broken else None
        if own:
            parts = read_parts(root, own, everything, classes, side=side, greyscale=greyscale, broken=broken)
        else:
            parts = {name: _resized(part, side, greyscale) for name, part in _READERS[dataset](root).items()}
        split = {
            name: LabelledImages(quantised(images, vocab_size), numbers, _of_part(name, broken or ()))
            for name, (images, numbers) in split_of(parts, everything, classes, val_share).items()
        }
    if empty := [name for name, part in split.items() if len(part) == 0]:
        raise ConfigError(f"data: {dataset} has no {', '.join(empty)} images with these labels and val_share")
    return ImageSplits(**split, classes=classes)


def load_configured(data: ClassifierDataConfig | GeneratorDataConfig, workers: int = 0) -> ImageSplits:
    """Load the images of a configuration, checking streamed ones in ``workers`` processes; see :func:`load_images`."""
    return load_images(
        data.dataset,
        data.root,
        side=data.side,
        greyscale=data.greyscale,
        vocab_size=data.vocab_size,
        labels=data.labels,
        val_share=data.val_share,
        min_classes=2 if isinstance(data, ClassifierDataConfig) else 1,  # with one, every classifier is correct
        skip_broken=data.skip_broken,
        streamed=data.streamed,
        cache=data.cache,
        workers=workers,
    )


def load_test_pixels(data: ClassifierDataConfig) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Load the test images of a configuration, not yet resized (except one's own pictures) nor quantised.

    Returns:
        Pixels (n, channels, height, width) uint8 from 0 to 255, labels (n,) int64, and the class names.

    Raises:
        ConfigError: as :func:`load_images`.
    """
    if data.dataset in OWN_PICTURES:
        everything, classes, own = find_own(data.dataset, data.root, data.labels, data.skip_broken, data.cache)
        images, labels = read_parts(
            data.root,
            {"test": own["test"]},
            everything,
            classes,
            side=data.side,
            greyscale=data.greyscale,
            broken=[] if data.skip_broken else None,
        )["test"]
    else:
        everything, classes = known_and_chosen(data.dataset, data.root, data.labels, data.skip_broken)
        images, labels = _READERS[data.dataset](data.root)["test"]
    labels = numbers_of(everything, classes)[labels]
    return images[labels >= 0], labels[labels >= 0], classes


def prepared(pixels: Tensor, data: ClassifierDataConfig) -> Tensor:
    """Resize and quantise pixels from :func:`load_test_pixels` into a model's input."""
    images, _ = _resized((pixels, torch.empty(0)), data.side, data.greyscale)
    return quantised(images, data.vocab_size)


def all_classes(data: ImageDataConfig) -> tuple[str, ...]:
    """Return the names of all classes of a configuration's dataset, without decoding its images.

    Raises:
        ConfigError: shards that are missing or damaged, or a class whose name is not UTF-8.
        FileNotFoundError: an image folder has no ``train`` with subfolders.
    """
    if data.dataset == "image_shards":
        return classes_in(data.root, find_in_shards(data.root, data.cache)["train"])
    return classes_of(data.dataset, data.root, skip_broken=data.skip_broken)


def known_classes(data: ImageDataConfig) -> tuple[str, ...]:
    """Return the names of a configuration's chosen classes, without decoding its images."""
    try:
        return chosen_classes(all_classes(data), data.labels)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"data.root: {error}; needed for the names of the model's classes") from None


def classes_of_model(folder: Path, data: ImageDataConfig) -> tuple[str, ...]:
    """Return the names of a model's classes, from the checkpoint's folder or else from its data.

    Raises:
        CheckpointError: the file is invalid, or its checksum differs from that in SHA256SUMS.
        ConfigError: the names must come from an image folder that does not exist.
    """
    path = folder / CLASSES
    if not path.is_file():
        return known_classes(data)
    agrees_with_sums(path)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        names = None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{path}: must be a list of class names")
    return tuple(names)


def picture_levels(picture: Picture, data: ClassifierDataConfig) -> Tensor:
    """Convert a picture to a model's input, as in training: levels (channels, side, side).

    Args:
        picture: a file or a Pillow image; it is cropped to the central square.
        data: the data settings that the model was trained with.

    Raises:
        ValueError: the picture cannot be read; the message names it.
    """
    if data.dataset in OWN_PICTURES:
        return quantised(square_pixels(picture, data.side, greyscale=data.greyscale), data.vocab_size)
    grey = IMAGE_SETS[data.dataset].channels == 1
    return prepared(square_pixels(picture, None, greyscale=grey).unsqueeze(0), data)[0]


def to_pixels(levels: Tensor, vocab_size: int) -> Tensor:
    """Convert levels in [0, vocab_size) to pixels from 0 to 255, uint8; black and white are preserved."""
    return (levels.float() * (255 / (vocab_size - 1))).round().to(torch.uint8)


def _of_part(part: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names, paths below the root, that lie in a part."""
    return tuple(name for name in names if Path(name).parts[0] == part)


def _resized(part: Labelled, side: int, greyscale: bool) -> Labelled:
    images, labels = part
    if greyscale and images.shape[1] == 3:
        images = pictures.rgb_to_grayscale(images)
    if images.shape[-1] != side:
        images = torch.cat([pictures.resize(some, [side, side], antialias=True) for some in images.split(4096)])
    return images, labels


def _read_digits(root: Path) -> dict[str, Labelled]:
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    test, train = divided((images, torch.from_numpy(bunch.target).long()), _DIGITS_TEST)
    return {"train": train, "test": test}


def _read_mnist(kind: type[datasets.MNIST], folder: str) -> Callable[[Path], dict[str, Labelled]]:
    def read(root: Path) -> dict[str, Labelled]:
        parts = _there_or_downloaded(kind, root, root / folder / "raw")
        if kind is datasets.MNIST:
            _check_mnist(root / folder / "raw")
        _check_unpacked(kind, root / folder / "raw")
        return {name: (part.data.unsqueeze(1), part.targets.long()) for name, part in parts.items()}

    return read


def _check_mnist(folder: Path) -> None:
    """Refuse files of MNIST's size with other content; files of another size may be a deliberate subset."""
    for size, (name, md5) in _MNIST_MD5.items():
        path = folder / name
        if path.stat().st_size == size and content_digest(path, "md5") != md5:
            raise ConfigError(f"data.root: {path} is damaged: its MD5 is not MNIST's {md5}; remove or replace it")


def _check_unpacked(kind: type[datasets.MNIST], folder: Path) -> None:
    """Refuse a file that differs from the content of the intact archive beside it."""
    for name, md5 in kind.resources:
        archive, path = folder / name, folder / name.removesuffix(".gz")
        if archive.is_file() and path.stat().st_size in _MNIST_MD5 and content_digest(archive, "md5") == md5:
            with gzip.open(archive) as packed:
                is_intact = hashlib.file_digest(packed, "sha256").hexdigest() == content_digest(path)
            if not is_intact:
                raise ConfigError(f"data.root: {path} is damaged: it differs from that in {archive}; remove it")


def _read_cifar10(root: Path) -> dict[str, Labelled]:
    parts = _there_or_downloaded(datasets.CIFAR10, root, root / "cifar-10-batches-py")
    return {
        name: (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for name, part in parts.items()
    }


_READERS: dict[str, Callable[[Path], dict[str, Labelled]]] = {
    "digits": _read_digits,
    "mnist": _read_mnist(datasets.MNIST, "MNIST"),
    "fashion_mnist": _read_mnist(datasets.FashionMNIST, "FashionMNIST"),
    "cifar10": _read_cifar10,
}


def _there_or_downloaded(kind: type, root: Path, files: Path) -> dict[str, datasets.VisionDataset]:
    try:
        # torchvision prints every mirror that it tries
        with _unpacking_safely(), contextlib.redirect_stdout(io.StringIO()):
            parts = {name: kind(root, train=name == "train", download=True) for name in ("train", "test")}
        if any(len(part.data) != len(part.targets) for part in parts.values()):
            raise ValueError("different numbers of labels and images")
        if any(max(part.targets) >= len(part.classes) for part in parts.values()):
            raise ValueError("labels without a class")
        return parts
    except _NOT_READ as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(":")
        raise ConfigError(
            f"data.root: {kind.__name__} is missing or incomplete in {files}, and cannot be downloaded ({reason})",
            "data.dataset: without a network, use digits, which needs no files, or image_folder for your own "
            f"pictures; or copy the files of {kind.__name__} to {files}",
        ) from None


@contextlib.contextmanager
def _unpacking_safely() -> Iterator[None]:
    """Make torchvision unpack no device, and no link or path that leads out of the folder.

    torchvision checks the archive's MD5 first; Python before 3.11.4, which has no filter, relies on that alone.
    """
    before = getattr(tarfile.TarFile, "extraction_filter", None)
    safe = getattr(tarfile, "data_filter", None)
    tarfile.TarFile.extraction_filter = None if safe is None else staticmethod(safe)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = None if before is None else staticmethod(before)
