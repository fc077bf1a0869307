"""Curves show the numbers of the history, each in its panel."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import dl_proj.pictures as pictures
from dl_proj.pictures import draw_curves, save_figure

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
        "loss": {"train": [(1, 2.5), (2, 2.0), (3, 1.5)], "val": [(2, 2.25), (3, 1.75)]},
        "accuracy": {"train": [(1, 0.1), (2, 0.2), (3, 0.0)], "val": [(2, 0.15), (3, 0.25)]},
    }
    assert imread("curves.png").shape[0] > 100


def test_a_history_with_one_kind_of_row(drawn):
    assert drawn("step,val/loss\n4,1.0\n") == {"loss": {"val": [(4, 1.0)]}}


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
    assert width < 1500
    assert height / 6 > 350, "of a panel"


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
