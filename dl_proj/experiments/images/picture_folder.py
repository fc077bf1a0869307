"""Pictures of one's own, in a folder for each class: which files are read, and what becomes of their pixels."""

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
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # which those suffixes promise; Pillow's others are not tried
BACKGROUND = "white"  # behind what is transparent
_GREY_BITS = {"L;2": 2, "L;4": 4}  # PNGs whose pixels Pillow spreads over 0 to 255, but not their transparent value
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_WHITE_IS_ZERO = 0
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class _Files:
    """The pictures of a part with the numbers of their classes, and how many other files there are, by suffix.

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
    """The pictures in ``root/train``, ``root/test`` and, if it is there, ``root/val``.

    Hidden files and those of operating systems are left out. Other files that are no pictures, and classes that a part
    lacks, are reported on standard error. What is transparent becomes white; 16 bits a pixel, and floats from 0 to 1,
    become 8 bits.

    Args:
        root: folder of the parts.
        classes: names of all classes, which are those in ``train``.
        chosen: classes that must have pictures, in each part that has a folder for them.
        side: height and width; the shorter side is resized to it, with antialiasing, and the centre is kept.
        greyscale: one channel instead of three.
        broken: None refuses pictures that cannot be read. A list receives their paths below ``root``, the others are
            returned, and standard error says how many were left out.

    Returns:
        For each part its images (n, channels, side, side) uint8 and the numbers of their classes (n,) int64.

    Raises:
        ConfigError: a part or a class without pictures, a class that ``train`` has not, or a picture that cannot be
            read.
    """
    files = {part: _find(root / part, classes, chosen, skip_broken=broken is not None) for part in _parts(root)}
    skipped = sum((found.skipped for found in files.values()), Counter())
    if skipped:
        _say(f"{root}: skipped {counts(skipped)}; pictures end in {', '.join(SUFFIXES)}")
    for part in files:
        if absent := [name for name in chosen if not (root / part / name).is_dir()]:
            _say(f"{root / part} has no pictures of {_some(absent)}: {part} figures will say nothing about them")
    left_out: list[Path] | None = None if broken is None else [path for one in files.values() for path in one.nameless]
    parts = {part: _read(root / part, found.pictures, side, greyscale, left_out) for part, found in files.items()}
    if broken is not None and left_out:
        _check_classes_remain(root, parts, classes, chosen, files)
        total = sum(len(found.pictures) + len(found.nameless) for found in files.values())
        names = [str(path.relative_to(root)) for path in left_out]
        _say(f"{root}: left out {len(names)} of {total} pictures, which cannot be read: {_some(names)}")
        broken += names
    return parts


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # torchrun's; no accelerator has begun yet
        print(f"data.root: {line}", file=sys.stderr)


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


# -- which files --


def _parts(root: Path) -> list[str]:
    for part in ("train", "test"):
        if not (root / part).is_dir():
            missing = f"there is no {part}{_instead(root, part)}"
            raise ConfigError(f"data.root: {root} must hold train/<class>/ and test/<class>/ ({missing})")
    if (root / "val").is_dir():
        return ["train", "test", "val"]
    if wrong := near_miss(root, "val"):
        raise ConfigError(f"data.root: {root / wrong} is not used: rename it to val, or remove it")
    return ["train", "test"]


def _instead(root: Path, part: str) -> str:
    if wrong := near_miss(root, part):
        return f"; rename {wrong} to {part}"
    if part == "test" and (root / "val").is_dir():
        return "; val chooses the best weights, so it cannot be the test: add one, or rename val to test"
    return ""


def _find(folder: Path, classes: tuple[str, ...], chosen: tuple[str, ...], *, skip_broken: bool) -> _Files:
    unknown = sorted(set(subfolders(folder)) - set(classes))
    nameless = [name for name in unknown if skip_broken and not is_utf8(name)]
    if len(unknown) > len(nameless):
        unknown = [name for name in unknown if name not in nameless]
        raise ConfigError(f"data.root: {folder} has classes that train has not: {_some(unknown)}")
    by_class = {name: pictures_below(folder / name) for name in classes}
    outside = Counter(_outside(folder))
    skipped = sum((others for _, others in by_class.values()), outside)
    if not any(paths for paths, _ in by_class.values()):
        there = f"; skipped: {counts(skipped)}" if skipped else ""
        raise ConfigError(f"data.root: {folder} holds no pictures ({', '.join(SUFFIXES)}) in folders of classes{there}")
    for name in chosen:
        paths, others = by_class[name]
        if not paths and (folder / name).is_dir():
            there = (
                f"it holds {counts(others)}: convert them, or remove" if others else "it is empty: fill it, or remove"
            )
            raise ConfigError(f"data.root: {folder / name} must hold pictures ({', '.join(SUFFIXES)}); {there} it")
    return _Files(
        [(path, i) for i, name in enumerate(classes) for path in by_class[name][0]],
        skipped,
        [path for name in nameless for path in pictures_below(folder / name)[0]],
    )


def pictures_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The pictures at any depth, and what else there is, by suffix."""
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
    """A word for each picture that is in no class."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES]
    return ["outside of the classes' folders" for name in names if not is_system(name)]


def counts(skipped: Counter[str]) -> str:
    """``4 files (3 .gif, 1 .txt)``."""
    total = skipped.total()
    return f"{total} file{'s' * (total > 1)} ({', '.join(f'{n} {what}' for what, n in sorted(skipped.items()))})"


# -- their pixels --


def _read(
    folder: Path, found: list[tuple[Path, int]], side: int, greyscale: bool, left_out: list[Path] | None
) -> tuple[Tensor, Tensor]:
    """Images and labels; what cannot be read is refused, or added to ``left_out``."""
    images: list[Tensor] = []
    labels: list[int] = []
    with tqdm(found, desc=f"reading {folder}", unit="picture", dynamic_ncols=True, leave=False) as bar:
        for path, label in bar:
            try:
                images.append(square_pixels(path, side, greyscale=greyscale))
            except ValueError as error:
                if left_out is None:
                    bar.close()  # or the message would stand behind it
                    raise ConfigError(
                        f"data.root: {error}; data.skip_broken: true goes on without such pictures"
                    ) from None
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
    """Refuse a chosen class that had pictures in a part, of which none could be read."""
    for part, (_, labels) in parts.items():
        before, after = Counter(label for _, label in files[part].pictures), Counter(labels.tolist())
        for name in chosen:
            number = classes.index(name)
            if before[number] and not after[number]:
                raise ConfigError(
                    f"data.root: {root / part / name}: none of its {before[number]} pictures can be read; replace "
                    "them, or remove it"
                )


def square_pixels(picture: str | Path | Image.Image, side: int | None, *, greyscale: bool) -> Tensor:
    """The centre of a picture: (channels, side, side) uint8.

    Args:
        picture: a file or a picture of Pillow.
        side: the shorter side is resized to it, with antialiasing; None: it stays as it is.
        greyscale: one channel instead of three.

    Raises:
        ValueError: a file that cannot be read; the message names it.
    """
    whole = _opaque_8_bits(picture).convert("L" if greyscale else "RGB")
    side = min(whole.size) if side is None else side
    small = pictures.resize(whole, [side], antialias=True)  # the shorter side
    return pictures.pil_to_tensor(pictures.center_crop(small, [side, side]))


def _opaque_8_bits(picture: str | Path | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return _opaque(_in_8_bits(picture))
    path = Path(picture)
    try:
        if not path.is_file():  # a pipe would wait for who writes into it
            raise OSError("it is no file")
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as file:
            return _opaque(_in_8_bits(file))
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is no picture that can be read (its content is none of {', '.join(FORMATS)})"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged head may lead Pillow's decoders into any of Python's errors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is no picture that can be read ({reason})") from None


def _in_8_bits(file: Image.Image) -> Image.Image:
    """A picture, turned upright; grey of more than 8 bits becomes L, or LA if a value of it is transparent.

    Pillow's own conversion cuts 16-bit values off at 255, and floats to whole numbers.

    Raises:
        ValueError: 32-bit or signed whole numbers, or floats outside of 0 to 1.
    """
    _spread_transparent_value(file)
    if not file.mode.startswith(("I", "F")):
        return ImageOps.exif_transpose(file)
    white, negative = _white(file), _tag(file, _PHOTOMETRIC) == _WHITE_IS_ZERO
    upright = ImageOps.exif_transpose(file)
    numbers = np.asarray(upright)
    shares = numbers.astype(np.float64) / white
    if not (shares.min() >= 0 and shares.max() <= 1):  # nor nan
        raise ValueError(f"its values are {numbers.min()} to {numbers.max()}; floats must be 0 to 1")
    grey = Image.fromarray(np.rint(255 * (1 - shares if negative else shares)).astype(np.uint8))
    if "transparency" in file.info:
        grey.putalpha(Image.fromarray(np.where(numbers == file.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _white(file: Image.Image) -> float:
    """The value that means white, of a picture with more than 8 bits a pixel."""
    if file.mode == "F":
        return 1.0
    if file.mode != "I":
        return 2.0 ** (_tag(file, _BITS_PER_SAMPLE) or 16) - 1  # 12 in some TIFFs
    if file.format == "PPM":  # whose values Pillow spreads over 16 bits
        return 2.0**16 - 1
    raise ValueError("its values have 32 bits or a sign; must have 8 or 16 without one, or be floats of 0 to 1")


def _tag(file: Image.Image, number: int) -> int | None:
    """A number of a TIFF's head; None for other files."""
    value = getattr(file, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _spread_transparent_value(file: Image.Image) -> None:
    """Pillow gives a PNG's pixels 8 bits, but leaves the value that means transparent as it was."""
    if file.format != "PNG" or "transparency" not in file.info or not isinstance(file, ImageFile) or not file.tile:
        return
    raw, value = file.tile[0].args, file.info["transparency"]
    if raw in _GREY_BITS:
        file.info["transparency"] = value * 255 // (2 ** _GREY_BITS[raw] - 1)
    elif raw == "RGB;16B":
        file.info["transparency"] = tuple(part >> 8 for part in value)


def _opaque(picture: Image.Image) -> Image.Image:
    """A picture on the background, if any of its pixels may be transparent."""
    if not picture.has_transparency_data:
        return picture
    coloured = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, BACKGROUND), coloured).convert("RGB")
