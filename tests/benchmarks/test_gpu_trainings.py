"""Trainings on a GPU, rehearsed on a CPU: what is called, what a cut leaves, what the tables say."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import trainings
from benchmarks.gpu.experiments import EXPERIMENTS
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Deadline
from benchmarks.gpu.training_tables import HORN, mean_and_deviation, tables
from benchmarks.gpu.trainings import Case, Place, all_cases, run_case, train_missing
from dl_proj.cli import config_from
from dl_proj.commands import run_script
from dl_proj.experiments import sweep as sweeping
from dl_proj.experiments.sweep_settings import SweepConfig
from my_custom_ai.custom_train import RunDirectory

ROOT = Path(__file__).parents[2]
NEVER = Deadline(float("inf"))


def results_in(folder):
    return Results(folder / "trainings.json", stage="trainings", device=torch.device("cpu"), tiny=True)


def place_in(folder, tiny=True):
    return Place("cpu", folder / "real", folder / "trainings", tiny)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def called_here(monkeypatch):
    """Scripts are called in this process, which has imported all; gives the lists of commands."""
    calls = []

    def call(commands, log, deadline):
        calls.append(commands)
        for name, *flags in commands:
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
            run_script(name)
        return 0

    monkeypatch.setattr(trainings, "_call", call)
    return calls


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_a_call_trains_the_presets_variant_with_its_seed_and_data(experiment, tmp_path):
    place = place_in(tmp_path, tiny=False)
    for variant in experiment.seconds:
        _, *flags = trainings._training_command(Case(experiment, variant, 3), place)
        sweep = config_from(SweepConfig, flags, preset="sweep_lm_books.yaml")
        assert sweep.only == (f"{variant}-seed3",)
        found = {each.trial.run_name: each.config for each in sweeping._trainings(sweep)}
        every = {f"{name}-seed{seed}" for name in experiment.seconds for seed in (1, 2, 3)}
        assert set(found) == every, "each variant of the preset, and no other"
        (chosen,) = (found[name] for name in sweep.only)
        assert chosen.seed == 3
        assert chosen.train.device == "cpu"
        assert chosen.runs_dir == tmp_path / "trainings" / experiment.name
    data = json.loads(chosen.data.model_dump_json())
    where = {
        "copy": None,
        "mnist": data.get("root"),
        "books": data.get("path"),
        "multi30k": data.get("corpus", {}).get("folder"),
        "listops": None,
        "recall": None,
        "pathfinder": None,
    }[experiment.name]
    assert where is None or where.startswith(str(tmp_path / "real"))


def test_all_is_trained_once_before_any_second_seed():
    cases = all_cases(tiny=False)
    n_variants = sum(len(experiment.seconds) for experiment in EXPERIMENTS.values())
    assert len({case.key for case in cases}) == len(cases) == 3 * n_variants
    assert [case.seed for case in cases] == [1] * n_variants + [2] * n_variants + [3] * n_variants


@pytest.mark.slow
def test_a_rehearsal_trains_tests_and_keeps_each_and_a_second_call_nothing(called_here, tmp_path, capsys):
    results, place = results_in(tmp_path), place_in(tmp_path)
    train_missing(all_cases(tiny=True), results, place, NEVER)
    assert [commands[0][0] for commands in called_here] == ["sweep"] * 7
    tests = [commands[1][0] for commands in called_here if len(commands) > 1]
    assert tests == ["synth_models_comparison", "translation_evaluate", "shift_test"]
    kept = json.loads(results.path.read_text())["cases"]
    copy, multi30k, listops, recall, books, mnist, pathfinder = kept.values()
    assert [values["variant"] for values in kept.values()] == [
        *("lsh-2", "vanilla", "performer-256", "performer-32", "lsh-2", "relative", "linformer-256")
    ]
    assert list(copy["test"]) == ["full", "LSH-8", "LSH-4", "LSH-2", "LSH-1"]
    assert list(mnist["test"]) == ["-1", "0", "1"]
    shifts = rows(tmp_path / "trainings/mnist/relative-seed1/test/shifts.csv")
    assert mnist["test"]["1"] == pytest.approx(100 * float(shifts[2]["accuracy"]))
    assert 0 < books["figures"]["test/bits_per_byte"] < 16
    assert {"BLEU", "chrF", "perplexity"} <= set(multi30k["test"])
    assert all(0 <= values["figures"]["test/accuracy"] <= 1 for values in (listops, pathfinder))
    assert recall["figures"]["state_bytes"] == 4 * 2 * (32 * (8 + 1) + 1)  # a layer of two heads of 8 numbers
    assert all(values["figures"]["steps"] == 4 for values in kept.values())
    per_update = {"copy": 8 * 132, "mnist": 8 * 65, "books": 4 * 128}
    for values in (copy, mnist, books):
        tokens = values["tokens_per_second"] * values["seconds_per_update"]
        assert tokens == pytest.approx(per_update[values["experiment"]], rel=1e-3)
    assert len(tables(json.loads(results.path.read_text()))) == len(EXPERIMENTS)
    train_missing(all_cases(tiny=True), results_in(tmp_path), place, NEVER)
    assert len(called_here) == len(EXPERIMENTS)


class UntilSaved:
    """A deadline that comes when a run has saved the state of some updates."""

    def __init__(self, run):
        self.run = run

    def left(self):
        return 0.0 if self.run.metrics.exists() and rows(self.run.metrics) else 60.0  # the state at step 0 has none


@pytest.mark.slow
def test_a_training_that_is_cut_goes_on_from_its_saved_state(tmp_path, capsys):
    pace = {"train.max_steps": 150, "train.eval_every": 150, "train.save_every": 10, "train.log_every": 10}
    experiment = EXPERIMENTS["books"]
    results, place = results_in(tmp_path), place_in(tmp_path)
    case = Case(replace(experiment, tiny=experiment.tiny | pace), "full", 1)
    run = RunDirectory(tmp_path / "trainings/books/full-seed1/version_0")
    assert run_case(case, results, place, UntilSaved(run)) == "cut"
    assert not results.has(case.key) and not results.path.exists()
    before = [(row["step"], row["seconds"]) for row in rows(run.metrics)]
    assert 0 < len(before) < 15
    assert run_case(case, results, place, NEVER) == "done"
    after = [(row["step"], row["seconds"]) for row in rows(run.metrics)]
    assert after[0] == before[0], "what was saved was trained again"  # later rows may be newer than the saved state
    assert [path.name for path in run.path.parent.glob("version_*")] == ["version_0"]
    assert results.found["cases"][case.key]["figures"]["steps"] == 150


@pytest.mark.slow
def test_scripts_end_with_who_started_them():
    command = [sys.executable, "-m", "benchmarks.gpu.call_scripts", json.dumps([["sweep", "--help"]])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    process.stdin.close()
    assert process.wait(60) == 1
    assert process.stdout.read() == b""
    process.stdout.close()


def begun(case, place, seconds):
    run = RunDirectory.create(trainings._case_folder(case, place).parent, case.run_name, {})
    run.metrics.write_text(f"step,seconds,val/loss\n1,{seconds},\n1,,2.0\n")


def test_what_was_begun_comes_first_and_what_ends_in_time_before_what_does_not(tmp_path):
    place, results = place_in(tmp_path, tiny=False), results_in(tmp_path)
    cases = [Case(EXPERIMENTS[name], variant, 1) for name, variant in (("copy", "full"), ("mnist", "relative"))]
    copy, mnist = cases
    expected = trainings.expected_seconds

    def chosen(seconds):
        return trainings._next(cases, results, place, Deadline(seconds))

    assert expected(copy, results, place) < 200 < expected(mnist, results, place)
    assert chosen(1000) == chosen(200) == copy
    assert chosen(20) == copy, "it is begun although it will be cut"
    begun(mnist, place, 400)
    assert expected(mnist, results, place) == mnist.experiment.seconds["relative"] - 400
    assert chosen(1000) == chosen(100) == mnist
    results.add("copy/full/seed-2", {"experiment": "copy", "variant": "full", "figures": {"seconds": 30.0}})
    assert expected(copy, results, place) == pytest.approx(1.1 * 30 + 20)
    results.add("mnist/relative/seed-2", {"experiment": "mnist", "variant": "relative", "figures": {"seconds": 2000.0}})
    assert chosen(100) == copy, "mnist would not end"


@pytest.mark.parametrize(
    ("log", "error", "lasting"),
    [
        ("data.path: data/books is not there\n", "data.path: data/books is not there", False),
        ("", "exit code 1", False),
        (
            "x\ntorch.OutOfMemoryError: CUDA out of memory.\n  0%|   \rbye\n",
            "torch.OutOfMemoryError: CUDA out of memory.",
            True,
        ),
        ("stopped: full: the loss became nan at step 7\n", "stopped: full: the loss became nan at step 7", True),
    ],
)
def test_a_failure_is_kept_and_tried_again_unless_it_would_come_again(log, error, lasting, monkeypatch, tmp_path):
    place, results = place_in(tmp_path), results_in(tmp_path)
    case = all_cases(tiny=True)[0]

    def fail(commands, path, deadline):
        path.parent.mkdir(parents=True)
        path.write_text(log)
        return 1

    monkeypatch.setattr(trainings, "_call", fail)
    assert run_case(case, results, place, NEVER) == "failed"
    assert results.found["cases"][case.key]["error"] == error
    assert results.has(case.key) == lasting
    assert tables(results.found) == {"Trainings that failed": [{"training": case.key, "error": error}]}


def done(experiment, variant, seed, figures, test, tokens=1000.4):
    values = {"experiment": experiment, "variant": variant, "seed": seed, "test": test, "tokens_per_second": tokens}
    return {f"{experiment}/{variant}/seed-{seed}": values | {"figures": {"steps": 100, "seconds": 90.0} | figures}}


def test_tables_hold_means_deviations_and_the_papers_figures():
    ways = ["full", "LSH-8", "LSH-4", "LSH-2", "LSH-1"]
    cases = {}
    for seed, accuracy in ((1, 99.0), (2, 100.0), (3, 98.0)):
        cases |= done("copy", "lsh-4", seed, {"steps": 100 * seed}, dict.fromkeys(ways, accuracy))
    shifts = {str(shift): 50.0 + shift for shift in range(-8, 9)}
    cases |= done("mnist", "relative", 1, {"parameters": 7, "test/accuracy": 0.98}, shifts)
    cases |= done("books", "full", 1, {"parameters": 5, "test/bits_per_byte": 2.0}, {})
    cases |= done("books", "lsh-2", 1, {"parameters": 5, "test/bits_per_byte": 2.1}, {})
    scores = {"BLEU": 33.0, "chrF": 55.5, "perplexity": 7.25, "sentences": 1000}
    cases |= done("multi30k", "vanilla", 1, {"parameters": 3, "test/bleu": 30.0}, scores, tokens=None)
    for task in ("listops", "pathfinder"):
        cases |= done(task, "lsh-2", 1, {"parameters": 3, "test/accuracy": 0.371}, {})
    recalled = {"state_bytes": 99, "test/accuracy": 0.5, "test/decoded_accuracy": 0.25}
    cases |= done("recall", "full", 1, recalled, {})
    found = tables({"cases": cases})
    (copy,), (vanilla,), (listops,), (pathfinder,), (recall,), (full, lsh), (mnist,) = found.values()
    assert copy == {
        "trained with": "LSH-4",
        "seeds": 3,
        "updates": 200,
        "eval full": "99.00 ± 1.00 (0.8)",
        "eval LSH-8": "99.00 ± 1.00 (100.0)",
        "eval LSH-4": "99.00 ± 1.00 (99.9)",
        "eval LSH-2": "99.00 ± 1.00 (99.4)",
        "eval LSH-1": "99.00 ± 1.00 (91.9)",
        "minutes": "1.5",
        "tokens per second": 1000,
    }
    assert mnist["test accuracy"] == "98.00 (98.8)"
    assert [key for key in mnist if key.startswith("moved")] == [f"moved by {s}" for s in (-8, -4, -2, 0, 2, 4, 8)]
    assert mnist["moved by -8"] == "42.0 (100.0)" and mnist["moved by 8"] == "58.0 (99.6)"
    assert (full["to full"], lsh["to full"]) == ("+0.0 %", "+5.0 %")
    assert lsh["test bits per byte"] == "2.100"
    assert (vanilla["BLEU"], vanilla["BLEU, greedy"], vanilla["perplexity"]) == ("33.00", "30.00", "7.25")
    assert "tokens per second" not in vanilla
    assert (listops["test accuracy"], listops["Tay et al. 2021, table 1"]) == ("37.10", "37.27")
    assert pathfinder["Tay et al. 2021, table 1"] == "68.50"
    assert (recall["state, bytes"], recall["test accuracy"], recall["decoded"]) == (99, "50.00", "25.00")
    assert tables({"cases": {}}) == {}


def test_a_deviation_is_that_of_a_sample():
    assert mean_and_deviation([1.0, 2.0, 3.0, 4.0], 3) == "2.500 ± 1.291"
    assert mean_and_deviation([1.0]) == "1.00"


def test_the_paper_has_a_figure_for_each_classifier():
    assert set(HORN) == set(EXPERIMENTS["mnist"].seconds)


def test_another_cards_results_are_refused(monkeypatch, capsys, tmp_path):
    path = tmp_path / "trainings.json"
    other = {"stage": "trainings", "machine": {"device": "another", "torch": torch.__version__}, "tiny": True}
    path.write_text(json.dumps(other | {"cases": {}, "complete": False}))
    monkeypatch.setattr(sys, "argv", ["trainings", "--device", "cpu", "--tiny", "--output", str(path)])
    with pytest.raises(SystemExit) as end:
        trainings.main()
    assert end.value.code == 2
    assert "'another'" in capsys.readouterr().err


def test_data_is_where_the_environment_says(monkeypatch):
    parser = SimpleNamespace(add_argument=lambda name, **settings: given.update({name: settings}))
    given = {}
    for value, expected in (("/somewhere", "/somewhere"), ("", "data")):
        monkeypatch.setenv("DL_PROJ_TEST_DATA", value)
        trainings._add_options(parser)
        assert given["--data_root"]["default"] == Path(expected)
