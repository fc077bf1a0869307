"""Curves show the numbers of the history, each in its panel."""

from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

import dl_proj.pictures as pictures
from dl_proj.experiments.images.classification import confusion
from dl_proj.experiments.images.classification.confusion import write_confusion
from dl_proj.experiments.images.classification.shift import shifts_figure
from dl_proj.experiments.images.generation import draw
from dl_proj.experiments.images.generation.draw import draw_grid
from dl_proj.experiments.sweep_pictures import by_variant
from dl_proj.figure_style import DOTS, PAGE
from dl_proj.looking import pictures as looks
from dl_proj.looking.pictures import Side, draw_weights
from dl_proj.pictures import Band, band_figure, draw_curves, plain, save_figure

HISTORY = """step,train/loss,train/accuracy,lr,seconds,val/loss,val/accuracy
1,2.5,0.1,0.01,0.5,,
2,2.0,0.2,0.01,0.5,,
2,,,,,2.25,0.15
3,1.5,0.0,0.01,0.5,,
3,,,,,1.75,0.25
"""


@pytest.fixture
def drawn(monkeypatch):
    """Draws a history; gives {panel: {curve: points}}."""
    figures = []
    save = pictures.save_figure

    def watch(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(pictures, "save_figure", watch)

    def draw(text):
        Path("metrics.csv").write_text(text)
        draw_curves(Path("metrics.csv"), Path("curves.png"))
        return {
            panel.get_title(): {line.get_label(): list(map(tuple, line.get_xydata())) for line in panel.get_lines()}
            for panel in figures[-1].axes
        }

    return draw


def test_each_metric_has_its_panel_and_each_point_its_place(drawn):
    assert drawn(HISTORY) == {
        "loss (nats)": {"training": [(1, 2.5), (2, 2.0), (3, 1.5)], "validation": [(2, 2.25), (3, 1.75)]},
        "accuracy": {"training": [(1, 0.1), (2, 0.2), (3, 0.0)], "validation": [(2, 0.15), (3, 0.25)]},
    }
    assert imread("curves.png").shape[0] > 100


def test_a_history_with_one_kind_of_row(drawn):
    assert drawn("step,val/loss\n4,1.0\n") == {"loss (nats)": {"validation": [(4, 1.0)]}}


def test_a_history_without_rows_is_still_a_picture(drawn):
    assert drawn("step\n") == {}
    assert Path("curves.png").stat().st_size > 0


def test_many_metrics_are_still_readable_at_the_width_of_a_page(drawn):
    """Those of translation, which once were 8,267 pixels beside each other."""
    names = [f"metric{i}" for i in range(11)]
    columns = ",".join(f"val/{name}" for name in names)
    panels = drawn(f"step,{columns}\n1{',0.5' * 11}\n")
    height, width, _ = imread("curves.png").shape
    assert list(panels) == names
    assert width == PAGE * DOTS
    assert height / 4 > 300, "of a panel, three a row"


def test_no_part_of_a_picture_is_left_behind(drawn):
    drawn(HISTORY)
    assert {path.name for path in Path().iterdir()} == {"metrics.csv", "curves.png"}


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG\r\n"), ("pdf", b"%PDF-")])
def test_the_suffix_says_the_format(suffix, start):
    """While the file is written it has another name."""
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    path = Path("new", f"two.dots.{suffix}")
    save_figure(figure, path)
    assert path.read_bytes().startswith(start)
    assert list(Path("new").iterdir()) == [path]


def test_the_same_figure_is_the_same_pdf():
    """Or it would differ in each run, and could not be kept under version control."""
    contents = []
    for name in ("a.pdf", "b.pdf"):
        save_figure(band_figure({"a": Band([1, 2], [1, 2], [0, 0])}, xlabel="x", metric="val/loss"), Path(name))
        contents.append(Path(name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("number", [1, 8, 9, 17])
def test_legends_lie_beside_the_data_and_panels_have_eight_curves_at_most(number):
    bands = {f"variant {i}": Band([1, 2, 3], [i, 3, 0], [0.1, 0.1, 0]) for i in range(number)}
    figure = band_figure(bands, xlabel="update", metric="val/bits_per_byte")
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == -(-number // 8)
    for panel in figure.axes:
        legend = panel.get_legend().get_window_extent()
        assert len(panel.lines) == len(panel.get_legend().get_texts()) <= 8
        assert not legend.overlaps(panel.get_window_extent())
        assert legend.x1 <= figure.bbox.width
        assert panel.get_ylabel() == "validation bits per byte"
    assert figure.get_size_inches()[0] == PAGE


# -- names of users' --

NAMES = ("$\\frac$", "$x$", "a$", "$$", "\\$5 or \\$6$", "{x}_{", "_hidden", "^%&#~", "two\nlines\t", "x" * 255)


def grid(names):
    draw_grid(torch.zeros(len(names), 2, 3, 3, dtype=torch.uint8), names, Path("a.png"), columns=names[:2])


def shifts(names):
    rows = [{"checkpoint": n, "attention": "full", "shift": i, "accuracy": 0.5} for n in names for i in (0, 1)]
    pictures.save_figure(shifts_figure(rows), Path("a.png"))


def sweep(names):
    bands = {name: Band([1, 2], [1, 2], [0, 0]) for name in names}
    pictures.save_figure(band_figure(bands, xlabel="x", metric="val/loss"), Path("a.png"))


def sweep_test(names):
    rows = [{"variant": name, "test/loss": "1"} for name in names]
    pictures.save_figure(by_variant(rows, "test/loss"), Path("a.png"))


DRAWN = {
    "confusion": (
        confusion,
        lambda names: write_confusion(torch.eye(len(names), dtype=torch.int64), names, Path()),
    ),
    "samples": (draw, grid),
    "shifts": (pictures, shifts),
    "sweep": (pictures, sweep),
    "sweep_test": (pictures, sweep_test),
    "attention": (
        looks,
        lambda names: draw_weights([torch.rand(1, len(names), len(names))], Side(names), Side(names), Path("a.png")),
    ),
}


def texts_in(figure):
    """What a viewer of the figure reads, tick by tick and line by line of the legends."""
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        legend = [axes.get_legend()] if axes.get_legend() else []
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *(t for one in legend for t in one.get_texts())):
            shown, is_formula = text._preprocess_math(text.get_text())
            assert not is_formula, shown
            yield shown


@pytest.mark.parametrize("kind", DRAWN)
def test_names_are_drawn_as_they_are(kind, monkeypatch):
    module, draw_names = DRAWN[kind]
    figures = []
    monkeypatch.setattr(module, "save_figure", lambda figure, path: (figures.append(figure), save_figure(figure, path)))
    draw_names(NAMES)
    (figure,) = figures
    seen = [text.strip().replace("\u00b7", " ") for text in texts_in(figure)]
    for name in NAMES[:8]:
        assert name in seen, seen
    assert "x" * 45 + "..." in seen
    assert figure.get_size_inches().max() < 30


@pytest.mark.parametrize("kind", DRAWN)
def test_long_names_leave_room_for_the_picture(kind):
    """Or matplotlib warns, which is an error here."""
    _, draw_names = DRAWN[kind]
    draw_names(("x" * 255, "y" * 30))


@pytest.mark.parametrize("name", ["cat", "Ångström", "dog, small", "a b"])
def test_other_names_are_left_alone(name):
    assert plain(name) == name
