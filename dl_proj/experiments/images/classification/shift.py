"""shift_test.py: accuracy of classifiers on horizontally shifted images (Horn et al. 2021, the shift experiment)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.experiments.images.classification.classifier import Classifier, load_classifier
from dl_proj.experiments.images.classification.shift_settings import ShiftConfig
from dl_proj.experiments.images.data import all_classes, load_test_pixels, prepared
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.experiments.images.sources import chosen_classes
from dl_proj.figure_style import PAGE, legend_beside, looks_of, style
from dl_proj.pictures import plain, save_for_print
from dl_proj.settings.errors import ConfigError
from dl_proj.tables import Row, csv_text, markdown
from my_custom_ai.utils.files import write_text


@dataclass(frozen=True)
class _Subject:
    """A model and the images that it is tested on."""

    name: str
    classifier: Classifier
    pixels: Tensor
    labels: Tensor


def measure_shifts(config: ShiftConfig) -> None:
    """Measure each model at each shift, print a table, and write shifts.csv and shifts.png."""
    subjects = [_subject(name, config) for name in config.checkpoints]  # load all, before spending time on the first
    shifts = range(-config.max_shift, config.max_shift + 1)
    rows = []
    with tqdm(total=len(subjects) * len(shifts), unit="shift", desc="shift test") as bar:
        for subject in subjects:
            trained = subject.classifier.config
            for shift in shifts:
                images = prepared(shifted(subject.pixels, shift), trained.data)
                correct = _count_correct(subject.classifier, images, subject.labels, config.batch_size)
                rows.append(
                    {
                        "checkpoint": subject.name,
                        "attention": trained.model.attention_title,
                        "shift": shift,
                        "images": len(images),
                        "accuracy": correct / len(images),
                    }
                )
                bar.update()
    print(markdown(_row_per_model(rows)))
    write_text(config.output_dir / "shifts.csv", csv_text(rows))
    draw_shifts(config.output_dir)
    print(f"written: {config.output_dir / 'shifts.csv'}, {config.output_dir / 'shifts.png'} and .pdf")


def _subject(name: str, config: ShiftConfig) -> _Subject:
    classifier = load_classifier(find_checkpoint(name), device=config.device, data=config.data.given)
    pixels, labels, classes = load_test_pixels(classifier.config.data)
    chosen = _numbers(classifier.config.data, classes, config.labels, name)
    kept = torch.isin(labels, torch.tensor(chosen))
    pixels, labels = pixels[kept], labels[kept]
    margin = empty_columns(pixels)
    if not (margin >= config.max_shift).any():
        widest = int(margin.max()) if len(margin) else 0
        raise ConfigError(
            f"max_shift: none of the {len(margin)} test images of {name} with these labels has {config.max_shift} "
            f"empty columns on both sides; must be at most {widest}"
        )
    kept = margin >= config.max_shift
    return _Subject(name, classifier, pixels[kept], labels[kept])


def _numbers(
    data: ClassifierDataConfig, classes: tuple[str, ...], labels: tuple[str, ...] | None, name: str
) -> list[int]:
    """Return the indices, among the model's classes, of ``labels``: names or numbers of the dataset's classes."""
    if labels is None:
        return list(range(len(classes)))
    try:
        wanted = chosen_classes(all_classes(data), labels)
    except ValueError as error:
        raise ConfigError(f"labels: {name}: {error}") from None
    if unknown := [label for label in wanted if label not in classes]:
        raise ConfigError(f"labels: {name} has no class {', '.join(unknown)}; must be of {', '.join(classes)}")
    return [classes.index(label) for label in wanted]


def empty_columns(pixels: Tensor) -> Tensor:
    """Return how many columns are black on both the left and the right: (n, c, h, w) -> (n,) int64."""
    inked = (pixels > 0).flatten(1, 2).any(1)  # (n, w)
    left = inked.cumsum(-1).eq(0).sum(-1)
    right = inked.flip(-1).cumsum(-1).eq(0).sum(-1)
    return left.minimum(right)


def shifted(pixels: Tensor, by: int) -> Tensor:
    """Shift images (n, c, h, w) ``by`` pixels to the right, or to the left if negative, filling with black."""
    moved = torch.zeros_like(pixels)
    width = pixels.shape[-1]
    moved[..., max(by, 0) : width + min(by, 0)] = pixels[..., max(-by, 0) : width - max(by, 0)]
    return moved


def _count_correct(classifier: Classifier, images: Tensor, labels: Tensor, batch_size: int) -> int:
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(int((classifier.probabilities(some).argmax(-1) == own).sum()) for some, own in batches)


def _row_per_model(rows: list[Row]) -> list[Row]:
    """Return a row per model with accuracies in percent, a column per shift."""
    table: dict[str, Row] = {}
    for row in rows:
        first_cells = {"checkpoint": row["checkpoint"], "images": row["images"]}
        table.setdefault(row["checkpoint"], first_cells)[f"{row['shift']:+d}"] = f"{100 * row['accuracy']:.1f}"
    return list(table.values())


def draw_shifts(folder: Path) -> Path:
    """Draw shifts.png of shifts.csv, and the same as PDF."""
    with (folder / "shifts.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    save_for_print(shifts_figure(rows), folder / "shifts.png")
    return folder / "shifts.png"


def shifts_figure(rows: Sequence[Mapping[str, str]]) -> Figure:
    """A curve a model."""
    attention = {row["checkpoint"]: row["attention"] for row in rows}
    looks = looks_of(f"{name} {title}" for name, title in attention.items())  # a checkpoint may not name its mechanism
    with style():
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        panel = figure.add_subplot()
        for name, title in attention.items():
            points = [(int(row["shift"]), 100 * float(row["accuracy"])) for row in rows if row["checkpoint"] == name]
            panel.plot(*zip(*points, strict=True), **looks[f"{name} {title}"].line(), label=plain(name))
        panel.set(xlabel="shift of the image to the right (pixels)", ylabel="accuracy (%)", ylim=(-2, 102))
        panel.grid(True)
        legend_beside(panel)
    return figure
