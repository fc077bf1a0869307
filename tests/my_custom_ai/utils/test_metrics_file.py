import csv

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
