"""sweep.py: every variant trained once, whatever interrupts it, and compared by the runs' own figures."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from tiny_scripts import (
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
from dl_proj.experiments.sweep_settings import SweepConfig, nested

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


def test_every_variant_is_a_run_with_its_settings(script):
    outcome = swept(script)
    assert outcome.code == 0, outcome.lines
    assert {path.name for path in OUT.iterdir()} == {".lock", "plain", "hashed", "wide", "sweep.csv", "sweep.png"}
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
            assert float(row[key]) == pytest.approx(value), key
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
    assert "val loss" in columns and "test accuracy" in columns and "model.dim" not in columns
    for line, (name, row) in zip(lines, rows.items(), strict=True):
        cells = dict(zip(columns, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        assert cells["variant"] == name
        assert float(cells["test loss"]) == round(float(row["test/loss"]), 4)
    assert outcome.out.splitlines()[-1] == "written: out/sweep.csv, out/sweep.png"


def test_the_picture_has_a_curve_a_variant(script, monkeypatch):
    drawn = {}

    def keep(figure, path, **settings):
        drawn[Path(path).name.removesuffix(".part")] = figure
        Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    assert swept(script, {"metric": "val/accuracy"}).code == 0
    (panel,) = drawn["sweep.png"].axes
    assert panel.get_ylabel() == "val/accuracy"
    curves = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in panel.lines}
    assert list(curves) == ["plain", "hashed", "wide"]
    for name, points in curves.items():
        values = [(int(r["step"]), float(r["val/accuracy"])) for r in history_of(name) if r["val/accuracy"]]
        assert points == values and len(points) == 2


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
    return {key: value for key, value in row.items() if key != "seconds"}


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


def test_a_base_without_a_task(script):
    as_yaml("base.yaml", tiny())
    assert_refused(swept(script), [("base.yaml: task", "copy", None, "common")])
    assert swept(script, {"common": {"task": "copy"}}, "--only", "plain").code == 0


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
