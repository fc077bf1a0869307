"""A run goes on with other settings: what may be changed, what is noted of it, and that nothing else changes."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from tiny_scripts import GONE, assert_refused, assert_states, saved_tensors, tiny_yaml

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.run_changes import _OTHER_RESULT, _SAME_RESULT
from dl_proj.settings.help import models_in

RUN = Path("runs/tiny/version_0")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than a training."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())


@pytest.fixture
def train(script):
    """Trains by c.yaml, or goes on with flags; gives what was printed."""

    def run(*flags):
        outcome = script("synth_train", "--config", "c.yaml", *flags)
        assert outcome.code == 0, outcome.lines
        return outcome.out

    return run


def begun(train, changes=None):
    """A finished run of four updates at a constant rate, with dropout."""
    own = {"train": {"max_steps": 4, "batch_size": 8, "eval_every": 2, "log_every": 1, "trackers": []}}
    tiny_yaml("c.yaml", own | {"model.dropout": 0.1, **(changes or {})})
    train()


def history():
    return yaml.safe_load((RUN / "config.yaml").read_text()).get("history", [])


def column(name):
    with (RUN / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_an_extended_run_is_the_one_that_was_planned_so_long(train):
    begun(train, {"train.max_steps": 6})
    whole, losses = saved_tensors(RUN), column("train/loss")
    RUN.parent.rename("whole")
    begun(train)
    train("--resume", "last", "--train.max_steps", "6")
    extended = saved_tensors(RUN)
    assert [name for name in whole if not torch.equal(whole[name], extended[name])] == []
    assert column("train/loss") == losses


def test_each_change_is_said_and_noted_once(train):
    begun(train)
    before = (RUN / "config.yaml").read_bytes()
    train("--resume", "last")
    assert (RUN / "config.yaml").read_bytes() == before, "nothing was changed"
    flags = ["--train.max_steps", "6", "--optimizer.lr", "0.001"]
    (line,) = [line for line in train("--resume", "last", *flags).splitlines() if "changed" in line]
    assert_states(line, str(RUN), "optimizer.lr", 0.01, 0.001, "train.max_steps", 4, 6)
    first = {"step": 4, "changed": {"optimizer.lr": [0.01, 0.001], "train.max_steps": [4, 6]}}
    assert history() == [first]
    assert "changed" not in train("--resume", "last", *flags), "the same flags again"
    train("--resume", RUN, "--train.max_steps", "8")
    assert history() == [first, {"step": 6, "changed": {"train.max_steps": [6, 8]}}]
    assert (RUN / "checkpoints/best/config.yaml").read_bytes() == (RUN / "config.yaml").read_bytes()


def test_a_new_run_does_not_inherit_the_history(train, script):
    begun(train)
    train("--resume", "last", "--train.max_steps", "6")
    assert script("synth_train", "--config", RUN / "config.yaml").code == 0
    assert "history" not in yaml.safe_load((RUN.with_name("version_1") / "config.yaml").read_text())


def test_the_learning_rate_is_lowered_and_its_schedule_changed(train):
    begun(train)
    train("--resume", "last", "--train.max_steps", "6", "--optimizer.lr", "0.001")
    cosine = ["--schedule.kind", "warmup_cosine", "--schedule.final_factor", "0.5"]
    train("--resume", "last", "--train.max_steps", "8", *cosine)
    assert column("lr")[:6] == [0.01] * 4 + [0.001] * 2
    assert column("lr")[-1] == pytest.approx(0.0005), "the schedule is of all eight updates"


@pytest.mark.parametrize(
    "stop", [{"target": 9.0}, {"patience": 1, "min_delta": 9.0}], ids=lambda stop: next(iter(stop))
)
def test_a_run_that_stopped_itself_goes_on_once_it_may(stop, train):
    tiny_yaml("c.yaml", {"train.max_steps": 8, "train.trackers": [], "train.monitor": stop})
    (said,) = [line for line in train().splitlines() if line.startswith("stopped")]
    stopped = 2 if "target" in stop else 4
    assert_states(said, "stopped", stopped, 8, next(iter(stop)))
    train("--resume", "last", "--train.max_steps", "10")
    assert column("step")[-1] == stopped, "its reason to stop is still there"
    train("--resume", "last", f"--train.monitor.{next(iter(stop))}", "null")
    assert column("step")[-1] == 10


def test_steps_stand_in_for_the_epochs_of_a_run(train):
    begun(train, {"train.epochs": 1, "train.max_steps": GONE})
    assert column("step")[-1] == 8
    train("--resume", "last", "--train.max_steps", "10")
    assert column("step")[-1] == 10
    train("--resume", "last", "--train.epochs", "2")
    assert column("step")[-1] == 16


def test_a_file_and_the_flags_of_the_start_are_no_wish_for_a_change(train):
    """Neither what a flag had set, nor what was since written into the file; both are said."""
    tiny_yaml("c.yaml")
    train("--model.dim", "24")
    weights = saved_tensors(RUN)
    tiny_yaml("c.yaml", {"train.max_steps": 5})
    (line,) = [line for line in train("--resume", "last").splitlines() if "keeps" in line]
    assert_states(line, str(RUN), "model.dim", 24, 16, "train.max_steps", 3, 5)
    assert "keeps" in train("--resume", "last", "--model.dim", "24")
    found = saved_tensors(RUN)
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert history() == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train.max_steps", "2"], ("train.max_steps", 2, 4)),
        (["--train.batch_size", "4"], ("train.batch_size", 8, 4)),
        (["--train.accumulate", "2"], ("train.accumulate", 1, 2)),
        (["--train.monitor.metric", "val/accuracy", "--train.monitor.mode", "max"], ("train.monitor.metric",)),
    ],
)
def test_what_cannot_be_changed(flags, expected, train, script):
    begun(train)
    before = (RUN / "config.yaml").read_bytes()
    outcome = script("synth_train", "--config", "c.yaml", "--resume", "last", *flags)
    assert outcome.code == 2
    start = "" if expected[0] == "train.max_steps" else f"--resume: {RUN}/config.yaml: "
    assert_states(outcome.lines[0], start + expected[0], *expected[1:])
    assert (RUN / "config.yaml").read_bytes() == before


def test_weights_alone_start_a_new_run(train, script):
    """What --resume refuses names the flag that takes it."""
    begun(train)
    best = RUN / "checkpoints" / "best"
    assert_refused(script("synth_train", "--resume", best), [("--resume", str(best), "--init_from")])


def leaves(schema, prefix=""):
    for name, field in schema.model_fields.items():
        members = models_in(field.annotation)
        yield from [leaf for member in members for leaf in leaves(member, f"{prefix}{name}.")] or [prefix + name]


def test_what_may_be_changed_are_settings():
    known = {*leaves(SynthTrainConfig), *leaves(TranslationTrainConfig), *leaves(ClassifierTrainConfig)}
    assert known >= _SAME_RESULT | _OTHER_RESULT
