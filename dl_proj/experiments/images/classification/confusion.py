"""A confusion matrix as figures, table and picture."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from dl_proj.figure_style import style, text_colour
from dl_proj.pictures import plain, room_for, save_figure
from my_custom_ai.utils.files import write_text


def per_class_accuracy(counts: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Share of each class's images that are taken for what they are; a class without images is left out."""
    rows = zip(classes, counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
    return {f"accuracy/{name}": right / there for name, right, there in rows if there}


def write_confusion(counts: Tensor, classes: tuple[str, ...], folder: Path) -> None:
    """Write confusion.csv (true class, one column a predicted class) and confusion.png."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    write_text(folder / "confusion.csv", text.getvalue())
    draw_confusion(folder)


def draw_confusion(folder: Path) -> Path:
    """Draw confusion.png of confusion.csv."""
    with (folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
        (_, *classes), *rows = csv.reader(file)
    counts = [[int(count) for count in row[1:]] for row in rows]
    save_figure(confusion_figure(counts, classes), folder / "confusion.png")
    return folder / "confusion.png"


def confusion_figure(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Each row in percent of its class; numbers as long as they can be read."""
    percent = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    many = len(classes) > 20
    names = [plain(name) for name in classes]
    size = 5.5 if many else 1.0 + 0.36 * len(classes) + room_for(names)
    with style():
        figure = Figure(figsize=(size + 0.7, size), layout="constrained")
        panel = figure.add_subplot()
        image = panel.imshow(percent, vmin=0, vmax=100, cmap="Blues")
        panel.set(xlabel="predicted class", ylabel="true class")
        panel.spines[:].set_visible(False)
        if not many:
            panel.set_xticks(range(len(classes)), names, rotation=0 if max(map(len, names)) < 3 else 45, ha="right")
            panel.set_yticks(range(len(classes)), names)
            for i, row in enumerate(percent):
                for j, value in enumerate(row):
                    if value > 0:
                        colour = text_colour(image, value)
                        panel.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=6.5)
        figure.colorbar(image, ax=panel, shrink=0.8).set_label("share of the true class (%)")
    return figure
