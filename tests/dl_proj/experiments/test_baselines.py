"""baselines.py: which experiments have some, and that those of images are trained as the experiment is."""

import csv
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure
from tiny_scripts import as_yaml, assert_refused, tiny_classifier, tiny_yaml


def test_images_are_classified_as_the_file_trains(script, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    as_yaml("cls.yaml", tiny_classifier({"train.trackers": [], "optimizer.lr": 0.02}))
    flags = ("--common", "train.max_steps=4", "--seeds", "3,1")
    outcome = script("baselines", "--config", "cls.yaml", *flags)
    assert outcome.code == 0, outcome.lines
    out = Path("runs/baselines_cls")
    with (out / "runs.csv").open(newline="") as file:
        rows = [(row["variant"], row["seed"], row["steps"]) for row in csv.DictReader(file)]
    assert rows == [(kind, seed, "4") for kind in ("linear", "cnn") for seed in ("3", "1")]
    config = yaml.safe_load((out / "cnn-seed3/version_0/config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.02 and config["model"]["kind"] == "cnn" and config["seed"] == 3
    assert "best first by test" in outcome.out


def test_what_has_no_baselines_is_refused(script):
    tiny_yaml("copy.yaml", {"task": "copy"})
    assert_refused(script("baselines", "--config", "copy.yaml"), [("base", "copy", "classification", "language")])
    as_yaml("cls.yaml", tiny_classifier())
    assert_refused(
        script("baselines", "--config", "cls.yaml", "--max_order", "4"), [("max_order", 4, "classification")]
    )
    assert_refused(script("baselines", "--base", "nowhere.yaml"), [("nowhere.yaml",)])


@pytest.mark.parametrize("flag", [("--common", "model.heads=2"), ("--common", "train.batch_size=0")])
def test_a_wrong_setting_is_named(script, flag):
    as_yaml("cls.yaml", {"task": "classification"} | tiny_classifier())
    outcome = script("baselines", "--config", "cls.yaml", *flag)
    assert outcome.code == 2 and any(flag[1].split("=")[0] in line for line in outcome.lines)
