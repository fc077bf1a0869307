"""evaluate.py: one true row a model, of whatever kind, and a line about each that cannot be measured."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from tiny_scripts import (
    COSTS,
    TEXT,
    as_yaml,
    assert_states,
    call,
    files_below,
    one_thread,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
)

import dl_proj.experiments.evaluate
from dl_proj.tables import markdown

TABLE = Path("runs/evaluation/evaluation.csv")
RUNS = ("tiny/version_0", "tiny-cls/version_0", "tiny-gen/version_0")
COPY, CLASSIFIER, GENERATOR = RUNS


@pytest.fixture(scope="module")
def runs_once(tmp_path_factory):
    """A folder with a finished run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    trainings = {
        "synth_train": tiny({"model.attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2}}),
        "cls_train": tiny_classifier(),
        "generation_train": tiny_generator({"loss": {"kind": "focal", "gamma": 2.0, "frequency_power": 0.5}}),
    }
    with pytest.MonkeyPatch.context() as patch, one_thread():
        blank_pictures(patch)
        for name, config in trainings.items():
            path = as_yaml(folder / "c.yaml", config | {"runs_dir": str(folder)})
            assert call(name, "--config", path, "--train.trackers", "[]").code == 0
    return folder


@pytest.fixture
def runs(runs_once, tmp_path):
    """The same in this test's own folder, where it may spoil them."""
    shutil.copytree(runs_once, tmp_path / "trained")
    return Path("trained")


@pytest.fixture(autouse=True)
def blank(monkeypatch):
    blank_pictures(monkeypatch)


def blank_pictures(patch):
    """They take longer than the measuring; here they stay empty files."""
    patch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())


def rows_of(path=TABLE):
    with path.open(newline="") as file:
        return {row.pop("checkpoint"): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}


def recorded(run):
    """The training's own test figures, as a row of the table names them."""
    figures = json.loads((run / "metrics.json").read_text())
    left_out = COSTS | {"steps"}
    return {"training seconds": figures["seconds"]} | {
        name.removeprefix("test/"): value for name, value in figures.items() if name not in left_out
    }


def numbers(row):
    return {name: float(value) for name, value in row.items() if name not in ("task", "attention")}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_folder_of_runs_gives_each_runs_own_figures(runs, script):
    outcome = script("evaluate", "--checkpoint", runs, "--device", "cpu", "--batch_size", "7")
    assert outcome.code == 0
    rows = rows_of()
    assert tuple(rows) == RUNS
    for name, row in rows.items():
        expected = recorded(runs / name)
        for own in ("generated_accuracy", "state_bytes"):  # of the copying training alone
            expected.pop(own, None)
        assert numbers(row) == pytest.approx(expected, rel=1e-5)
        weights = load_file(runs / name / "checkpoints/best/model.safetensors")
        assert int(row["parameters"]) == sum(tensor.numel() for tensor in weights.values())
    kinds = [(row["task"], row["attention"]) for row in rows.values()]
    assert kinds == [("copy", "LSH-2"), ("classification", "full"), ("generation", "shared_qk")]
    assert files_below("runs/evaluation") == {
        "evaluation.csv",
        f"{CLASSIFIER}/confusion.csv",
        f"{CLASSIFIER}/confusion.png",
    }
    assert (TABLE.parent / CLASSIFIER / "confusion.csv").read_text() == (
        runs / CLASSIFIER / "confusion.csv"
    ).read_text()
    assert outcome.out.splitlines()[-1] == f"written: {TABLE}"


def test_a_table_is_printed_for_each_task(runs, script):
    shutil.copytree(runs / GENERATOR, runs / "again/version_0")
    out = script("evaluate", "--checkpoint", runs, "--device", "cpu").out
    common = ["checkpoint", "task", "attention", "parameters", "training seconds", "loss"]
    tables = [part.splitlines() for part in out.split("\n\n") if part.startswith("|")]
    found, figures = rows_of(), {}
    for header, rule, *lines in tables:
        assert set(rule) == set("|- ")
        assert len({len(line) for line in (header, rule, *lines)}) == 1, "aligned"
        columns = cells(header)
        for line in lines:
            name, *values = cells(line)
            figures[name] = columns[len(common) :]
            row = found[name]
            for column, value in zip(columns[1:], values, strict=True):
                if column == "accuracy 95 %":
                    assert value == f"{float(row['accuracy_low']):.4f} to {float(row['accuracy_high']):.4f}"
                else:
                    assert (
                        value == row[column] if column in common[:4] else float(value) == round(float(row[column]), 4)
                    )
        assert columns[: len(common)] == common
    assert [len(lines) - 2 for lines in tables] == [2, 1, 1]
    assert figures == {
        COPY: ["accuracy", "accuracy 95 %"],
        CLASSIFIER: ["accuracy", "accuracy 95 %"],
        GENERATOR: ["bits_per_dim"],
        "again/version_0": ["bits_per_dim"],
    }, "what belongs to one class stands in the CSV alone"


def test_long_figures_are_cut_and_missing_ones_left_empty():
    rows = [{"checkpoint": "a", "training seconds": 1234.56, "loss": 0.123456}, {"checkpoint": "bcd", "loss": 2.0}]
    assert markdown(rows).splitlines() == [
        "| checkpoint | training seconds | loss   |",
        "| ---------- | ---------------- | ------ |",
        "| a          | 1235             | 0.1235 |",
        "| bcd        |                  | 2.0000 |",
    ]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_and_its_best_folder_by_themselves(name, runs, script):
    run = runs / name
    found = []
    for folder in (run, run / "checkpoints/best"):
        assert script("evaluate", "--checkpoint", folder, "--device", "cpu", "--output_dir", "out").code == 0
        ((called, row),) = rows_of(Path("out/evaluation.csv")).items()
        assert called == str(folder)
        found.append(row)
    assert found[0] == found[1]
    assert float(found[0]["loss"]) == pytest.approx(recorded(run)["loss"], rel=1e-5)


@pytest.mark.parametrize("below", [CLASSIFIER, f"{CLASSIFIER}/checkpoints"])
def test_any_folder_around_the_weights(below, runs, script):
    """Also one between a run and its best weights."""
    (runs / CLASSIFIER / "checkpoints/best").joinpath("config.yaml").unlink()
    (runs / CLASSIFIER / "checkpoints/best").joinpath("metrics.json").unlink()
    outcome = script("evaluate", "--checkpoint", runs / below, "--device", "cpu")
    assert outcome.code == 0, outcome.lines
    ((_, row),) = rows_of().items()
    assert float(row["accuracy"]) == pytest.approx(recorded(runs / CLASSIFIER)["accuracy"])


@pytest.mark.parametrize("spelled", ["whole", "above"])
def test_all_that_is_written_lands_in_the_output_folder(spelled, runs, script, monkeypatch):
    """However a run's path is written; the run's own files stay as they are."""
    run = runs / CLASSIFIER
    (run / "confusion.csv").write_text("the run's own")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    name = os.path.join("..", run) if spelled == "above" else (Path("..") / run).resolve()
    assert script("evaluate", "--checkpoint", name, "--device", "cpu", "--output_dir", "out").code == 0
    monkeypatch.chdir("..")
    new = {path for path in Path().rglob("*") if path.is_file() and path.stat().st_mtime_ns != before.get(path)}
    assert {path.name for path in new} == {"evaluation.csv", "confusion.csv", "confusion.png"}
    assert all(path.is_relative_to("elsewhere/out") for path in new)


def spoil_config(run, values):
    for path in (run / "config.yaml", run / "checkpoints/best/config.yaml"):
        path.write_text(yaml.safe_dump(values))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


SPOILS = {
    "an unknown setting": (
        lambda run: spoil_config(run, tiny_classifier({"task": "classification", "model.width": 3})),
        "model.width: no such setting",
    ),
    "another task": (lambda run: spoil_config(run, tiny_classifier({"task": "poetry"})), "task: must be one of copy, "),
    "no task": (lambda run: spoil_config(run, tiny_classifier()), "task: must be one of copy, "),
    "a task that is no word": (lambda run: spoil_config(run, {"task": ["copy"]}), "task: must be one of copy, "),
    "no mapping": (lambda run: spoil_config(run, [1]), "must hold 'key: value' lines"),
    "truncated weights": (
        lambda run: truncate(run / "checkpoints/best/model.safetensors"),
        "not a complete safetensors",
    ),
    "weights of another model": (
        lambda run: spoil_config(run, tiny_classifier({"task": "classification", "model.dim": 12})),
        "weights of another model",
    ),
    "images that are gone": (
        lambda run: spoil_config(
            run,
            tiny_classifier(
                {"task": "classification", "data": {"dataset": "image_folder", "root": "gone", "image_size": 8}}
            ),
        ),
        "gone/train must be a folder",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_one_broken_run_does_not_keep_the_others_from_their_rows(spoil, runs, script):
    expected = [recorded(runs / name)["loss"] for name in (COPY, GENERATOR)]
    break_it, complaint = SPOILS[spoil]
    break_it(runs / CLASSIFIER)
    outcome = script("evaluate", "--checkpoint", runs, "--device", "cpu")
    assert outcome.code == 2
    assert complaint in outcome.lines[-1]
    if spoil != "images that are gone":  # whose line says where they should be
        assert str(runs / CLASSIFIER) in outcome.lines[-1], "whose"
    rows = rows_of()
    assert tuple(rows) == (COPY, GENERATOR)
    assert [float(row["loss"]) for row in rows.values()] == pytest.approx(expected, rel=1e-5)
    assert outcome.out.count("\n| tiny") == 2


def test_every_broken_run_is_complained_about(runs, script):
    for name in RUNS:
        truncate(runs / name / "checkpoints/best/model.safetensors")
    outcome = script("evaluate", "--checkpoint", runs, "--device", "cpu")
    assert outcome.code == 2
    complaints = [line for line in outcome.lines if "not a complete safetensors file" in line]
    assert [line.split("/checkpoints")[0] for line in complaints] == [str(runs / name) for name in RUNS]
    assert not TABLE.exists()


def test_a_name_that_is_nothing(script):
    Path("empty").mkdir()
    for name in ("nothing", "empty"):
        outcome = script("evaluate", "--checkpoint", name, "--device", "cpu")
        assert outcome.code == 2
        assert len(outcome.lines) == 1
        assert outcome.lines[0].startswith(f"'{name}' is neither a folder")
    assert files_below(".") == set()


def test_data_root_says_where_the_images_are_now(runs, script):
    """It is for image models; copying has no files."""
    for name, colour in (("a", 0), ("b", 255)):
        for split in ("train", "test"):
            Path("pictures", split, name).mkdir(parents=True)
            for number in range(10):
                path = Path("pictures", split, name, f"{number}.png")
                Image.fromarray(np.full((8, 8), colour, dtype=np.uint8)).save(path)
    data = {"dataset": "image_folder", "root": "pictures", "image_size": 8, "patch_size": 4}
    config = tiny_classifier({"experiment_name": "own", "runs_dir": str(runs), "data": data, "train.trackers": []})
    assert script("cls_train", "--config", as_yaml("c.yaml", config)).code == 0
    Path("pictures").rename("moved")
    flags = ("--checkpoint", runs, "--device", "cpu")
    outcome = script("evaluate", *flags)
    assert outcome.code == 2
    assert "pictures/train" in outcome.lines[-1]
    assert tuple(rows_of()) == RUNS
    assert script("evaluate", *flags, "--data.root", "moved").code == 0
    rows = rows_of()
    assert tuple(rows) == ("own/version_0", *RUNS)
    assert numbers(rows["own/version_0"]) == pytest.approx(recorded(runs / "own/version_0"), rel=1e-5)


@pytest.fixture
def reader(runs):
    """Beside the other runs, one of a model of text."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    config = tiny_language({"experiment_name": "reader", "runs_dir": str(runs), "train.trackers": []})
    assert call("lm_train", "--config", as_yaml("c.yaml", config)).code == 0
    return runs / "reader/version_0"


def test_another_text_is_measured_as_if_it_were_the_models_own(runs, reader, script):
    """Its last tenth; models without such a setting are measured as they are."""
    flags = ("--checkpoint", runs, "--device", "cpu")
    Path("other.txt").write_text(TEXT[::-1], encoding="utf-8")
    assert script("evaluate", *flags).code == 0
    before = rows_of()
    Path("text.txt").unlink()
    assert script("evaluate", *flags, "--data.path", "other.txt").code == 0
    after = rows_of()
    assert {name: row for name, row in after.items() if row["task"] != "language"} == {
        name: before[name] for name in RUNS
    }
    assert float(after["reader/version_0"]["loss"]) > float(before["reader/version_0"]["loss"])
    config = tiny_language({"data.path": "other.txt", "experiment_name": "other"})
    spoil_config(reader, {"task": "language"} | config)
    assert script("evaluate", *flags[:1], reader, *flags[2:]).code == 0
    assert rows_of()[str(reader)]["loss"] == after["reader/version_0"]["loss"]


def test_data_settings_that_no_model_has(runs, script):
    for checkpoint in (runs, runs / COPY):
        outcome = script("evaluate", "--checkpoint", checkpoint, "--device", "cpu", "--data.path", "x")
        assert outcome.code == 2
        assert_states(outcome.lines[-1], "data.path", str(checkpoint))


def test_data_that_several_models_lack_is_said_once(runs, script):
    data = {"dataset": "image_folder", "root": "gone", "image_size": 8}
    shutil.copytree(runs / CLASSIFIER, runs / "twin/version_0")
    for name in (CLASSIFIER, "twin/version_0"):
        spoil_config(runs / name, tiny_classifier({"task": "classification", "data": data}))
    outcome = script("evaluate", "--checkpoint", runs, "--device", "cpu")
    assert outcome.code == 2
    assert [line for line in outcome.lines if "gone/train" in line] == outcome.lines[-1:]


def test_a_run_without_figures_has_no_seconds(runs, script):
    """One that is still training, or was stopped."""
    for name in RUNS:
        (runs / name / "metrics.json").unlink()
        for path in (runs / name / "checkpoints/best").glob("[!m]*"):
            path.unlink()
        (runs / name / "checkpoints/best/metrics.json").unlink()
    assert script("evaluate", "--checkpoint", runs, "--device", "cpu").code == 0
    assert [("training seconds" in row, "loss" in row) for row in rows_of().values()] == [(False, True)] * 3


def test_the_model_is_measured_in_batches_of_the_size_asked_for(runs, script, monkeypatch):
    sizes = []
    batches = dl_proj.experiments.evaluate.evaluation_batches

    def watch(data, batch_size):
        sizes.append(batch_size)
        return batches(data, batch_size=batch_size)

    monkeypatch.setattr(dl_proj.experiments.evaluate, "evaluation_batches", watch)
    assert script("evaluate", "--checkpoint", runs / GENERATOR, "--device", "cpu", "--batch_size", "17").code == 0
    assert sizes == [17]
