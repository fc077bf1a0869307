"""Splits of a dataset: the held-out images, always the same ones, and those of the chosen classes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.experiments.images.sources import ImageSetName, chosen_classes, classes_of
from dl_proj.settings.errors import ConfigError

_SEED = 0  # of the held-out images: the same in every run, whatever its seed

Labelled = tuple[Tensor, Tensor]  # images, or their places, and labels (n,) int64


def known_and_chosen(
    dataset: ImageSetName, root: Path, labels: tuple[int | str, ...] | None, skip_broken: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all classes, and of those in ``labels``."""
    try:
        everything = classes_of(dataset, root, skip_broken=skip_broken)
        return everything, chosen_classes(everything, labels)
    except FileNotFoundError as error:
        raise ConfigError(f"data.root: {error}") from None
    except ValueError as error:
        raise ConfigError(f"data.labels: {error}") from None


def numbers_of(everything: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """Return for each class its index among the chosen ones, or -1."""
    numbers = torch.full((len(everything),), -1)
    numbers[[everything.index(name) for name in classes]] = torch.arange(len(classes))
    return numbers


def split_of(
    parts: Mapping[str, Labelled], everything: tuple[str, ...], classes: tuple[str, ...], val_share: float
) -> dict[str, Labelled]:
    """Hold out the validation images, unless there is a ``val``; keep those of the chosen classes, renumbered."""
    split, numbers = dict(parts), numbers_of(everything, classes)
    if "val" not in split:
        split["val"], split["train"] = divided(split["train"], round(val_share * len(split["train"][1])))
    kept = {name: numbers[labels] >= 0 for name, (_, labels) in split.items()}
    return {name: (images[kept[name]], numbers[labels[kept[name]]]) for name, (images, labels) in split.items()}


def divided(part: Labelled, first: int) -> tuple[Labelled, Labelled]:
    """Split off ``first`` random images, always the same ones."""
    images, labels = part
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    one, other = order[:first].sort().values, order[first:].sort().values
    return (images[one], labels[one]), (images[other], labels[other])
