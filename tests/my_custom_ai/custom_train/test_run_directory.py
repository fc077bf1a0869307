import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import yaml

from my_custom_ai.custom_train import run_directory
from my_custom_ai.custom_train.run_directory import RunDirectory


def test_versions_count_up_from_the_highest(tmp_path):
    for name in ("version_2", "version_10", "version_x", "version_11.bak", "other", "xversion_12"):
        (tmp_path / "exp" / name).mkdir(parents=True)
        (tmp_path / "exp" / name / "config.yaml").touch()
    assert RunDirectory.newest(tmp_path, "exp").path.name == "version_10"
    assert RunDirectory.create(tmp_path, "exp", {}).path == tmp_path / "exp" / "version_11"
    assert RunDirectory.newest(tmp_path, "exp").path.name == "version_11"
    (tmp_path / "exp" / "version_12").mkdir()  # killed before it held anything
    assert RunDirectory.newest(tmp_path, "exp").path.name == "version_11"
    assert RunDirectory.create(tmp_path, "exp", {}).path.name == "version_13"


def test_the_first_is_version_0_and_holds_the_settings(tmp_path):
    assert RunDirectory.newest(tmp_path / "runs", "exp") is None
    settings = {"seed": 1, "name": "ä", "nested": {"b": [1, 2.5, None], "a": True}}
    run = RunDirectory.create(tmp_path / "runs", "exp", settings)
    assert run.path == tmp_path / "runs" / "exp" / "version_0"
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == settings
    assert RunDirectory.newest(tmp_path / "runs", "other") is None


def test_runs_that_start_together_get_a_folder_each(tmp_path):
    n = 16
    together = Barrier(n)

    def create(number):
        together.wait()
        return RunDirectory.create(tmp_path, "exp", {"number": number})

    with ThreadPoolExecutor(n) as pool:
        runs = list(pool.map(create, range(n)))
    assert sorted(int(run.path.name.split("_")[1]) for run in runs) == list(range(n))
    assert [yaml.safe_load(run.config.read_text())["number"] for run in runs] == list(range(n))


def test_a_number_that_was_taken_in_the_meantime_is_passed_over(tmp_path, monkeypatch):
    old = [RunDirectory.create(tmp_path, "exp", {"old": i}) for i in range(2)]
    monkeypatch.setattr(run_directory, "_versions", lambda _: [])
    assert RunDirectory.create(tmp_path, "exp", {}).path.name == "version_2"
    assert [yaml.safe_load(run.config.read_text()) for run in old] == [{"old": 0}, {"old": 1}]


def test_figures_complete_the_folder_of_the_best_weights(tmp_path):
    run = RunDirectory.create(tmp_path, "exp", {"seed": 1})
    run.write_figures({"test/loss": 0.5})
    assert json.loads((run.path / "metrics.json").read_text()) == {"test/loss": 0.5}
    assert json.loads((run.best_weights.parent / "metrics.json").read_text()) == {"test/loss": 0.5}
    assert yaml.safe_load((run.best_weights.parent / "config.yaml").read_text()) == {"seed": 1}


def test_paths_may_be_strings(tmp_path):
    run = RunDirectory.create(str(tmp_path), "exp", {})
    assert RunDirectory.newest(str(tmp_path), "exp").path == RunDirectory(str(run.path)).path == run.path
