"""Pictures as pixels: formats that are read, and how they become squares of 8 bits, grey or coloured."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # implied by the suffixes; Pillow's others are not tried
BACKGROUND = "white"  # behind transparent pixels
_GREY_BITS = {"L;2": 2, "L;4": 4}  # in these PNGs Pillow scales pixels to 0..255, but not the transparent value
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class Encoded:
    """The content of a picture file that lies inside another file, and its name for messages."""

    name: str
    content: bytes


Picture = str | Path | Encoded | Image.Image


def square_pixels(picture: Picture, side: int | None, *, greyscale: bool) -> Tensor:
    """Return the central square of a picture: (channels, side, side) uint8.

    Args:
        picture: a file, its content, or a Pillow image.
        side: the shorter side is resized to it, with antialiasing; None: no resizing.
        greyscale: one channel instead of three.

    Raises:
        ValueError: a file that cannot be read; the message names it.
    """
    full = _opaque_8_bits(picture).convert("L" if greyscale else "RGB")
    side = min(full.size) if side is None else side
    small = pictures.resize(full, [side], antialias=True)  # resizes the shorter side
    return pictures.pil_to_tensor(pictures.center_crop(small, [side, side]))


def quantised(pixels: Tensor, vocab_size: int) -> Tensor:
    """Quantise pixels from 0 to 255 into levels in [0, vocab_size) of equal width, uint8."""
    return (pixels.to(torch.int32) * vocab_size // 256).to(torch.uint8)


def _opaque_8_bits(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return _opaque(_in_8_bits(picture))
    name = picture.name if isinstance(picture, Encoded) else str(picture)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(_source(picture), formats=FORMATS) as file:
            return _opaque(_in_8_bits(file))
    except UnidentifiedImageError:
        raise ValueError(f"{name} cannot be read as a picture (its content must be {', '.join(FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # with a damaged header, Pillow's decoders may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name} cannot be read as a picture ({reason})") from None


def _source(picture: str | Path | Encoded) -> Path | io.BytesIO:
    if isinstance(picture, Encoded):
        return io.BytesIO(picture.content)
    if not Path(picture).is_file():  # opening a pipe would block
        raise OSError("not a file")
    return Path(picture)


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
