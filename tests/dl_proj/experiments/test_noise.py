"""Which variants can be told apart."""

import pytest

from dl_proj.experiments.noise import Verdict, against_the_best, order_line, verdict

FIGURE = "test/accuracy"


def runs(*values, interval=None):
    ends = {} if interval is None else {f"{FIGURE}_low": interval[0], f"{FIGURE}_high": interval[1]}
    return [{FIGURE: value} | ends for value in values]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (runs(0.1, 0.2), runs(0.3, 0.4), Verdict.APART),
        (runs(0.1, 0.3), runs(0.3, 0.4), Verdict.NOISE),  # they touch
        (runs(0.3, 0.4), runs(0.1, 0.35), Verdict.NOISE),
        (runs(0.1, 0.5), runs(0.2, 0.3), Verdict.NOISE),  # one lies within the other
        (runs(0.1, 0.2, interval=(0.05, 0.25)), runs(0.3, 0.4, interval=(0.24, 0.5)), Verdict.NOISE),
        (runs(0.1, 0.2, interval=(0.05, 0.25)), runs(0.3, 0.4, interval=(0.26, 0.5)), Verdict.APART),
        (runs(0.1, 0.2, interval=(0.05, 0.25)), runs(0.3, 0.4), Verdict.APART),  # one has none
        (runs(0.1), runs(0.3, 0.4), Verdict.ONE_SEED),
        (runs(0.1, interval=(0, 0.2)), runs(0.3, interval=(0.25, 0.4)), Verdict.ONE_SEED),
        (runs(0.1, interval=(0, 0.2)), runs(0.3, interval=(0.15, 0.4)), Verdict.NOISE),
    ],
)
def test_verdicts_are_the_same_from_both_sides(one, other, expected):
    assert verdict(one, other, FIGURE) is verdict(other, one, FIGURE) is expected


MANY = {"a": runs(0.1, 0.2), "b": runs(0.8, 0.9), "c": runs(0.7, 0.85), "d": runs(0.5), "e": [{"other": 1}]}


def test_the_order_says_between_which_neighbours_it_is_noise():
    line = order_line(MANY, FIGURE, "max")
    assert line.startswith("best first by test accuracy: b ~ c ? d ? a (")
    assert "overlap" in line and "chance" in line
    assert order_line(MANY, FIGURE, "min").startswith("best first by test accuracy: a ? d ? c ~ b (")
    apart = {name: MANY[name] for name in "ab"}
    assert order_line(apart, FIGURE, "max") == "best first by test accuracy: b, a"
    assert order_line({"a": MANY["a"]}, FIGURE, "max") is None
    assert against_the_best(MANY, FIGURE, "max") == {
        "b": "best",
        "c": "within the noise",
        "d": "one seed",
        "a": "worse",
    }
    assert against_the_best({"a": MANY["a"]}, FIGURE, "max") == {}
