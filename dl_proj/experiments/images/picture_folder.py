"""The user's own pictures, in a folder per class: which files are read, and how their pixels are converted."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as pictures
from tqdm import tqdm

from dl_proj.experiments.images.sources import is_system, is_utf8, near_miss, subfolders
from dl_proj.settings.errors import ConfigError

SUFFIXES = datasets.folder.IMG_EXTENSIONS
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # implied by the suffixes; Pillow's others are not tried
BACKGROUND = "white"  # behind transparent pixels
_GREY_BITS = {"L;2": 2, "L;4": 4}  # in these PNGs Pillow scales pixels to 0..255, but not the transparent value
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_WHITE_IS_ZERO = 0
_NAMED = 3  # files named in a message


@dataclass(frozen=True)
class _Files:
    """The pictures of a part with their class indices, and the numbers of other files, by suffix.

    ``nameless`` are pictures of classes whose names are not UTF-8.
    """

    pictures: list[tuple[Path, int]]
    skipped: Counter[str]
    nameless: list[Path] = field(default_factory=list)


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

    Hidden files and those of operating systems are ignored. Other files that are not pictures, and classes missing from
    a part, are reported on standard error. Transparent pixels become white; 16-bit values, and floats from 0 to 1, are
    converted to 8 bits.

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
        ConfigError: a part or a class without pictures, a class that ``train`` lacks, or an unreadable picture.
    """
    files = {part: _find(root / part, classes, chosen, skip_broken=broken is not None) for part in _parts(root)}
    skipped = sum((found.skipped for found in files.values()), Counter())
    if skipped:
        _say(f"{root}: skipped {counts(skipped)}; pictures end in {', '.join(SUFFIXES)}")
    for part in files:
        if absent := [name for name in chosen if not (root / part / name).is_dir()]:
            _say(f"{root / part} has no pictures of {_some(absent)}: {part} figures do not cover them")
    left_out: list[Path] | None = None if broken is None else [path for one in files.values() for path in one.nameless]
    parts = {part: _read(root / part, found.pictures, side, greyscale, left_out) for part, found in files.items()}
    if broken is not None and left_out:
        _check_classes_remain(root, parts, classes, chosen, files)
        total = sum(len(found.pictures) + len(found.nameless) for found in files.values())
        names = [str(path.relative_to(root)) for path in left_out]
        _say(f"{root}: skipped {len(names)} of {total} pictures, which cannot be read: {_some(names)}")
        broken += names
    return parts


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # set by torchrun; the accelerator does not exist yet
        print(f"data.root: {line}", file=sys.stderr)


def _some(names: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


# finding the files


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


def _find(folder: Path, classes: tuple[str, ...], chosen: tuple[str, ...], *, skip_broken: bool) -> _Files:
    unknown = sorted(set(subfolders(folder)) - set(classes))
    nameless = [name for name in unknown if skip_broken and not is_utf8(name)]
    if len(unknown) > len(nameless):
        unknown = [name for name in unknown if name not in nameless]
        raise ConfigError(f"data.root: {folder} has classes that train lacks: {_some(unknown)}")
    by_class = {name: pictures_below(folder / name) for name in classes}
    outside = Counter(_outside(folder))
    skipped = sum((others for _, others in by_class.values()), outside)
    if not any(paths for paths, _ in by_class.values()):
        ignored = f"; skipped: {counts(skipped)}" if skipped else ""
        raise ConfigError(f"data.root: {folder} has no pictures ({', '.join(SUFFIXES)}) in class folders{ignored}")
    for name in chosen:
        paths, others = by_class[name]
        if not paths and (folder / name).is_dir():
            advice = f"it contains {counts(others)}: convert them, or remove" if others else "fill it, or remove"
            raise ConfigError(f"data.root: {folder / name} must contain pictures ({', '.join(SUFFIXES)}); {advice} it")
    return _Files(
        [(path, i) for i, name in enumerate(classes) for path in by_class[name][0]],
        skipped,
        [path for name in nameless for path in pictures_below(folder / name)[0]],
    )


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


def counts(skipped: Counter[str]) -> str:
    """Return text such as ``4 files (3 .gif, 1 .txt)``."""
    total = skipped.total()
    return f"{total} file{'s' * (total > 1)} ({', '.join(f'{n} {what}' for what, n in sorted(skipped.items()))})"


# reading their pixels


def _read(
    folder: Path, found: list[tuple[Path, int]], side: int, greyscale: bool, left_out: list[Path] | None
) -> tuple[Tensor, Tensor]:
    """Return images and labels; unreadable pictures are refused, or added to ``left_out``."""
    images: list[Tensor] = []
    labels: list[int] = []
    with tqdm(found, desc=f"reading {folder}", unit="picture", dynamic_ncols=True, leave=False) as bar:
        for path, label in bar:
            try:
                images.append(square_pixels(path, side, greyscale=greyscale))
            except ValueError as error:
                if left_out is None:
                    bar.close()  # or the message would be on the same line
                    raise ConfigError(f"data.root: {error}; data.skip_broken: true skips such pictures") from None
                left_out.append(path)
            else:
                labels.append(label)
    channels = 1 if greyscale else 3
    return torch.stack(images) if images else torch.empty(0, channels, side, side, dtype=torch.uint8), torch.tensor(
        labels, dtype=torch.int64
    )


def _check_classes_remain(
    root: Path,
    parts: dict[str, tuple[Tensor, Tensor]],
    classes: tuple[str, ...],
    chosen: tuple[str, ...],
    files: dict[str, _Files],
) -> None:
    """Refuse a chosen class of which a part has pictures, but no readable ones."""
    for part, (_, labels) in parts.items():
        before, after = Counter(label for _, label in files[part].pictures), Counter(labels.tolist())
        for name in chosen:
            number = classes.index(name)
            if before[number] and not after[number]:
                raise ConfigError(
                    f"data.root: {root / part / name}: none of its {before[number]} pictures can be read; replace "
                    "them, or remove the folder"
                )


def square_pixels(picture: str | Path | Image.Image, side: int | None, *, greyscale: bool) -> Tensor:
    """Return the central square of a picture: (channels, side, side) uint8.

    Args:
        picture: a file or a Pillow image.
        side: the shorter side is resized to it, with antialiasing; None: no resizing.
        greyscale: one channel instead of three.

    Raises:
        ValueError: a file that cannot be read; the message names it.
    """
    full = _opaque_8_bits(picture).convert("L" if greyscale else "RGB")
    side = min(full.size) if side is None else side
    small = pictures.resize(full, [side], antialias=True)  # resizes the shorter side
    return pictures.pil_to_tensor(pictures.center_crop(small, [side, side]))


def _opaque_8_bits(picture: str | Path | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return _opaque(_in_8_bits(picture))
    path = Path(picture)
    try:
        if not path.is_file():  # opening a pipe would block
            raise OSError("not a file")
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as file:
            return _opaque(_in_8_bits(file))
    except UnidentifiedImageError:
        raise ValueError(f"{path} cannot be read as a picture (its content must be {', '.join(FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # with a damaged header, Pillow's decoders may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as a picture ({reason})") from None


def _in_8_bits(file: Image.Image) -> Image.Image:
    """Turn a picture upright; grey with more than 8 bits becomes L, or LA if one value is transparent.

    Pillow's own conversion clips 16-bit values at 255 and rounds floats to integers.

    Raises:
        ValueError: 32-bit or signed integers, or floats outside [0, 1].
    """
    _spread_transparent_value(file)
    if not file.mode.startswith(("I", "F")):
        return ImageOps.exif_transpose(file)
    white, negative = _white(file), _tag(file, _PHOTOMETRIC) == _WHITE_IS_ZERO
    upright = ImageOps.exif_transpose(file)
    numbers = np.asarray(upright)
    shares = numbers.astype(np.float64) / white
    if not (shares.min() >= 0 and shares.max() <= 1):  # also refuses nan
        raise ValueError(f"its values are {numbers.min()} to {numbers.max()}; floats must be from 0 to 1")
    grey = Image.fromarray(np.rint(255 * (1 - shares if negative else shares)).astype(np.uint8))
    if "transparency" in file.info:
        grey.putalpha(Image.fromarray(np.where(numbers == file.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _white(file: Image.Image) -> float:
    """Return the value of white in a picture with more than 8 bits per channel."""
    if file.mode == "F":
        return 1.0
    if file.mode != "I":
        return 2.0 ** (_tag(file, _BITS_PER_SAMPLE) or 16) - 1  # 12 bits in some TIFFs
    if file.format == "PPM":  # Pillow scales its values to 16 bits
        return 2.0**16 - 1
    raise ValueError("its values are 32-bit or signed; must be unsigned with 8 or 16 bits, or floats from 0 to 1")


def _tag(file: Image.Image, number: int) -> int | None:
    """Return the value of a TIFF tag; None for other files."""
    value = getattr(file, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _spread_transparent_value(file: Image.Image) -> None:
    """Scale a PNG's transparent value to 8 bits, because Pillow only scales the pixels."""
    if file.format != "PNG" or "transparency" not in file.info or not isinstance(file, ImageFile) or not file.tile:
        return
    raw, value = file.tile[0].args, file.info["transparency"]
    if raw in _GREY_BITS:
        file.info["transparency"] = value * 255 // (2 ** _GREY_BITS[raw] - 1)
    elif raw == "RGB;16B":
        file.info["transparency"] = tuple(part >> 8 for part in value)


def _opaque(picture: Image.Image) -> Image.Image:
    """Blend a picture with the background, if it may have transparent pixels."""
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, BACKGROUND), coloured).convert("RGB")
