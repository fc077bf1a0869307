"""synth_models_comparison.py for associative recall: rows by variant, figures of an evaluation by hand, the picture."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file
from tiny_scripts import as_yaml, assert_refused, call, files_below, one_thread, tiny

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, recall_dataset
from dl_proj.experiments.load import load
from dl_proj.experiments.recall.compare import recall_figure
from dl_proj.experiments.recall.dataset import NONE

VARIANTS = {
    "full": {"kind": "full"},
    "performer-4": {"kind": "performer", "n_features": 4},
    "performer-12": {"kind": "performer", "n_features": 12},
    "chunks": {"kind": "lsh", "bucket_size": 4, "rule": "chunk"},
}
DATA = {"task": "recall", "vocab_size": 12, "length": 16, "n_pairs": 2, "n_train": 64, "n_val": 16, "n_test": 16}


def recall(changes=None):
    return tiny({"data": DATA, "model.depth": 2, "model.attention": {"kind": "full"}} | (changes or {}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each variant with two seeds, trained for a moment."""
    folder = tmp_path_factory.mktemp("recall")
    for name, attention in VARIANTS.items():
        for seed in (1, 2):
            changes = {"seed": seed, "experiment_name": f"{name}-seed{seed}", "runs_dir": str(folder / "runs")}
            path = as_yaml(folder / f"{name}-{seed}.yaml", recall(changes | {"model.attention": attention}))
            with one_thread():
                assert call("synth_train", "--config", path).code == 0
    return folder / "runs"


@pytest.fixture
def compared(script, runs):
    """Compares all of them, or others."""

    def compare(*checkpoints):
        names = ",".join(map(str, checkpoints or [runs]))
        flags = ["--checkpoints", names, "--n_test", 12, "--output_dir", "out", "--device", "cpu"]
        return script("synth_models_comparison", *flags)

    return compare


def read(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def accuracy_by_hand(run):
    config = SynthTrainConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    model = build_copy_model(config).eval()
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    hits = []
    for tokens, answers in (recall_dataset(config.data, "test", 12, config.seed)[i] for i in range(12)):
        with torch.no_grad():
            said = model(tokens.unsqueeze(0))[0].argmax(-1)
        hits += [s == a for s, a in zip(said.tolist(), answers.tolist(), strict=True) if a != NONE]
    assert len(hits) == 24
    return sum(hits) / len(hits)


def test_the_figures_and_the_files(compared, runs):
    outcome = compared()
    assert outcome.code == 0, outcome.lines
    assert files_below("out") == {"table.csv", "runs.csv", "table.png", "table.pdf"}
    of_runs, table = read("out/runs.csv"), read("out/table.csv")
    assert len(of_runs) == 8
    for row in of_runs:
        assert float(row["accuracy"]) == pytest.approx(accuracy_by_hand(Path(row["checkpoint"])))
    titles = ["Performer, n_features 4", "Performer, n_features 12", "full", "LSH-4"]
    assert [row["attention"] for row in table] == titles, "by state, and last what has none"
    head, heads, layers = 8, 2, 2
    state = [layers * heads * (m * (head + 1) + 1) * 4 for m in (4, 12)] + [layers * 2 * 16 * 16 * 4]
    assert [row["state_bytes"] for row in table] == [*map(str, state), ""]
    for row in table:
        own = [float(run["accuracy"]) for run in of_runs if run["attention"] == row["attention"]]
        assert int(row["seeds"]) == len(own) == 2
        assert float(row["accuracy"]) == pytest.approx(statistics.mean(own))
        assert float(row["accuracy std"]) == pytest.approx(statistics.stdev(own))
        assert float(row["accuracy best"]) == max(own)
        assert row["attention"] in outcome.out
    assert "cannot decode" in outcome.out
    assert len(np.unique(imread("out/table.png"))) > 20, "not blank"


def test_one_point_for_each_variant_that_decodes_and_one_for_each_seed(compared):
    assert compared().code == 0
    table, runs = read("out/table.csv"), read("out/runs.csv")
    (panel,) = recall_figure(table, runs).axes
    means = {line.get_label(): line.get_xydata() for line in panel.lines if not line.get_label().startswith("_")}
    chance = means.pop("guessing among the values")
    assert set(chance[:, 1]) == {50}
    own = [row for row in table if row["state_bytes"]]
    found = [(name, round(1024 * x), y) for name, points in means.items() for x, y in points]
    expected = [(row["mechanism"], int(row["state_bytes"]), 100 * float(row["accuracy"])) for row in own]
    assert found == expected and {name for name, *_ in found} == {"Performer", "full"}
    seeds = sorted(y for line in panel.lines if line.get_label().startswith("_") for y in line.get_ydata())
    assert seeds == sorted(100 * float(run["accuracy"]) for run in runs if run["state_bytes"])


def test_models_of_other_tasks_or_sequences_are_refused(compared, runs, script, trained):
    full = runs / "full-seed1" / "version_0"
    facts = ("copy", "recall", str(full), str(trained["full"]))
    assert_refused(compared(full, trained["full"]), [("checkpoints", *facts)])
    changes = {"data.n_pairs": 3, "experiment_name": "other", "train.max_steps": 1}
    assert script("synth_train", "--config", as_yaml("other.yaml", recall(changes))).code == 0
    other = "runs/other/version_0"
    assert_refused(compared(full, other), [("checkpoints", other, "data.n_pairs", 3, str(full), 2)])


def test_a_run_says_its_state_and_what_it_decodes(runs):
    for name, state in (("full-seed1", 2 * 2 * 16 * 16 * 4), ("chunks-seed1", None)):
        figures = json.loads((runs / name / "version_0" / "metrics.json").read_text())
        assert figures.get("state_bytes") == state
        assert ("test/decoded_accuracy" in figures) == (state is not None)


def test_answers_of_a_loaded_model(runs):
    """A dictionary's value, as the test's own sequences ask for it; anything else is refused."""
    model = load(runs / "full-seed1" / "version_0", device="cpu")
    told = {1: 7, 4: 11}
    tokens = torch.tensor([[1, 7, 4, 11, 0, 0, 4]])
    with torch.no_grad():
        assert model.answer(told, 4, slot=1) == model.model(tokens)[0, -1].argmax().item()
    assert model.answer(told, 1) == model.model(torch.tensor([[1, 7, 4, 11, 1]]))[0, -1].argmax().item()
    for pairs, key, slot in (({1: 7}, 1, 0), ({1: 7, 6: 8}, 1, 0), (told, 2, 0), (told, 1, 6), (told, 1, -1)):
        with pytest.raises(ValueError, match=r"pairs|must be one of|slot"):
            model.answer(pairs, key, slot=slot)


def test_other_scripts_take_its_models(runs, script):
    """Each gets a sequence of the run's own data, or is told that it needs none."""
    full = runs / "full-seed1" / "version_0"
    assert script("attention_maps", "--checkpoint", full, "--output_dir", "maps", "--device", "cpu").code == 0
    with np.load("maps/attention.npz") as weights:
        assert [weights[name].shape for name in weights] == [(2, 16, 16)] * 2
    assert_refused(script("attention_maps", "--checkpoint", full, "--input", "x"), [("input", "recall")])
    outcome = script("evaluate", "--checkpoint", full, "--device", "cpu", "--data.n_test", 12)
    assert outcome.code == 0, outcome.lines
    (row,) = read("runs/evaluation/evaluation.csv")
    assert row["task"] == "recall"
    assert float(row["accuracy"]) == pytest.approx(accuracy_by_hand(full))
