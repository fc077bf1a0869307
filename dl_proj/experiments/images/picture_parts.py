"""The pictures of a part, train, val or test, before they are decoded; decoding all of them into memory."""

import abc
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from tqdm import tqdm

from dl_proj.experiments.images.decoding import Encoded, square_pixels
from dl_proj.settings.errors import ConfigError

SUFFIXES = datasets.folder.IMG_EXTENSIONS
_NAMED = 3  # files named in a message


class Names(Sequence[str]):
    """Many names in little memory: a list of strings would take several times their length."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._bounds = np.cumsum([0, *map(len, encoded)])
        self._joined = b"".join(encoded)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        """Return a name."""
        return os.fsdecode(self._joined[self._bounds[index] : self._bounds[index + 1]])


class Pictures(abc.ABC):
    """The pictures of a part in a fixed order.

    Args:
        names: paths below the root of all parts, for messages and digests.
        labels: (n,) int64, indices of all classes.
    """

    def __init__(self, names: Iterable[str], labels: Sequence[int]) -> None:
        self.names = Names(names)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Path | Encoded:
        """Return a picture's file, or the content that it would have."""

    @abc.abstractmethod
    def files(self) -> Iterator[Path]:
        """Yield the files that have to be unchanged for the pictures to be the same."""


class FilePictures(Pictures):
    """Pictures that are files below ``root``."""

    def __init__(self, root: Path, names: Iterable[str], labels: Sequence[int]) -> None:
        super().__init__(names, labels)
        self._root = root

    def __getitem__(self, index: int) -> Path:
        """See Pictures."""
        return self._root / self.names[index]

    def files(self) -> Iterator[Path]:
        """See Pictures."""
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Part:
    """What was found of a part: its pictures, and the numbers of other files, by suffix.

    ``nameless`` are the pictures of classes whose names are not UTF-8, which have been skipped.
    """

    pictures: Pictures
    others: Counter[str] = field(default_factory=Counter)
    nameless: tuple[str, ...] = ()


def read_parts(
    root: Path,
    parts: Mapping[str, Part],
    classes: tuple[str, ...],
    chosen: tuple[str, ...],
    *,
    side: int,
    greyscale: bool,
    broken: list[str] | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Decode all pictures; see :func:`dl_proj.experiments.images.picture_folder.read_folder`."""
    left_out = None if broken is None else [name for part in parts.values() for name in part.nameless]
    read = {name: _read(root / name, part.pictures, side, greyscale, left_out) for name, part in parts.items()}
    if broken is not None and left_out:
        check_classes_remain(root, parts, {name: labels for name, (_, labels) in read.items()}, classes, chosen)
        report_skipped(root, parts, left_out)
        broken += left_out
    return read


def _read(
    what: Path, pictures: Pictures, side: int, greyscale: bool, left_out: list[str] | None
) -> tuple[Tensor, Tensor]:
    """Return images and labels; unreadable pictures are refused, or added to ``left_out``."""
    images, readable = [], []
    with tqdm(range(len(pictures)), desc=f"reading {what}", unit="picture", dynamic_ncols=True, leave=False) as bar:
        for index in bar:
            try:
                images.append(square_pixels(pictures[index], side, greyscale=greyscale))
            except ValueError as error:
                if left_out is None:
                    bar.close()  # or the message would be on the same line
                    raise refusal(str(error)) from None
                left_out.append(pictures.names[index])
            else:
                readable.append(index)
    if not images:
        images = [torch.empty(0, 1 if greyscale else 3, side, side, dtype=torch.uint8)]
        return images[0], pictures.labels[:0]
    return torch.stack(images), pictures.labels[readable]


def refusal(reason: str) -> ConfigError:
    """Return the error for a picture that cannot be read."""
    return ConfigError(f"data.root: {reason}; data.skip_broken: true skips such pictures")


def check_classes_remain(
    root: Path,
    parts: Mapping[str, Part],
    readable: Mapping[str, Tensor],
    classes: tuple[str, ...],
    chosen: tuple[str, ...],
) -> None:
    """Refuse a chosen class of which a part has pictures, but no readable ones.

    Args:
        root: folder of the parts.
        parts: what was found.
        readable: labels of the readable pictures of each part.
        classes: names of all classes.
        chosen: names of the classes that are needed.

    Raises:
        ConfigError: such a class.
    """
    for part, labels in readable.items():
        before, after = (one.bincount(minlength=len(classes)) for one in (parts[part].pictures.labels, labels))
        for name in chosen:
            number = classes.index(name)
            if before[number] and not after[number]:
                raise ConfigError(
                    f"data.root: {root / part / name}: none of its {before[number]} pictures can be read; replace "
                    "them, or remove the class"
                )


def report_skipped(root: Path, parts: Mapping[str, Part], names: Sequence[str]) -> None:
    """Say on standard error how many pictures were skipped."""
    total = sum(len(part.pictures) + len(part.nameless) for part in parts.values())
    say(f"{root}: skipped {len(names)} of {total} pictures, which cannot be read: {some(names)}")


def say(line: str) -> None:
    """Print a line about the data on standard error, in one process of several."""
    if os.environ.get("RANK", "0") == "0":  # set by torchrun; the accelerator does not exist yet
        print(f"data.root: {line}", file=sys.stderr)


def some(names: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


def counts(skipped: Counter[str]) -> str:
    """Return text such as ``4 files (3 .gif, 1 .txt)``."""
    total = skipped.total()
    return f"{total} file{'s' * (total > 1)} ({', '.join(f'{n} {what}' for what, n in sorted(skipped.items()))})"
