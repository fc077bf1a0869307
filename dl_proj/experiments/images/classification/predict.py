"""predict.py: classify pictures with a trained classifier."""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.experiments.images.classification.classifier import load_classifier
from dl_proj.experiments.images.classification.predict_settings import PredictConfig
from dl_proj.experiments.images.data import picture_levels
from dl_proj.experiments.images.picture_folder import pictures_below
from dl_proj.experiments.images.picture_parts import SUFFIXES, counts
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.settings.base import expanded
from dl_proj.settings.errors import ConfigError
from dl_proj.tables import Row, csv_text
from my_custom_ai.utils.files import write_text


def predict_pictures(config: PredictConfig, words: list[str]) -> None:
    """Print a line for each picture and, with ``output``, write a CSV.

    Raises:
        ConfigError: words that name no pictures; or unreadable pictures, after all others were classified.
    """
    paths = _paths(words)
    classifier = load_classifier(find_checkpoint(config.checkpoint), device=config.device)
    rows: list[Row] = []
    broken: list[str] = []
    for some in _batches(paths, classifier.config.data, config.batch_size, broken):
        found = classifier.named(classifier.probabilities(torch.stack([levels for _, levels in some])))
        for (path, _), probabilities in zip(some, found, strict=True):
            best = list(probabilities.items())[: config.top]
            print(f"{_shown(path)}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in best), flush=True)
            row = {"picture": _shown(path), "class": best[0][0], "probability": best[0][1]}
            rows.append(row | {f"p({name})": probabilities[name] for name in classifier.classes})
    if config.output is not None and rows:
        write_text(config.output, csv_text(rows))
        print(f"written: {config.output}")
    if broken:
        raise ConfigError(*broken)


def _batches(
    paths: list[Path], data: ClassifierDataConfig, batch_size: int, broken: list[str]
) -> Iterator[list[tuple[Path, Tensor]]]:
    """Yield batches of readable pictures with their levels; adds a line to ``broken`` for each unreadable one."""
    batch: list[tuple[Path, Tensor]] = []
    for path in paths:
        try:
            batch.append((path, picture_levels(path, data)))
        except ValueError as error:
            broken.append(str(error))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _paths(words: list[str]) -> list[Path]:
    """Return the files that the arguments refer to, in order, without duplicates; folders include their subfolders."""
    if not words:
        raise ConfigError("pictures: none given; must be files, folders or patterns such as 'pics/*.png'")
    paths: list[Path] = []
    mistakes: list[str] = []
    for word in (str(expanded(word)) for word in words):
        named = (
            [Path(word)] if Path(word).exists() else [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        )
        found = [path for one in named for path in _files(one)]
        if not named:
            mistakes.append(f"{word}: no such file, and no file matches it as a pattern")
        elif not found:
            mistakes.append(f"{word}: a folder without pictures (files ending in {', '.join(SUFFIXES)})")
        paths += found
    if mistakes:
        raise ConfigError(*mistakes)
    return list(dict.fromkeys(paths))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found, skipped = pictures_below(path)
    if found and skipped:
        print(f"{path}: skipped {counts(skipped)}; pictures end in {', '.join(SUFFIXES)}", file=sys.stderr)
    return found


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")
