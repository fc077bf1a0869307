"""Pictures of studies show the numbers of the rows, each in its place."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dl_proj.figure_style import COLUMN, PAGE
from dl_proj.studies.pictures import Panel, curves, heat_tables, matrices

ROWS = [
    {"curve": "b", "n": 4, "t": 3.0, "e": 0.1, "m": None},
    {"curve": "a", "n": 16, "t": 5.0, "e": 0.2, "m": 7.0},
    {"curve": "b", "n": 1, "t": 2.0, "e": 0.3, "m": 9.0},
    {"curve": "c", "n": None, "t": 8.0, "e": 0.4, "m": 1.0},
]


def points(axes):
    return {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}


def test_each_curve_has_its_points_in_order():
    figure = curves(
        Panel(ROWS, "n", "t", "tokens", "seconds", "time", error="e"), Panel(ROWS, "n", "m", "x", "y", log="")
    )
    time, memory = figure.axes
    assert points(time) == {"b": [[1, 2], [4, 3]], "a": [[16, 5]]}
    assert points(memory) == {"a": [[16, 7]], "b": [[1, 9]]}, "a row without the number has no point"
    (bars,) = time.containers[0].lines[2]
    heights = [(line[1][1] - line[0][1]) / 2 for line in bars.get_segments()]
    torch.testing.assert_close(heights, [0.3, 0.1])
    assert (time.get_xlabel(), time.get_ylabel(), time.get_title()) == ("tokens", "seconds", "time")
    assert [label.get_text() for label in time.get_xticklabels()] == ["1", "4", "16"]
    assert (time.get_xscale(), time.get_yscale()) == ("log", "linear"), "2 to 5 is no range for logarithms"
    assert (memory.get_xscale(), memory.get_yscale()) == ("linear", "linear")
    assert memory.get_ylim()[0] == 0
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["a", "b"]


def test_the_legend_has_what_only_one_panel_shows():
    only = [{"curve": "z", "n": 1, "t": 1.0}]
    figure = curves(Panel(ROWS, "n", "t", "", ""), Panel(only, "n", "t", "", "", log="x"))
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["a", "b", "z"]


@pytest.mark.parametrize(("number", "across"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3)])
def test_panels_fit_the_width_of_a_page(number, across):
    figure = curves(*[Panel(ROWS, "n", "t", "", "", f"{i}") for i in range(number)])
    assert [axes.get_title() for axes in figure.axes] == [f"{i}" for i in range(number)]
    assert figure.get_size_inches()[0] == (PAGE if number > 1 else COLUMN)
    assert max(axes.get_subplotspec().colspan.stop for axes in figure.axes) == across


MANY = ("full", "shared QK", "LSH-1", "LSH-2", "LSH-4", "Performer", "relative Performer", "Linformer, k = 64", "odd")


def test_many_curves_are_shared_out_by_kind_of_mechanism_beside_full_attention():
    rows = [{"curve": name, "n": n, "t": n + i, "m": 5.0} for i, name in enumerate(MANY) for n in (1, 4, 16)]
    figure = curves(Panel(rows, "n", "t", "tokens", "time (s)"), Panel(rows, "n", "m", "tokens", "memory (MiB)"))
    found = [[*points(axes)] for axes in figure.axes]
    own = [
        ["shared QK", "LSH-1", "LSH-2", "LSH-4"],
        ["Performer", "relative Performer"],
        ["Linformer, k = 64"],
        ["odd"],
    ]
    assert found == [["full", *names] for names in own] * 2
    for axes, names in zip(figure.axes[4:], own, strict=True):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["full", *names]
    assert [axes.get_title() for axes in figure.axes] == ["hashing", "kernels", "low rank", "others", *[""] * 4]
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["time (s)", "memory (MiB)"]


@pytest.mark.parametrize("names", [MANY, MANY[:3]])
def test_legends_are_off_the_data_and_inside_the_figure(names):
    rows = [{"curve": name, "n": n, "t": n + i} for i, name in enumerate(names) for n in (1, 4, 16)]
    figure = curves(*[Panel(rows, "n", "t", "tokens", "time (s)", log=log) for log in ("xy", "")])
    FigureCanvasAgg(figure).draw()
    panels = [axes.get_window_extent() for axes in figure.axes]
    legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(panel) for panel in panels)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


def test_a_curve_that_another_one_covers_is_drawn_wider():
    rows = [{"curve": name, "n": n, "t": t} for name, t in (("a", 24.0), ("b", 24.02), ("c", 40.0)) for n in (1, 2)]
    (axes,) = curves(Panel(rows, "n", "t", "", "", log="x")).axes
    widths = {bars.get_label(): bars.lines[0].get_linewidth() for bars in axes.containers}
    assert widths["a"] > widths["b"] == widths["c"]


def test_numbers_near_each_other_get_an_axis_from_zero_and_tiny_ones_a_power_of_ten():
    """Not one from 24 to 24.02, whose logarithms are 2.40125 x 10^1."""
    near = [{"curve": "a", "n": n, "t": t} for n, t in ((1, 24.0), (2, 24.02))]
    tiny = [{"curve": "a", "n": n, "t": t} for n, t in ((1, 3e-7), (2, 2e-5))]
    one, other = curves(Panel(near, "n", "t", "", "memory (MiB)"), Panel(tiny, "n", "t", "", "error")).axes
    assert (one.get_yscale(), one.get_ylim()[0]) == ("linear", 0)
    assert 24.02 < one.get_ylim()[1] < 30
    assert (other.get_yscale(), other.get_ylabel()) == ("log", "error (10$^{-6}$)")
    assert points(other) == {"a": [[1, pytest.approx(0.3)], [2, pytest.approx(20)]]}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (21.0, 130.0, ["50", "100"]),
        (0.3, 7.0, ["0.5", "1", "2", "5"]),
        (0.002, 0.02, ["0.002", "0.005", "0.01", "0.02"]),
        (0.02, 3000, ["0.1", "1", "10", "100", "1,000"]),
    ],
)
def test_a_logarithmic_axis_has_a_few_numbers_in_plain_words(low, high, words):
    """Not 2.40125 x 10^1."""
    rows = [{"curve": "a", "n": n, "t": t} for n, t in ((1, low), (2, high))]
    (axes,) = curves(Panel(rows, "n", "t", "", "")).axes
    found = [label.get_text() for label in axes.get_yticklabels()]
    assert [float(label.replace(",", "")) for label in found] == axes.get_yticks().tolist()
    assert set(words) <= set(found), found
    assert 3 <= len(found) <= 8
    assert axes.get_ylim()[0] < low < high < axes.get_ylim()[1]
    assert [label.get_text() for label in axes.get_yticklabels(minor=True)] == []


def test_matrices_stand_by_bucket_size_and_rounds():
    exact = torch.tensor([[0.0, 0.5], [0.25, 0.0]])
    given = {(None, None): exact} | {
        (size, r): torch.full((2, 2), size / 100 + r / 10) for size in (8, 4, 2, 9) for r in (4, 1)
    }
    figure = matrices(given)
    shown = [(axes.get_ylabel(), axes.get_title(), axes.images[0].get_array()[0, 1]) for axes in figure.axes[:9]]
    assert [label for label, *_ in shown[::3]] == ["bucket size 2", "bucket size 8", "bucket size 9"], "three of them"
    assert [title for _, title, _ in shown[:4]] == ["full attention", "1 round", "4 rounds", ""]
    expected = [0.5, 0.12, 0.42, 0.5, 0.18, 0.48, 0.5, 0.19, 0.49]
    torch.testing.assert_close([float(value) for *_, value in shown], expected, atol=1e-6, rtol=0)
    norms = [axes.images[0].norm for axes in figure.axes[:9]]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(0.0005, 0.5)}
    first = figure.axes[0].images[0]
    assert first.to_rgba(first.get_array())[0, 0].tolist() == [1, 1, 1, 1], "no weight is white"


def test_of_long_sequences_the_first_tokens_are_shown():
    figure = matrices({(None, None): torch.rand(300, 300), (4, 1): torch.rand(300, 300)})
    assert [axes.images[0].get_array().shape for axes in figure.axes[:2]] == [(96, 96)] * 2


def test_a_table_has_its_numbers_in_their_cells():
    rows = [{"k": 8, "n": 64, "s": 1.5}, {"k": 4, "n": 32, "s": 2.0}, {"k": 4, "n": 64, "s": 0.25}]
    (axes,) = heat_tables(rows, "k", "n", {"s": "times"}, {"k": "rank", "n": "tokens"}).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (1, 1): "1.5",
        (0, 0): "2.0",
        (0, 1): "0.2",
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["32", "64"]
    shown = axes.images[0].get_array()
    assert shown.mask.tolist() == [[False, True], [False, False]]
    assert shown.compressed().tolist() == [2.0, 0.25, 1.5]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("rank", "tokens", "times")
