"""The confusion matrix as table, figures and picture."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

import dl_proj.experiments.images.classification.confusion as confusion
from dl_proj.experiments.images.classification.confusion import per_class_accuracy, write_confusion

CLASSES = ("cat", "dog, small", 'the "third"', "Ångström")
COUNTS = torch.tensor([[5, 0, 3, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 9]])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, as they are written too."""
    seen = []
    save = confusion.save_figure
    monkeypatch.setattr(confusion, "save_figure", lambda figure, path: (seen.append(figure), save(figure, path)))
    return seen


def test_per_class_accuracy_is_the_share_of_the_row():
    shares = per_class_accuracy(COUNTS, CLASSES)
    there = [name for name, images in zip(CLASSES, COUNTS.sum(1), strict=True) if images]
    assert len(there) == 3, "one class has no image"
    assert list(shares) == [f"accuracy/{name}" for name in there]
    assert list(shares.values()) == [5 / 8, 0.0, 1.0]


def test_the_table_holds_the_counts():
    write_confusion(COUNTS, CLASSES, Path("new/folder"))
    with open("new/folder/confusion.csv", newline="", encoding="utf-8") as file:
        first, *rows = list(csv.reader(file))
    assert first == ["true", *CLASSES]
    assert [row[0] for row in rows] == list(CLASSES)
    assert [[int(count) for count in row[1:]] for row in rows] == COUNTS.tolist()
    assert {path.name for path in Path("new/folder").iterdir()} == {"confusion.csv", "confusion.png"}


def test_names_must_be_as_many_as_rows():
    with pytest.raises(ValueError, match="zip"):
        write_confusion(COUNTS, CLASSES[:3], Path())
    with pytest.raises(ValueError, match="zip"):
        per_class_accuracy(COUNTS, CLASSES[:3])


def test_the_picture_shows_percent_of_each_true_class(figures):
    write_confusion(COUNTS, CLASSES, Path())
    with Image.open("confusion.png") as picture:
        picture.load()
        assert min(picture.size) > 300
    panel = figures[0].axes[0]
    shown = panel.images[0].get_array()
    assert shown.tolist() == [[62.5, 0, 37.5, 0], [50, 0, 0, 50], [0, 0, 0, 0], [0, 0, 0, 100]]
    assert panel.images[0].get_clim() == (0, 100)
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): "62.5", (2, 0): "37.5", (0, 1): "50.0", (3, 1): "50.0", (3, 3): "100.0"}
    for ticks, axis in ((panel.get_xticklabels(), "predicted"), (panel.get_yticklabels(), "true")):
        assert [tick.get_text() for tick in ticks] == list(CLASSES), axis
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize("n", [2, 12, 30])
def test_a_picture_of_any_number_of_classes(n, figures):
    """Of many classes it shows colours alone."""
    names = tuple(f"class {i}" for i in range(n))
    write_confusion(torch.eye(n, dtype=torch.int64) * 7, names, Path())
    with Image.open("confusion.png") as picture:
        picture.load()
        assert max(picture.size) < 3000
    panel = figures[0].axes[0]
    assert len(panel.texts) == (n if n <= 20 else 0)
    assert ("class 0" in [tick.get_text() for tick in panel.get_yticklabels()]) == (n <= 20)


def test_the_picture_is_dark_where_images_are(figures):
    """Read back: of the four cells of a 2 x 2 matrix, the dark ones are those with images."""
    write_confusion(torch.tensor([[0, 4], [4, 0]]), ("a", "b"), Path())
    with Image.open("confusion.png") as picture:
        grey = picture.convert("L")
    box = cells_of(figures[0], grey)
    dark = [[grey.getpixel(box(x, y)) < 100 for x in (-0.3, 0.7)] for y in (-0.3, 0.7)]  # beside the numbers
    assert dark == [[False, True], [True, False]]


def cells_of(figure, picture):
    """Where a point of the panel is in the picture."""

    def place(x, y):
        across, up = figure.axes[0].transData.transform((x, y)) / figure.dpi / figure.get_size_inches()
        return round(across * picture.width), round((1 - up) * picture.height)

    return place
