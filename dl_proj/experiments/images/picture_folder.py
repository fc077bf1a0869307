"""The user's own pictures, in a folder per class: which files are read."""

from collections import Counter
from pathlib import Path

from torch import Tensor

from dl_proj.experiments.images.picture_parts import SUFFIXES, FilePictures, Part, counts, read_parts, say, some
from dl_proj.experiments.images.sources import is_system, is_utf8, near_miss, subfolders
from dl_proj.settings.errors import ConfigError


def read_folder(
    root: Path,
    classes: tuple[str, ...],
    chosen: tuple[str, ...],
    *,
    side: int,
    greyscale: bool,
    broken: list[str] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the pictures in ``root/train``, ``root/test`` and, if it exists, ``root/val``.

    Transparent pixels become white; 16-bit values, and floats from 0 to 1, are converted to 8 bits.

    Args:
        root: folder of the parts.
        classes: names of all classes, which are those in ``train``.
        chosen: classes that must have pictures in each part that has a folder for them.
        side: height and width; the shorter side is resized to it, with antialiasing, then the centre is cropped.
        greyscale: one channel instead of three.
        broken: if None, unreadable pictures are refused. Otherwise they are skipped, their paths below ``root`` are
            appended to this list, and their number is reported on standard error.

    Returns:
        For each part its images (n, channels, side, side) uint8 and their class indices (n,) int64.

    Raises:
        ConfigError: an unreadable picture, or as :func:`find_in_folder`.
    """
    parts = find_in_folder(root, classes, chosen, skip_broken=broken is not None)
    return read_parts(root, parts, classes, chosen, side=side, greyscale=greyscale, broken=broken)


def find_in_folder(
    root: Path, classes: tuple[str, ...], chosen: tuple[str, ...], *, skip_broken: bool
) -> dict[str, Part]:
    """Find the pictures in ``root/train``, ``root/test`` and, if it exists, ``root/val``.

    Hidden files and those of operating systems are ignored. Other files that are not pictures, and classes missing from
    a part, are reported on standard error.

    Args:
        root: folder of the parts.
        classes: names of all classes, which are those in ``train``.
        chosen: classes that must have pictures in each part that has a folder for them.
        skip_broken: skip classes whose names are not UTF-8.

    Raises:
        ConfigError: a part or a class without pictures, or a class that ``train`` lacks.
    """
    parts = {part: _find(root, part, classes, chosen, skip_broken=skip_broken) for part in _parts(root)}
    if others := sum((found.others for found in parts.values()), Counter()):
        say(f"{root}: skipped {counts(others)}; pictures end in {', '.join(SUFFIXES)}")
    for part in parts:
        if absent := [name for name in chosen if not (root / part / name).is_dir()]:
            say(f"{root / part} has no pictures of {some(absent)}: {part} figures do not cover them")
    return parts


def _parts(root: Path) -> list[str]:
    for part in ("train", "test"):
        if not (root / part).is_dir():
            missing = f"there is no {part}{_instead(root, part)}"
            raise ConfigError(f"data.root: {root} must contain train/<class>/ and test/<class>/ ({missing})")
    if (root / "val").is_dir():
        return ["train", "test", "val"]
    if wrong := near_miss(root, "val"):
        raise ConfigError(f"data.root: {root / wrong} would be ignored: rename it to val, or remove it")
    return ["train", "test"]


def _instead(root: Path, part: str) -> str:
    if wrong := near_miss(root, part):
        return f"; rename {wrong} to {part}"
    if part == "test" and (root / "val").is_dir():
        return "; val selects the best weights, so it cannot serve as the test set: add test, or rename val to test"
    return ""


def _find(root: Path, part: str, classes: tuple[str, ...], chosen: tuple[str, ...], *, skip_broken: bool) -> Part:
    folder = root / part
    unknown = sorted(set(subfolders(folder)) - set(classes))
    nameless = [name for name in unknown if skip_broken and not is_utf8(name)]
    if len(unknown) > len(nameless):
        unknown = [name for name in unknown if name not in nameless]
        raise ConfigError(f"data.root: {folder} has classes that train lacks: {some(unknown)}")
    by_class = {name: _names_below(root, folder / name) for name in classes}
    outside = Counter(_outside(folder))
    skipped = sum((others for _, others in by_class.values()), outside)
    if not any(names for names, _ in by_class.values()):
        ignored = f"; skipped: {counts(skipped)}" if skipped else ""
        raise ConfigError(f"data.root: {folder} has no pictures ({', '.join(SUFFIXES)}) in class folders{ignored}")
    for name in chosen:
        names, others = by_class[name]
        if not names and (folder / name).is_dir():
            advice = f"it contains {counts(others)}: convert them, or remove" if others else "fill it, or remove"
            raise ConfigError(f"data.root: {folder / name} must contain pictures ({', '.join(SUFFIXES)}); {advice} it")
    names = [path for name in classes for path in by_class[name][0]]
    labels = [label for label, name in enumerate(classes) for _ in by_class[name][0]]
    left_out = [path for name in nameless for path in _names_below(root, folder / name)[0]]
    return Part(FilePictures(root, names, labels), skipped, tuple(left_out))


def _names_below(root: Path, folder: Path) -> tuple[list[str], Counter[str]]:
    """Return what :func:`pictures_below` does, with paths below ``root`` as strings, which are smaller."""
    paths, others = pictures_below(folder)
    return [str(path.relative_to(root)) for path in paths], others


def pictures_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the pictures at any depth, and the numbers of other files, by suffix."""
    paths: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        if any(map(is_system, path.relative_to(folder).parts)):
            continue
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        elif not path.is_dir():
            skipped[path.suffix.lower() or "without a suffix"] += 1
    return paths, skipped


def _outside(folder: Path) -> list[str]:
    """Return an entry for each picture outside of the class folders."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES]
    return ["outside of the class folders" for name in names if not is_system(name)]
