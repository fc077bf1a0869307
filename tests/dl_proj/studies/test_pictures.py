"""Pictures of studies show the numbers of the rows, each in its place."""

import pytest
import torch

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
    assert (time.get_xscale(), time.get_yscale()) == ("log", "log")
    assert (memory.get_xscale(), memory.get_yscale()) == ("linear", "linear")
    assert memory.get_ylim()[0] == 0
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["a", "b"]


def test_the_legend_has_what_only_one_panel_shows():
    only = [{"curve": "z", "n": 1, "t": 1.0}]
    figure = curves(Panel(ROWS, "n", "t", "", ""), Panel(only, "n", "t", "", "", log="x"))
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == ["a", "b", "z"]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6])
def test_panels_fit_the_width_of_a_page(number):
    figure = curves(*[Panel(ROWS, "n", "t", "", "", f"{i}") for i in range(number)])
    assert [axes.get_title() for axes in figure.axes] == [f"{i}" for i in range(number)]
    assert figure.get_size_inches()[0] <= 9
    rows = {axes.get_subplotspec().rowspan.start for axes in figure.axes}
    assert len(rows) == (number + 1) // 2


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (24.0125, 26.5, ["24.5", "25", "25.5", "26", "26.5"]),
        (21.0, 130.0, ["50", "100"]),
        (0.3, 7.0, ["0.5", "1", "2", "5"]),
        (3e-7, 2e-5, ["5e-07", "1e-06", "2e-06", "5e-06", "1e-05", "2e-05"]),
        (0.02, 3000, ["0.1", "1", "10", "100", "1000"]),
    ],
)
def test_a_logarithmic_axis_has_a_few_numbers_in_plain_words(low, high, words):
    """Not 2.40125 x 10^1."""
    rows = [{"curve": "a", "n": n, "t": t} for n, t in ((1, low), (2, high))]
    (axes,) = curves(Panel(rows, "n", "t", "", "")).axes
    found = [label.get_text() for label in axes.get_yticklabels()]
    assert found == [f"{float(tick):g}" for tick in axes.get_yticks()]
    assert set(words) <= set(found), found
    assert 3 <= len(found) <= 8
    assert axes.get_ylim()[0] < low < high < axes.get_ylim()[1]
    assert [label.get_text() for label in axes.get_yticklabels(minor=True)] == []


def test_matrices_stand_by_bucket_size_and_rounds():
    exact = torch.tensor([[0.0, 0.5], [0.25, 0.0]])
    given = {(None, None): exact} | {(size, r): torch.full((2, 2), size + r / 10) for size in (8, 2) for r in (4, 1)}
    figure = matrices(given)
    shown = [(axes.get_ylabel(), axes.get_title(), axes.images[0].get_array()[0, 1]) for axes in figure.axes[:6]]
    assert [shown[0][:2], shown[3][:2]] == [("bucket size 2", "full attention"), ("bucket size 8", "")]
    assert [title for _, title, _ in shown[:3]] == ["full attention", "1 round", "4 rounds"]
    torch.testing.assert_close([float(value) for *_, value in shown], [0.5, 2.1, 2.4, 0.5, 8.1, 8.4], atol=1e-6, rtol=0)
    norms = [axes.images[0].norm for axes in figure.axes[:6]]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(0, 0.5)}


def test_a_table_has_its_numbers_in_their_cells():
    rows = [{"k": 8, "n": 64, "s": 1.5}, {"k": 4, "n": 32, "s": 2.0}, {"k": 4, "n": 64, "s": 0.25}]
    (axes,) = heat_tables(rows, "k", "n", {"s": "times"}).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(1, 1): "1.5", (0, 0): "2", (0, 1): "0.25"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["32", "64"]
    shown = axes.images[0].get_array()
    assert shown.mask.tolist() == [[False, True], [False, False]]
    assert shown.compressed().tolist() == [2.0, 0.25, 1.5]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("k", "n", "times")
