"""A confusion matrix as per-class accuracies, table and picture."""

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from dl_proj.pictures import plain, room_for, save_figure
from my_custom_ai.utils.files import write_text


def per_class_accuracy(counts: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the accuracy on each class; classes without images are left out."""
    rows = zip(classes, counts.diagonal().tolist(), counts.sum(1).tolist(), strict=True)
    return {f"accuracy/{name}": correct / total for name, correct, total in rows if total}


def write_confusion(counts: Tensor, classes: tuple[str, ...], folder: Path) -> None:
    """Write confusion.csv (a row per true class, a column per predicted class) and confusion.png."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    write_text(folder / "confusion.csv", text.getvalue())
    _draw(counts, classes, folder / "confusion.png")


def _draw(counts: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Draw each row in percent of its class, with numbers if there are at most 20 classes."""
    percent = (100 * counts.double() / counts.sum(1, keepdim=True).clamp_min(1)).tolist()
    many = len(classes) > 20
    names = [plain(name) for name in classes]
    size = 7 if many else 2.5 + 0.6 * len(classes) + room_for(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    panel = figure.add_subplot()
    image = panel.imshow(percent, vmin=0, vmax=100, cmap="Blues")
    panel.set(xlabel="predicted", ylabel="true", title="Test images of each class, in %")
    if not many:
        panel.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        panel.set_yticks(range(len(classes)), names)
        for i, row in enumerate(percent):
            for j, value in enumerate(row):
                if value > 0:
                    colour = "white" if value > 50 else "black"
                    panel.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=panel)
    save_figure(figure, path)
