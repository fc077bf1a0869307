"""sweep.py: every variant trained once, whatever interrupts it, and compared by the runs' own figures."""

import csv
import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from tiny_scripts import (
    COSTS,
    GONE,
    TEXT,
    as_yaml,
    assert_refused,
    changed,
    files_below,
    saved_tensors,
    tiny,
    tiny_generator,
    tiny_language,
)

from dl_proj.experiments.copy.objective import CopyObjective
from dl_proj.experiments.history import Point
from dl_proj.experiments.sweep_report import at_equal_time
from dl_proj.experiments.sweep_settings import SweepConfig, nested
from my_custom_ai.custom_train.running import locked
from my_custom_ai.utils.measure import device_title

OUT = Path("out")
PACE = {"max_steps": 8, "batch_size": 8, "eval_every": 4, "save_every": 2, "log_every": 2, "device": "cpu"}
SWEEP = {
    "base": "base.yaml",
    "output_dir": "out",
    "variants": {
        "plain": {},
        "hashed": {"model.attention": {"kind": "lsh", "bucket_size": 4}, "model.attention.n_rounds": 2},
        "wide": {"model.dim": 24, "optimizer.lr": 0.02},
    },
}


VARIANTS = ("plain", "hashed", "wide")


@pytest.fixture(autouse=True)
def base(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    settings = {"task": "copy", "train": PACE | {"trackers": []}, "model.dropout": 0.1}
    as_yaml("base.yaml", tiny(settings))


def swept(script, changes=None, *flags):
    as_yaml("sweep.yaml", changed(SWEEP, changes))
    return script("sweep", "--config", "sweep.yaml", *flags)


def table():
    with (OUT / "sweep.csv").open(newline="") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def config_of(name):
    return yaml.safe_load((OUT / name / "version_0/config.yaml").read_text())


def figures_of(name):
    return json.loads((OUT / name / "version_0/metrics.json").read_text())


def history_of(name):
    with (OUT / name / "version_0/metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def calls(monkeypatch):
    """How often each width was trained on."""
    measure, found = CopyObjective.measure, []

    def counted(self, model, batch):
        found.append(model.embedding.embedding_dim if model.training else 0)
        return measure(self, model, batch)

    monkeypatch.setattr(CopyObjective, "measure", counted)
    return found


def test_second_sweep_of_a_folder_is_refused(script):
    with locked(OUT):
        assert_refused(swept(script), [(str(OUT), "pid", os.getpid())])


def test_every_variant_is_a_run_with_its_settings(script):
    outcome = swept(script)
    assert outcome.code == 0, outcome.lines
    drawn = {f"{name}.{suffix}" for name in ("sweep", "sweep_time", "sweep_test") for suffix in ("png", "pdf")}
    assert {path.name for path in OUT.iterdir()} == {*VARIANTS, ".lock", "sweep.csv", "curves.csv", *drawn}
    expected = yaml.safe_load(Path("base.yaml").read_text())
    for name, changes in {
        "plain": {},
        "hashed": {"model.attention": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}},
        "wide": {"model.dim": 24, "optimizer.lr": 0.02},
    }.items():
        expected_too = changed(expected, changes | {"experiment_name": name, "runs_dir": "out"})
        assert_within(config_of(name), expected_too)
    assert script("synth_train", "--config", "base.yaml", "--experiment_name", "plain", "--runs_dir", "alone").code == 0
    alone, own = (saved_tensors(folder / "plain/version_0") for folder in (Path("alone"), OUT))
    assert [name for name in alone if not torch.equal(alone[name], own[name])] == [], "as the script trains it"


def assert_within(config, settings):
    for key, value in settings.items():
        assert_within(config[key], value) if isinstance(value, dict) else None
        assert isinstance(value, dict) or config[key] == value


def test_the_table_has_each_runs_figures(script):
    outcome = swept(script)
    rows = table()
    assert list(rows) == ["plain", "hashed", "wide"]
    for name, row in rows.items():
        figures = figures_of(name)
        for key, value in figures.items():
            assert row[key] == value if key == "device" else float(row[key]) == pytest.approx(value), key
        evaluated = {int(r["step"]): r for r in history_of(name) if r["val/loss"]}
        best = min(evaluated, key=lambda step: float(evaluated[step]["val/loss"]))
        assert int(row["best step"]) == best
        for key in ("val/loss", "val/accuracy"):
            assert float(row[key]) == pytest.approx(float(evaluated[best][key]), rel=1e-6)
    settings = [
        (row["model.attention.kind"], row["model.attention.n_rounds"], row["model.dim"]) for row in rows.values()
    ]
    assert settings == [("", "", ""), ("lsh", "2", ""), ("", "", "24")]
    header, _, *lines = [line for line in outcome.out.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[:4] == ["variant", "parameters", "seconds", "steps"]
    assert "val loss" in columns and "test accuracy" in columns and not {"model.dim", "device"} & {*columns}
    assert f"trained on: {device_title(torch.device('cpu'))}" in outcome.out.splitlines()
    for line, (name, row) in zip(lines, rows.items(), strict=True):
        cells = dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        assert cells["variant"] == name
        assert float(cells["test loss"]) == round(float(row["test/loss"]), 4)
    files = ("sweep.csv", "curves.csv", "sweep.png", "sweep_time.png", "sweep_test.png")
    assert outcome.out.splitlines()[-1].startswith(f"written: {', '.join(f'out/{name}' for name in files)};")


@pytest.fixture
def drawn(monkeypatch):
    """Figures by the names of their files."""
    found = {}

    def keep(figure, path, **settings):
        found[re.sub(r"\.[^.]+\.part$", "", Path(path).name)] = figure
        Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


def test_the_pictures_have_a_curve_a_variant(script, drawn):
    assert swept(script, {"metric": "val/accuracy"}).code == 0
    (panel,) = drawn["sweep.png"].axes
    assert panel.get_ylabel() == "validation accuracy"
    curves = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panel.lines}
    assert list(curves) == ["plain", "hashed", "wide"]
    for name, points in curves.items():
        values = [(int(r["step"]), float(r["val/accuracy"])) for r in history_of(name) if r["val/accuracy"]]
        assert points == values and len(points) == 2
    (panel,) = drawn["sweep_time.png"].axes
    for line in panel.lines:
        with (OUT / line.get_label() / "version_0/metrics.csv").open(newline="") as file:
            timed = [(int(row["step"]), float(row["seconds"])) for row in csv.DictReader(file) if row["seconds"]]
        expected = [sum(seconds for at, seconds in timed if at <= step) for step in (4, 8)]
        assert list(line.get_xdata()) == pytest.approx(expected)
        assert list(line.get_ydata()) == [value for _, value in curves[line.get_label()]]


SEEDS = {"seeds": [3, 1], "metric": "val/loss"}


def test_seeds_give_means_and_deviations(script, drawn):
    outcome = swept(script, SEEDS | {"variants": {"plain": {}, "wide": {"model.dim": 24}}})
    assert outcome.code == 0, outcome.lines
    for variant, row in table().items():
        runs = [f"{variant}-seed{seed}" for seed in (3, 1)]
        assert [config_of(run)["seed"] for run in runs] == [3, 1]
        assert row["seeds"] == "2"
        for name in ("test/loss", "test/accuracy", "examples_per_second", "peak_memory_mib"):
            values = [figures_of(run)[name] for run in runs]
            assert float(row[name]) == pytest.approx(np.mean(values)), name
            assert float(row[f"{name} std"]) == pytest.approx(np.std(values, ddof=1)), name
        losses = [figures_of(run)["test/loss"] for run in runs]
        assert losses[0] != losses[1]
        shown = f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}"
        (line,) = (line for line in outcome.out.splitlines() if line.startswith(f"| {variant} "))
        assert shown in line
    with (OUT / "runs.csv").open(newline="") as file:
        rows = [(row["variant"], row["seed"], float(row["test/loss"])) for row in csv.DictReader(file)]
    assert rows == [(v, str(s), figures_of(f"{v}-seed{s}")["test/loss"]) for v in ("plain", "wide") for s in (3, 1)]
    (panel,) = drawn["sweep.png"].axes
    for line, band in zip(panel.lines, panel.collections, strict=True):
        values = np.array(
            [
                [float(row["val/loss"]) for row in history_of(f"{line.get_label()}-seed{seed}") if row["val/loss"]]
                for seed in (3, 1)
            ]
        )
        assert list(line.get_ydata()) == pytest.approx(values.mean(0))
        low, high = values.mean(0) - values.std(0, ddof=1), values.mean(0) + values.std(0, ddof=1)
        outline = band.get_paths()[0].vertices[:, 1]
        assert {*np.round([*low, *high], 6)} <= {*np.round(outline, 6)}


def test_a_list_is_a_setting_of_one_cell(script):
    outcome = swept(script, SEEDS | {"variants": {"moments": {"optimizer.betas": [0.8, 0.9]}, "plain": {}}})
    assert outcome.code == 0, outcome.lines
    assert [row["optimizer.betas"] for row in table().values()] == ["[0.8, 0.9]", ""]


def test_the_report_says_what_is_within_the_noise(script, drawn):
    """Two variants that hardly differ, and one that cannot learn."""
    variants = {"plain": {}, "same": {"optimizer.eps": 2e-8}, "stuck": {"optimizer.lr": 1e-9}}
    changes = SEEDS | {"variants": variants, "common": {"train.max_steps": 40, "train.eval_every": 4}}
    outcome = swept(script, changes)
    assert outcome.code == 0, outcome.lines
    losses = {v: [figures_of(f"{v}-seed{s}")["test/loss"] for s in (3, 1)] for v in variants}
    assert max(losses["plain"] + losses["same"]) < min(losses["stuck"])
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("best first by test loss: "))
    best, second = sorted(("plain", "same"), key=lambda name: sum(losses[name]))
    assert line.startswith(f"best first by test loss: {best} ~ {second}, stuck (")
    assert all(row["val/loss at equal time"] for row in table().values()), "they take about as long"
    assert any(line.startswith("at equal time: best val loss within ") for line in outcome.out.splitlines())
    against = {name: row["against the best"] for name, row in table().items()}
    assert against == {best: "best", second: "within the noise", "stuck": "worse"}


def test_values_at_equal_time_are_the_best_until_the_fastest_ended():
    fast = [[Point(1, 1.0, 0.2), Point(2, 2.0, 0.6)], [Point(1, 1.5, 0.4), Point(2, 3.0, 0.5)]]
    slow = [[Point(1, 3.0, 0.9), Point(2, 6.0, 1.0)], [Point(1, 2.0, 0.7), Point(2, 2.5, 0.1), Point(3, 8.0, 1.0)]]
    late = [[Point(1, 3.5, 0.9), Point(2, 4.0, 0.9)], [Point(1, 1.0, 0.9), Point(2, 9.0, 0.9)]]
    seconds, values = at_equal_time({"slow": slow, "fast": fast, "late": late}, "max")
    assert seconds == 3.0
    assert values == {"slow": pytest.approx((0.9 + 0.7) / 2), "fast": pytest.approx((0.6 + 0.5) / 2)}
    assert at_equal_time({"slow": slow, "fast": fast}, "min").values["slow"] == pytest.approx((0.9 + 0.1) / 2)
    assert at_equal_time({"fast": fast}, "max") is None
    assert at_equal_time({"fast": fast, "none": [[], []]}, "max") is None


def test_what_a_sweep_with_seeds_lacks_is_trained_and_the_rest_left(script, calls):
    two = {"variants": {"plain": {}, "wide": {"model.dim": 24}}}
    assert swept(script, two | SEEDS, "--only", "wide").code == 0
    assert {path.name for path in OUT.iterdir() if path.is_dir()} == {"wide-seed3", "wide-seed1"}
    assert swept(script, two | SEEDS, "--only", "plain-seed1").code == 0
    assert calls.count(16) == 8
    assert swept(script, two | {"seeds": [3, 1, 2]}).code == 0
    assert (calls.count(24), calls.count(16)) == (24, 24)
    assert [row["seeds"] for row in table().values()] == ["3", "3"]


def test_many_curves_are_shared_out_among_panels(script, drawn):
    values = {"optimizer.lr": [round(0.001 * n, 3) for n in range(1, 10)]}
    assert swept(script, {"variants": GONE, "values": values, "common": {"train.max_steps": 1}}).code == 0
    panels = drawn["sweep.png"].axes
    drawn_lines = [[(line.get_label(), line.get_color()) for line in panel.lines] for panel in panels]
    assert sorted(map(len, drawn_lines)) == [4, 5]
    assert [label for lines in drawn_lines for label, _ in lines] == list(table())
    for panel, lines in zip(panels, drawn_lines, strict=True):
        assert len({colour for _, colour in lines}) == len(lines)
        drawn["sweep.png"].canvas.draw()
        assert panel.get_legend().get_window_extent().x0 >= panel.get_window_extent().x1, "beside the axes"
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in panels}) == 1


@pytest.mark.slow
def test_side_by_side_leads_to_the_same(script):
    """Three processes, of which two run at a time."""
    variants = {name: SWEEP["variants"][name] for name in ("plain", "hashed")}
    assert swept(script, {"variants": variants}).code == 0
    tensors = {name: tensors_of(name) for name in variants}
    OUT.rename("in_turn")
    broken = {"broken": {"optimizer.lr": 1e30, "train.clip_norm": 0}}
    outcome = swept(script, {"variants": broken | variants}, "--jobs", "2")
    assert outcome.code == 1
    assert outcome.lines[-1].startswith("stopped: broken: exit code 1: the ")
    assert "out/broken/log.txt" in outcome.lines[-1]
    assert list(table()) == list(variants)
    for name in variants:
        again = tensors_of(name)
        assert [key for key in again if not torch.allclose(again[key], tensors[name][key], rtol=1e-4)] == []
        assert "100%" in (OUT / name / "log.txt").read_text()


def test_what_is_finished_is_not_trained_again(script, calls):
    assert swept(script).code == 0
    before, first = (OUT / "sweep.csv").read_text(), len(calls)
    assert swept(script).code == 0
    assert len(calls) == first
    assert (OUT / "sweep.csv").read_text() == before


@pytest.mark.slow
def test_interrupted_sweep_resumes_bit_identical(script, monkeypatch):
    """In the middle of a variant, before its first saved state, and after its training but before its end."""
    assert swept(script).code == 0
    rows = {name: without_seconds(row) for name, row in table().items()}
    tensors, histories = ({name: read(name) for name in rows} for read in (tensors_of, history_of))
    OUT.rename("whole")
    measure, calls = CopyObjective.measure, []

    def interrupted(self, model, batch):
        calls.append(model.training)
        if calls.count(True) in (5, 10, 24) and model.training:  # the second in the second variant's first batches
            raise KeyboardInterrupt
        return measure(self, model, batch)

    monkeypatch.setattr(CopyObjective, "measure", interrupted)
    ends = [swept(script)]
    while ends[-1].code == 130:
        assert ends[-1].lines[-1] == "interrupted; the same command continues the sweep"
        ends.append(swept(script))
    assert [end.code for end in ends] == [130, 130, 130, 0]
    assert {name: without_seconds(row) for name, row in table().items()} == rows
    for name in rows:
        assert history_of(name) == histories[name]
        again = tensors_of(name)
        assert [key for key in again if not torch.equal(again[key], tensors[name][key])] == []
        assert [path.name for path in (OUT / name).iterdir()] == ["version_0"], "resumed, not begun anew"


def tensors_of(name):
    return saved_tensors(OUT / name / "version_0")


def without_seconds(row):
    """Nor what depends on them."""
    return {key: value for key, value in row.items() if key not in COSTS and not key.endswith(" at equal time")}


def test_a_kill_before_the_last_file_does_not_count_as_finished(script, calls):
    """A run's figures are there before all of it is; only the mark at the end says so."""
    assert swept(script).code == 0
    (OUT / "wide/version_0/finished").unlink()
    trained = calls.count(24)
    outcome = swept(script)
    assert outcome.code == 0
    assert calls.count(24) == trained, "no step was left, but it was tested again"
    assert calls.count(0) > 0
    assert (OUT / "wide/version_0/finished").is_file()
    assert list(table()) == ["plain", "hashed", "wide"]


def test_two_processes_share_the_work(script, calls):
    outcome = swept(script, None, "--only", "wide")
    assert outcome.code == 0
    assert set(calls) == {0, 24}
    assert list(table()) == ["wide"]
    assert outcome.out.splitlines()[-1] == "not trained yet: plain, hashed"
    assert swept(script, None, "--only", '["plain", "hashed"]').code == 0
    assert calls.count(24) == 8
    assert list(table()) == ["plain", "hashed", "wide"]


def test_nothing_finished_yet_leaves_no_table(script):
    outcome = swept(script, {"common": {"optimizer.lr": 1e30, "train.clip_norm": 0}}, "--only", "plain")
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "not trained yet: plain, hashed, wide"
    assert not (OUT / "sweep.csv").exists()


def test_a_variant_whose_loss_turns_nan_does_not_stop_the_others(script):
    broken = {"optimizer.lr": 1e30, "train.clip_norm": 0}
    outcome = swept(script, {"variants": {"broken": broken, "plain": {}}})
    assert outcome.code == 1
    assert outcome.lines[-1].startswith("stopped: broken: the ")
    assert list(table()) == ["plain"]


def test_a_failure_is_listed_until_it_is_to_be_retried(script, calls):
    variants = {"broken": {"optimizer.lr": 1e30, "train.clip_norm": 0}, "plain": {}}
    first = swept(script, {"variants": variants})
    reason = first.lines[-1].removeprefix("stopped: broken: ")
    assert (OUT / "broken/failed.txt").read_text().strip() == reason
    done = len(calls)
    outcome = swept(script, {"variants": variants})
    assert (outcome.code, len(calls)) == (1, done), "neither of them is trained"
    assert outcome.lines[-1].endswith(reason) and "--retry" in outcome.lines[-1]
    next(OUT.glob("plain/**/finished")).unlink()
    (OUT / "plain/failed.txt").write_text("its disk was full")
    outcome = swept(script, {"variants": variants}, "--retry", "true")
    assert outcome.code == 1 and len(calls) > done
    assert outcome.lines[-1] == first.lines[-1]
    assert not (OUT / "plain/failed.txt").exists(), "it went on to its end"


@pytest.mark.parametrize(("executor", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_executor_that_is_not_installed_is_refused(executor, package, script, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert_refused(swept(script, None, "--executor", executor), [("executor", executor, package, f"'.[{executor}]'")])
    assert files_below(".") == {"base.yaml", "sweep.yaml"}


def test_slurm_is_refused_where_no_job_can_be_submitted(script, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert_refused(swept(script, None, "--executor", "slurm"), [("executor", "slurm", "sbatch")])


def test_values_are_combined(script):
    values = {"model.dim": [16, 24], "model.reversible": [True, False]}
    as_yaml(
        "sweep.yaml", {"base": "base.yaml", "output_dir": "out", "values": values, "common": {"train.max_steps": 1}}
    )
    assert script("sweep", "--config", "sweep.yaml").code == 0
    names = [f"dim-{dim}_reversible-{way}" for dim in (16, 24) for way in ("true", "false")]
    assert list(table()) == names
    for name in names:
        model = config_of(name)["model"]
        assert name == f"dim-{model['dim']}_reversible-{str(model['reversible']).lower()}"
        assert config_of(name)["train"]["max_steps"] == 1


def test_a_variant_has_the_last_word(script):
    common = {"model.dim": 20, "train.max_steps": 1}
    assert swept(script, {"common": common}, "--only", "plain,wide").code == 0
    assert [config_of(name)["model"]["dim"] for name in ("plain", "wide")] == [20, 24]


TRAININGS = {
    "generation": tiny_generator({"task": "generation"}),
    "language": tiny_language({"task": "language", "train.monitor": {"metric": "val/bits_per_byte"}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TRAININGS)
def test_other_trainings_can_be_swept(task, script):
    Path("text.txt").write_text(TEXT)
    as_yaml("base.yaml", TRAININGS[task] | {"experiment_name": "other"})
    two = {"variants": {"small": {}, "dropped": {"model.dropout": 0.5}}, "common": {"train.trackers": []}}
    assert swept(script, two).code == 0
    rows = table()
    assert [row["model.dropout"] for row in rows.values()] == ["", "0.5"]
    assert all(float(row["test/loss"]) == pytest.approx(figures_of(name)["test/loss"]) for name, row in rows.items())
    assert len({row["test/loss"] for row in rows.values()}) == 2


def test_a_preset_is_found_from_anywhere(script):
    """By its name; what it says of the data is checked when the training starts."""
    changes = {"base": "lm_books.yaml", "variants": {"a": {}}, "common": {"data.path": "nowhere"}}
    assert_refused(swept(script, changes), [("data.path: nowhere",)])


# changes to the sweep, flags, what each line says
MISTAKES = {
    "no such base": ({"base": "none.yaml"}, [], [("none.yaml",)]),
    "neither variants nor values": ({"variants": {}}, [], [("sweep.yaml", "variants", "values")]),
    "variants and values": ({"values": {"seed": [1]}}, [], [("sweep.yaml", "variants", "values")]),
    "a value that is no list": (
        {"variants": {}, "values": {"seed": 1}},
        [],
        [("sweep.yaml: values.seed", 1)],
    ),
    "no values": ({"variants": {}, "values": {"seed": []}}, [], [("sweep.yaml: values.seed", 1)]),
    "one name for two": (
        {"variants": {}, "values": {"train.log_every": [1], "model.dim": [16, "16"]}},
        [],
        [("sweep.yaml: values", "name")],
    ),
    "a name that is no folder's": (
        {"variants": {"a/b": {}}},
        [],
        [("sweep.yaml: variants", "'a/b'")],
    ),
    "the sweep's own settings": (
        {"variants": {"a": {"experiment_name": "b"}}, "common": {"runs_dir": "x"}},
        [],
        [("sweep.yaml: common: runs_dir",), ("sweep.yaml: variants.a: experiment_name",)],
    ),
    "an unknown variant": (
        {},
        ["--only", "plain,narrow"],
        [("sweep.yaml and flags: only", "'narrow'", "plain", "hashed", "wide")],
    ),
    "a seed beside seeds": (
        {"seeds": [1, 2], "common": {"seed": 3}},
        [],
        [("sweep.yaml: common: seed", "seeds")],
    ),
    "more combinations than anyone waits for": (
        {"variants": {}, "values": {f"model.key{i}": [*range(100)] for i in range(5)}, "seeds": [1, 2]},
        [],
        [("sweep.yaml: variants", 2 * 100**5, 10_000)],
    ),
    "a seed twice": ({"seeds": [1, 1]}, [], [("sweep.yaml: seeds", 1)]),
    "jobs on a cluster": ({"jobs": 2, "executor": "slurm"}, [], [("sweep.yaml: jobs", 2, "slurm.parallel")]),
    "an unknown executor": ({"executor": "k8s"}, [], [("sweep.yaml: executor", "local", "slurm", "ray", "'k8s'")]),
    "what the sweep tells sbatch itself": (
        {"executor": "slurm"},
        ["--slurm.sbatch", '{"time": 5, "array": "1", "--qos": "x", "account": "lab", "exclusive": true, "hold": []}'],
        [
            ("sweep.yaml and flags: slurm", "time", "slurm.minutes"),
            ("sweep.yaml and flags: slurm", "array"),
            ("sweep.yaml and flags: slurm", "'--qos'"),
            ("sweep.yaml and flags: slurm", "hold", "true"),
        ],
    ),
    "a warning before the job begins": (
        {"slurm": {"minutes": 2}},
        [],
        [("sweep.yaml: slurm", "grace_seconds", 120, 60, 2)],
    ),
    "more than a GPU": (
        {"ray": {"gpus": 2}, "slurm": {"gpus": 2}},
        [],
        [("sweep.yaml: slurm.gpus", 2, 1), ("sweep.yaml: ray.gpus", 2, 1)],
    ),
    "no jobs": ({"jobs": 0}, [], [("sweep.yaml: jobs", 0, 1)]),
    "an unknown metric": (
        {"metric": "val/bits_per_byte"},
        [],
        [("metric", "'val/bits_per_byte'", "val/loss", "val/accuracy")],
    ),
    "an unknown task": ({"common": {"task": "poetry"}}, [], [("base.yaml: task", "copy", "'poetry'")]),
    "mistakes of variants": (
        {"variants": {"a": {"model.dimm": 3}, "b": {"model.heads": 3}, "c": {"seed.x": 1}}},
        [],
        [
            ("variant a: model.dimm", "dim"),
            ("base.yaml and variant b: model", "dim", 16, "heads", 3),
            ("base.yaml and variant c: seed",),
        ],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_found_before_anything_is_trained(case, script):
    changes, flags, expected = MISTAKES[case]
    assert_refused(swept(script, changes, *flags), expected)
    assert files_below(".") == {"base.yaml", "sweep.yaml"}


def test_a_base_without_a_task_is_of_the_only_one_that_it_fits(script):
    as_yaml("base.yaml", tiny({"model.width": 3}))
    assert_refused(swept(script), [("base.yaml: task", "copy", None, "common")])
    as_yaml("base.yaml", tiny())
    assert swept(script, None, "--only", "plain").code == 0
    assert config_of("plain")["task"] == "copy"


TWO = ("--values", "model.dim=[16,24]", "--common", "train.max_steps=1")
BESIDE = {  # flags of a sweep of base.yaml by width, whatever else a file says, and its folder
    "a base beside the default preset": (("--base", "base.yaml", *TWO), "runs/sweep_base"),
    "a training's file": (("--config", "base.yaml", *TWO), "runs/sweep_base"),
    "a sweep's file with variants": (("--config", "sweep.yaml", *TWO), "out"),
    "and without them": (("--config", "sweep.yaml", "--variants", "null", *TWO), "out"),
    "JSON": (("--config", "sweep.yaml", "--values", '{"model.dim": [16, 24]}', *TWO[2:]), "out"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_values_can_be_given_as_flags_alone(case, script):
    flags, folder = BESIDE[case]
    as_yaml("sweep.yaml", SWEEP)
    outcome = script("sweep", *flags)
    assert outcome.code == 0, outcome.lines
    names = {path.name: path for path in Path(folder).iterdir() if path.is_dir()}
    assert {*names} == {"dim-16", "dim-24"}
    config = yaml.safe_load((names["dim-24"] / "version_0/config.yaml").read_text())
    assert (config["model"]["dim"], config["train"]["max_steps"]) == (24, 1)


def test_words_in_a_list_need_no_quotes(script):
    flags = ("--values", "model.attention.kind=[full, shared_qk]", "--common", "train.max_steps=1")
    assert script("sweep", "--base", "base.yaml", *flags).code == 0
    assert {path.name for path in Path("runs/sweep_base").iterdir() if path.is_dir()} == {"kind-full", "kind-shared-qk"}


def test_a_run_of_other_settings_is_not_mixed_in(script):
    assert swept(script, None, "--only", "plain").code == 0
    before = files_below(".")
    outcome = swept(script, {"common": {"optimizer.lr": 0.5}})
    line = ("out/plain/version_0/config.yaml: optimizer.lr", 0.01, 0.5, "output_dir")
    assert_refused(outcome, [line])
    assert files_below(".") == before


def test_settings_at_dotted_keys():
    """As flags over a file: another kind starts anew, the same kind is changed."""
    assert nested({"a.b": 1, "a.c.d": {"e": 2}, "a.c.d.f": 3, "g": 4}) == {
        "a": {"b": 1, "c": {"d": {"e": 2, "f": 3}}},
        "g": 4,
    }
    assert nested({"a": {"kind": "x", "y": 1}, "a.y": 2}) == {"a": {"kind": "x", "y": 2}}
    assert nested({"a": {"kind": "x", "y": 1}, "a.kind": "z"}) == {"a": {"kind": "z"}}


def test_names_of_combinations():
    sweep = SweepConfig(base="b", output_dir="o", values={"x.rank": [[4], [4, 8]], "y": ["a b", None, 1.5]})
    assert list(sweep.all_variants) == [f"rank-{r}_y-{y}" for r in ("4", "4-8") for y in ("a-b", "null", "1.5")]
