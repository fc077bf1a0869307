"""Pictures that are decoded when they are needed; before the first use, all are checked once."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from dl_proj.experiments.images.decoding import quantised, square_pixels
from dl_proj.experiments.images.picture_parts import Part, Pictures, refusal
from dl_proj.settings.errors import ConfigError
from my_custom_ai.utils.files import write_once
from my_custom_ai.utils.signals import leave_to_parent

_VERSION = 1  # of the records; to be raised when decoding changes
_BATCH = 4  # pictures that a process of the check sends at once


class Look(NamedTuple):
    """What becomes of a picture: side in pixels, grey or coloured, number of levels."""

    side: int
    greyscale: bool
    vocab_size: int

    def levels(self, picture: Any) -> Tensor:
        """Return the levels (channels, side, side) uint8 of a picture.

        Raises:
            ValueError: it cannot be read.
        """
        return quantised(square_pixels(picture, self.side, greyscale=self.greyscale), self.vocab_size)

    def shape(self, number: int) -> tuple[int, int, int, int]:
        """Return the shape of the levels of ``number`` pictures."""
        return number, 1 if self.greyscale else 3, self.side, self.side


class Choice(NamedTuple):
    """Pictures of a split: the part in which they are, their places in it, ascending, and their labels."""

    part: str
    places: Tensor
    labels: Tensor


class BrokenLater(ConfigError):
    """A picture cannot be read although the check could."""

    def __init__(self, line: str) -> None:
        # a data-loading process passes on a traceback, which ends with the class's name and the line
        super().__init__(line.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class StreamedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images that are decoded when they are asked for; items are like those of ``LabelledImages``.

    Args:
        pictures: those of the part.
        choice: which of them.
        look: how they are decoded.
        digest: the digest that they would have in memory.
        skipped: names of the unreadable pictures that were left out.
    """

    def __init__(
        self, pictures: Pictures, choice: Choice, look: Look, digest: str, skipped: tuple[str, ...] = ()
    ) -> None:
        self._pictures, self._places, self._look = pictures, choice.places, look
        self.labels, self.digest, self.skipped = choice.labels, digest, skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return levels (channels, side, side) uint8 and label () int64.

        Raises:
            BrokenLater: the picture was damaged or removed after the check.
        """
        try:
            levels = self._look.levels(self._pictures[int(self._places[index])])
        except (ValueError, OSError) as error:
            raise BrokenLater(f"data.root: {error}, which was possible when the pictures were checked") from None
        return levels, self.labels[index]


@dataclass(frozen=True)
class Check:
    """What is known of pictures after all were decoded once.

    Attributes:
        unreadable: places of the unreadable pictures of each part.
        digests: the digest of each split.
    """

    unreadable: dict[str, list[int]]
    digests: dict[str, str]


Divide = Callable[[Mapping[str, Sequence[int]]], dict[str, Choice]]


def checked(
    parts: Mapping[str, Part],
    divide: Divide,
    look: Look,
    *,
    record: Path,
    settings: Sequence[Any],
    skip_broken: bool,
    workers: int,
) -> Check:
    """Decode all pictures once, and record the result, so that it is known as long as the files stay the same.

    One process of several checks while the others wait. A file is the same if its name, size and time are.

    Args:
        parts: the pictures.
        divide: returns the splits, for the places of the unreadable pictures of each part.
        look: how pictures are decoded.
        record: name of the file for the result; a key is added to it.
        settings: whatever else the splits depend on.
        skip_broken: keep the places of unreadable pictures, instead of refusing them.
        workers: number of processes; 0: decode in this one.

    Raises:
        ConfigError: an unreadable picture, unless they are skipped.
    """
    key = hashlib.sha256(json.dumps([_VERSION, *look, skip_broken, *settings]).encode())
    for name, part in parts.items():
        for pictures_file in part.pictures.files():
            key.update(f"{name}\0{pictures_file}\0{_state(pictures_file)}\0".encode(errors="surrogateescape"))
        key.update(part.pictures.labels.numpy().tobytes())
    path = record.with_name(f"{record.name}-{key.hexdigest()[:16]}.json")

    def write(to: Path) -> None:
        found = _check(parts, divide, look, skip_broken=skip_broken, workers=workers)
        to.write_text(json.dumps({"unreadable": found.unreadable, "digests": found.digests}), encoding="utf-8")

    write_once(path, write, whole=lambda path: _read(path) is not None)
    found = _read(path)
    assert found is not None  # just written, or found to be whole
    return found


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:  # such as a dangling link; decoding refuses it
        return "none"
    return f"{state.st_size} {state.st_mtime_ns}"


def _read(path: Path) -> Check | None:
    try:
        return Check(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        return None


def _check(parts: Mapping[str, Part], divide: Divide, look: Look, *, skip_broken: bool, workers: int) -> Check:
    unreadable: dict[str, list[int]] = {name: [] for name in parts}
    while True:  # unreadable pictures move those that are held out, so the splits' digests are computed again
        splits = divide(unreadable)
        shapes = {name: look.shape(len(choice.labels)) for name, choice in splits.items()}
        digests = {name: hashlib.sha256(str(shape).encode()) for name, shape in shapes.items()}
        more: dict[str, list[int]] = {name: [] for name in parts}
        for name, part in parts.items():
            for left_out in (*part.nameless, *(part.pictures.names[place] for place in unreadable[name])):
                digests[name].update(os.fsencode(left_out) + b"\0")
        for name, part in parts.items():
            owner = np.full(len(part.pictures), "", dtype=object)
            for split, choice in splits.items():
                if choice.part == name:
                    owner[choice.places.numpy()] = split
            # closing ends the bar of progress, or the message would be on the same line
            with contextlib.closing(_decoded(name, part.pictures, unreadable[name], look, workers)) as attempts:
                for place, levels, reason in attempts:
                    if levels is not None and owner[place]:
                        digests[owner[place]].update(np.ascontiguousarray(levels).data)
                    elif levels is None and not skip_broken:
                        raise refusal(reason)
                    elif levels is None:
                        more[name].append(place)
        if not any(more.values()):
            for split, choice in splits.items():
                digests[split].update(choice.labels.contiguous().numpy().data)
            return Check(unreadable, {split: digest.hexdigest() for split, digest in digests.items()})
        unreadable = {name: sorted(unreadable[name] + more[name]) for name in parts}


class _Attempts(Dataset[tuple[int, np.ndarray | None, str]]):
    """Place, levels and, where there are none, the reason."""

    def __init__(self, pictures: Pictures, look: Look) -> None:
        self._pictures, self._look = pictures, look

    def __getitem__(self, place: int) -> tuple[int, np.ndarray | None, str]:
        place = int(place)
        try:
            return place, self._look.levels(self._pictures[place]).numpy(), ""
        except (ValueError, OSError) as error:
            return place, None, str(error)


def _decoded(
    what: str, pictures: Pictures, without: Sequence[int], look: Look, workers: int
) -> Generator[tuple[int, np.ndarray | None, str], None, None]:
    """Yield place, levels and reason of each picture, in order."""
    places = np.setdiff1d(np.arange(len(pictures)), np.array(without, dtype=np.int64))
    loader = DataLoader(
        Subset(_Attempts(pictures, look), cast(Sequence[int], places)),
        batch_size=_BATCH,
        num_workers=workers,
        worker_init_fn=leave_to_parent,
        collate_fn=list,
        generator=torch.Generator(),
    )
    with tqdm(total=len(places), desc=f"checking {what}", unit="picture", dynamic_ncols=True, leave=False) as bar:
        for batch in loader:
            for attempt in batch:
                yield attempt
                bar.update()
