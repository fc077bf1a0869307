"""The user's own pictures, found in folders or shards, and divided without being held in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.experiments.images.division import known_and_chosen, split_of
from dl_proj.experiments.images.picture_folder import find_in_folder
from dl_proj.experiments.images.picture_parts import Part, check_classes_remain, report_skipped
from dl_proj.experiments.images.shards import as_parts, classes_in, find_in_shards
from dl_proj.experiments.images.sources import ImageSetName, chosen_classes
from dl_proj.experiments.images.streamed import Choice, Look, StreamedImages, checked
from dl_proj.settings.errors import ConfigError


def find_own(
    dataset: ImageSetName, root: Path, labels: tuple[int | str, ...] | None, skip_broken: bool, cache: Path
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Part]]:
    """Return the names of all classes, of the chosen ones, and the pictures, not yet decoded."""
    if dataset == "image_folder":
        everything, classes = known_and_chosen(dataset, root, labels, skip_broken)
        return everything, classes, find_in_folder(root, everything, classes, skip_broken=skip_broken)
    samples = find_in_shards(root, cache)
    everything = classes_in(root, samples["train"])
    try:
        classes = chosen_classes(everything, labels)
    except ValueError as error:
        raise ConfigError(f"data.labels: {error}") from None
    return everything, classes, as_parts(root, samples, everything, classes)


def stream(
    root: Path,
    own: dict[str, Part],
    everything: tuple[str, ...],
    classes: tuple[str, ...],
    look: Look,
    val_share: float,
    skip_broken: bool,
    record: Path,
    workers: int,
) -> dict[str, StreamedImages]:
    """Check all pictures, unless that is on record, and return the splits."""

    def divide(unreadable: Mapping[str, Sequence[int]]) -> dict[str, Choice]:
        places = {name: _without(len(part.pictures), unreadable[name]) for name, part in own.items()}
        parts = {name: (some, own[name].pictures.labels[some]) for name, some in places.items()}
        split = split_of(parts, everything, classes, val_share)
        return {name: Choice(name if name in own else "train", *chosen) for name, chosen in split.items()}

    found = checked(
        own,
        divide,
        look,
        record=record,
        settings=(everything, classes, val_share),
        skip_broken=skip_broken,
        workers=workers,
    )
    names = {
        name: (*part.nameless, *(part.pictures.names[place] for place in found.unreadable[name]))
        for name, part in own.items()
    }
    if any(names.values()):
        readable = {
            name: part.pictures.labels[_without(len(part.pictures), found.unreadable[name])]
            for name, part in own.items()
        }
        check_classes_remain(root, own, readable, everything, classes)
        report_skipped(root, own, [name for some in names.values() for name in some])
    return {
        name: StreamedImages(own[choice.part].pictures, choice, look, found.digests[name], names.get(name, ()))
        for name, choice in divide(found.unreadable).items()
    }


def _without(number: int, left_out: Sequence[int]) -> Tensor:
    """Return the places from 0 to ``number``, without some."""
    kept = torch.ones(number, dtype=torch.bool)
    kept[list(left_out)] = False
    return kept.nonzero().flatten()
