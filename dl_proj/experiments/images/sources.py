"""The image datasets, with what is known about them without reading a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dl_proj.settings.errors import ConfigError

ImageSetName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "image_folder", "image_shards"]
OWN_PICTURES: tuple[ImageSetName, ...] = ("image_folder", "image_shards")

_PART_NAMES = {  # lower-case names that other image folders use for these parts
    "train": ("train", "training", "train_set"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tests", "test_set"),
}
_SYSTEM_NAMES = (
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
)

_TEN_DIGITS = tuple("0123456789")
_CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class ImageSet:
    """Channels, side and number of the training images; class names, in the order of the labels."""

    channels: int
    side: int
    n_train: int
    classes: tuple[str, ...]


IMAGE_SETS: dict[str, ImageSet] = {
    "digits": ImageSet(1, 8, 1437, _TEN_DIGITS),
    "mnist": ImageSet(1, 28, 60_000, _TEN_DIGITS),
    "fashion_mnist": ImageSet(1, 28, 60_000, _CLOTHES),
    "cifar10": ImageSet(3, 32, 50_000, _CIFAR10),
}


def classes_of(dataset: ImageSetName, root: Path, *, skip_broken: bool = False) -> tuple[str, ...]:
    """Return the names of all classes; in an image folder, those of its subfolders in alphabetical order.

    Args:
        dataset: its name.
        root: folder of its files.
        skip_broken: skip subfolders whose names are not UTF-8, instead of refusing them.

    Raises:
        FileNotFoundError: an image folder has no ``train`` with subfolders.
        ConfigError: the name of a subfolder is not UTF-8, so it cannot be written to the files of a run.
    """
    if dataset != "image_folder":
        return IMAGE_SETS[dataset].classes
    folder = root / "train"
    names = subfolders(folder) if folder.is_dir() else ()
    if nameless := [name for name in names if not is_utf8(name)]:
        if not skip_broken:
            raise ConfigError(
                f"data.root: {folder / nameless[0]}: the name of this class must be UTF-8; rename it, or skip it "
                "with data.skip_broken: true"
            )
        names = tuple(name for name in names if name not in nameless)
    if not names:
        hint = "" if folder.is_dir() else _hint_for_train(root)
        raise FileNotFoundError(f"{folder} must be a folder with one subfolder of pictures per class{hint}")
    return names


def _hint_for_train(root: Path) -> str:
    if wrong := near_miss(root, "train"):
        return f"; rename {root / wrong} to train"
    names = subfolders(root) if root.is_dir() else ()
    return f"; {root} contains {', '.join(names[:5])}{', ...' if names[5:] else ''}" if names else ""


def near_miss(root: Path, part: str) -> str | None:
    """Return a folder in ``root`` that is probably its ``train``, ``val`` or ``test`` under another name, or None."""
    names = subfolders(root) if root.is_dir() else ()
    return next((name for name in names if name != part and name.lower() in _PART_NAMES[part]), None)


def subfolders(folder: Path) -> tuple[str, ...]:
    """Return the names of subfolders in alphabetical order, without hidden ones and those of operating systems."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_system(path.name)))


def is_utf8(name: str) -> bool:
    """Whether a name from the file system is valid UTF-8, so it can be printed and written to files."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or was created by an operating system or archive program."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def chosen_classes(classes: tuple[str, ...], labels: tuple[int | str, ...] | None) -> tuple[str, ...]:
    """Return the classes that ``labels`` selects by name or number; None selects all.

    Raises:
        ValueError: an unknown or repeated label.
    """
    if labels is None:
        return classes
    numbers = {str(number): name for number, name in enumerate(classes)}
    chosen = tuple(str(label) if str(label) in classes else numbers.get(str(label), "") for label in labels)
    for label, name in zip(labels, chosen, strict=True):
        if not name:
            raise ValueError(f"{label!r} is not a class, must be one of {', '.join(classes)}")
        if chosen.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    return chosen
