import csv
import errno
import os
import resource

import pytest

from my_custom_ai.utils.trackers import MetricsFile


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_with_different_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    history = MetricsFile(path)
    history.write()
    assert read(path) == []
    history.add(1, {"a,b": 0.5})
    history.add(2, {"c": float("nan"), "a,b": 1e-30})
    history.write()
    assert read(path) == [{"step": "1", "a,b": "0.5", "c": ""}, {"step": "2", "a,b": "1e-30", "c": "nan"}]


def test_continuing_forgets_later_rows_alone(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    for step in (2, 4, 4, 6, 10):
        first.add(step, {"a": step})
    first.write()
    second = MetricsFile(path, last_step=4)
    second.add(5, {"b": 5})
    second.write()
    assert [(row["step"], row["a"], row["b"]) for row in read(path)] == [
        ("2", "2", ""),
        ("4", "4", ""),
        ("4", "4", ""),
        ("5", "", "5"),
    ]


def test_starting_anew_forgets_all_and_continuing_needs_no_file(tmp_path):
    path = tmp_path / "metrics.csv"
    assert MetricsFile(path, last_step=3).rows == []
    old = MetricsFile(path)
    old.add(1, {"a": 1})
    old.write()
    assert MetricsFile(path).rows == []


def test_a_row_is_appended_unless_it_brings_a_column(tmp_path):
    path = tmp_path / "metrics.csv"
    history = MetricsFile(path)
    files = []
    for step, values in enumerate([{"a": 1}, {"a": 2}, {"a": 3, "b": 1}, {"b": 2}], start=1):
        history.add(step, values)
        history.write()
        files.append(path.stat().st_ino)
        assert [row["step"] for row in read(path)] == [str(n) for n in range(1, step + 1)]
    assert files[0] == files[1] != files[2] == files[3]
    assert history.rows == read(path)
    assert read(path)[1] == {"step": "2", "a": "2", "b": ""}


def test_a_row_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a\n9,1\n1", newline="")  # of step 12, killed while it was appended
    resumed = MetricsFile(path, last_step=9)
    assert [row["step"] for row in resumed.rows] == ["9"]
    resumed.add(10, {"a": 2})
    resumed.write()
    assert path.read_text() == "step,a\n9,1\n10,2\n"


def test_a_full_disk_leaves_no_part_of_a_row(tmp_path):
    path = tmp_path / "metrics.csv"
    history = MetricsFile(path)
    history.add(1, {"a": 1})
    history.write()
    old = path.read_text()
    history.add(2, {"a": 0.123456})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) + 3, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            history.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == old
    history.write()  # there is room again
    assert [row["step"] for row in read(path)] == ["1", "2"]


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    history = MetricsFile(path)
    history.add(1, {"a": 1})
    history.write()
    os.remove(path)
    path.parent.rmdir()
    history.add(2, {"a": 2})
    with pytest.raises(FileNotFoundError):
        history.write()
    assert not path.parent.exists()
