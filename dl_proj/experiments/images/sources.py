"""The image datasets that are known by name: what can be said of them before a file is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dl_proj.settings.errors import ConfigError

ImageSetName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "image_folder"]

_PART_NAMES = {  # in small letters; what an image folder's parts are called elsewhere
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
    """Channels, side and number of the training images as they come; names of the classes in the labels' order."""

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
    """Names of all classes; those of an image folder are its subfolders, in alphabetical order.

    Args:
        dataset: its name.
        root: folder of its files.
        skip_broken: leave out subfolders whose names are not UTF-8, instead of refusing them.

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
                f"data.root: {folder / nameless[0]}: the name of this class is not UTF-8; rename it, or "
                "data.skip_broken: true goes on without it"
            )
        names = tuple(name for name in names if name not in nameless)
    if not names:
        instead = "" if folder.is_dir() else _instead_of_train(root)
        raise FileNotFoundError(f"{folder} must be a folder with one subfolder of pictures for each class{instead}")
    return names


def _instead_of_train(root: Path) -> str:
    if wrong := near_miss(root, "train"):
        return f"; rename {root / wrong} to train"
    there = subfolders(root) if root.is_dir() else ()
    return f"; {root} holds {', '.join(there[:5])}{', ...' if there[5:] else ''}" if there else ""


def near_miss(root: Path, part: str) -> str | None:
    """The folder in ``root`` that is meant to be its ``train``, ``val`` or ``test``, but has another name; or None."""
    there = subfolders(root) if root.is_dir() else ()
    return next((name for name in there if name != part and name.lower() in _PART_NAMES[part]), None)


def subfolders(folder: Path) -> tuple[str, ...]:
    """Names of a folder's folders in alphabetical order, but hidden ones and those of operating systems."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_system(path.name)))


def is_utf8(name: str) -> bool:
    """Whether a name from the file system is text, which can be printed and written to files."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or left by an operating system or an unpacking program."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def chosen_classes(classes: tuple[str, ...], labels: tuple[int | str, ...] | None) -> tuple[str, ...]:
    """The classes that ``labels`` chooses by name or number, all for None.

    Raises:
        ValueError: a label that there is not, or one twice.
    """
    if labels is None:
        return classes
    numbers = {str(number): name for number, name in enumerate(classes)}
    chosen = tuple(str(label) if str(label) in classes else numbers.get(str(label), "") for label in labels)
    for label, name in zip(labels, chosen, strict=True):
        if not name:
            raise ValueError(f"{label!r} is no class; there are: {', '.join(classes)}")
        if chosen.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
    return chosen
