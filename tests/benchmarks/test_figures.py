"""The pictures of docs/results come from the files beside them, by the code that drew them when these were written."""

import shutil

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from benchmarks import figures
from benchmarks.figures import BY_COMMAND, FROM_DATA, RESULTS, headline
from dl_proj.figure_style import DOTS, PAGE

PICTURES = {str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.png") if path.name != "confusion.png"}


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("folder", FROM_DATA)
def test_a_folder_can_be_drawn_from_its_files(folder, tmp_path):
    """And the committed pictures are those of today's code, as far as their sizes tell."""
    copy = tmp_path / folder
    shutil.copytree(RESULTS / folder, copy, ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    drawn = FROM_DATA[folder](copy)
    assert drawn
    for picture in drawn:
        assert picture.with_suffix(".pdf").is_file()
        assert size_of(picture) == size_of(RESULTS / folder / picture.name), picture.name
        assert size_of(picture)[0] <= PAGE * DOTS


def test_every_picture_has_data_or_a_command():
    of_data = {name for name in PICTURES if name.rpartition("/")[0] in FROM_DATA}
    others = {*BY_COMMAND, "headline.png", "headline_dark.png"}
    assert all((RESULTS / name).is_file() for name in others)
    assert PICTURES - of_data - others == set()


def test_the_headline_is_what_was_measured():
    figure = headline()
    FigureCanvasAgg(figure).draw()
    gpu, cpu = figure.axes
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    times = {name: dict(line.get_xydata().tolist()) for name, line in zip(names, gpu.lines, strict=True)}
    assert times["full, fused kernel"][131072] == pytest.approx(213.39 / 2, rel=1e-3), "twice the tokens"
    assert times["LSH-2"][65536] == pytest.approx(4.68, rel=1e-2)
    assert len(times["Performer"]) == 8 and len(cpu.lines) == 4
    assert "NVIDIA H200" in gpu.get_title()
    for panel in figure.axes:
        assert not figure.legends[0].get_window_extent().overlaps(panel.get_window_extent())


def test_on_a_dark_page_it_shows_the_same():
    light, dark = headline(), headline(dark=True)
    for one, other in zip(light.axes, dark.axes, strict=True):
        assert [a.get_xydata().tolist() for a in one.lines] == [b.get_xydata().tolist() for b in other.lines]
        assert {a.get_color() for a in one.lines}.isdisjoint(b.get_color() for b in other.lines)
    assert light.get_facecolor() != dark.get_facecolor()


def test_a_word_picks_folders(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "FROM_DATA", {name: lambda folder: [drawn.append(folder.name)] for name in FROM_DATA})
    monkeypatch.setattr(figures, "headline", lambda **_: pytest.fail("not asked for"))
    figures.draw("performance")
    assert drawn == ["performance_studies", "performance_studies_long"]
