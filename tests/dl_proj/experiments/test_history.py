"""What is read from a run's metrics.csv."""

from pathlib import Path

import pytest

from dl_proj.experiments.history import curve, read_history, seconds_in_all, seconds_per_update

HISTORY = """step,train/loss,seconds,val/loss
2,2.5,1.0,
3,,,2.25
4,2.0,3.0,
4,,,nan
6,1.5,1.0,
6,,,1.75
"""


def rows(text=HISTORY):
    Path("metrics.csv").write_text(text)
    return read_history(Path("metrics.csv"))


def test_time_passes_evenly_between_rows_that_tell_it():
    assert curve(rows(), "val/loss") == [(3, 2.5, 2.25), (6, 5.0, 1.75)], "nan is no point"
    assert curve(rows(), "train/loss") == [(2, 1.0, 2.5), (4, 4.0, 2.0), (6, 5.0, 1.5)]
    assert curve(rows(), "val/accuracy") == []


def test_an_evaluation_in_a_row_does_not_count_as_slow_updates():
    assert seconds_per_update(rows()) == 0.5
    assert seconds_in_all(rows()) == 5.0
    assert seconds_per_update(rows("step\n")) is None


@pytest.mark.parametrize("cut", ["8", "8,1.2", "8,1.25,1.0"])
def test_a_row_that_a_kill_cut_off_is_left_out(cut):
    assert rows(HISTORY + cut) == rows()


@pytest.mark.parametrize("text", ["loss\n1\n", "step,loss\nx,1\n", "step,loss\n1,red\n", "step\n1,2\n", "\0\n"])
def test_what_is_no_history_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        rows(text)
