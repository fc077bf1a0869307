"""synth_train.py from end to end: what it leaves behind, in every configuration; and that it learns to copy."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_scripts import COSTS, GONE, tiny, tiny_yaml

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, copy_dataset
from dl_proj.settings.load import load_config

RUN = Path("runs/tiny/version_0")


def run_of(script, changes=None, *flags):
    """Train, expect success, and give the final figures."""
    tiny_yaml("c.yaml", changes)
    outcome = script("synth_train", "--config", "c.yaml", *flags)
    assert outcome.code == 0, outcome.lines
    return json.loads((RUN / "metrics.json").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events_of(run):
    """{tag: {step: value}}"""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def naive_accuracy(model, sequences):
    """Share of the second word's symbols that the model finds most probable, one sequence after the other."""
    right = count = 0
    with torch.no_grad():
        for sequence in sequences:
            said = model(sequence[None, :-1])[0].argmax(-1).tolist()
            second_sos = (len(sequence) + 1) // 2
            for place in range(second_sos + 1, len(sequence)):
                right += said[place - 1] == sequence[place].item()
                count += 1
    return right / count


def test_the_resolved_configuration_loads_as_the_one_that_ran(script):
    run_of(script, {"train.precision": "no"}, "--model.attention.kind", "full", "--seed", "5")
    expected = SynthTrainConfig.model_validate(tiny({"model.attention": {"kind": "full"}, "seed": 5}))
    assert load_config(SynthTrainConfig, RUN / "config.yaml") == expected
    written = yaml.safe_load((RUN / "config.yaml").read_text())
    assert written == expected.model_dump(mode="json"), "every default is spelled out"
    assert (RUN / "checkpoints/best/config.yaml").read_text() == (RUN / "config.yaml").read_text()


def test_the_figures(script):
    """Against the files themselves: the weights, the history, the events, a loop over the test sequences."""
    figures = run_of(script, {"train.log_every": 1})
    assert json.loads((RUN / "checkpoints/best/metrics.json").read_text()) == figures
    assert set(figures) == {
        "parameters",
        "steps",
        *COSTS,
        "test/loss",
        *("test/accuracy", "test/accuracy_low", "test/accuracy_high"),
        "test/generated_accuracy",
        "state_bytes",
    }
    config = SynthTrainConfig.model_validate(tiny())
    model = build_copy_model(config).eval()
    weights = load_file(RUN / "checkpoints/best/model.safetensors")
    assert figures["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert figures["steps"] == 3
    assert 0 < figures["seconds"] < 600
    model.load_state_dict(weights)
    data = copy_dataset(config.data, "test", 16, config.seed)
    sequences = [data[i] for i in range(16)]
    assert figures["test/accuracy"] == pytest.approx(naive_accuracy(model, sequences), abs=1e-9)


def test_the_history(script):
    run_of(script, {"train.log_every": 1, "train.max_steps": 5})
    rows = rows_of()
    training = [int(row["step"]) for row in rows if row["train/loss"]]
    validation = [int(row["step"]) for row in rows if row["val/loss"]]
    assert training == [1, 2, 3, 4, 5]
    assert validation == [2, 4, 5], "every eval_every steps, and at the end"
    assert {row["lr"] for row in rows if row["lr"]} == {"0.01"}
    events = events_of(RUN)
    for tag in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"):
        in_file = {int(row["step"]): float(row[tag]) for row in rows if row[tag]}
        assert events[tag].keys() == in_file.keys()
        assert all(events[tag][step] == pytest.approx(value, rel=1e-5) for step, value in in_file.items())


def test_the_best_weights_are_those_of_the_best_evaluation(script):
    """With a rate that grows absurd, the last weights are not the best."""
    changes = {"optimizer.lr": 3.0, "schedule": {"kind": "constant", "warmup_steps": 7}}
    figures = run_of(script, changes | {"train.max_steps": 8, "train.eval_every": 1, "train.clip_norm": 0})
    losses = {int(row["step"]): float(row["val/loss"]) for row in rows_of() if row["val/loss"]}
    assert min(losses, key=losses.get) < 8
    state = load_file(RUN / "checkpoints/last/state.safetensors")
    best = load_file(RUN / "checkpoints/best/model.safetensors")
    assert not torch.equal(state["model.embedding.weight"], best["embedding.weight"])
    assert figures["test/loss"] == pytest.approx(min(losses.values()), rel=0.3), "the best are tested"
    assert figures["test/loss"] < losses[8] / 1.5


def test_the_picture_is_one(script, curves):
    run_of(script)
    picture = imread(RUN / "curves.png")
    assert picture.shape[0] > 100
    assert len(np.unique(picture)) > 20, "not blank"


CONFIGURATIONS = {  # each kind of attention, reversible or not, is trained in test_attention_training.py
    "the chunk rule": {"model.attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2, "rule": "chunk"}},
    "the chunk rule in one of two layers": {
        "model.attention": GONE,
        "model.depth": 2,
        "model.attentions": [{"kind": "local", "chunk_size": 4}, {"kind": "lsh", "bucket_size": 2, "rule": "chunk"}],
    },
    "local and lsh": {
        "model.attention": GONE,
        "model.depth": 3,
        "model.reversible": True,
        "model.streams": "concatenate",
        "model.attentions": [{"kind": "local", "chunk_size": 4}, {"kind": "lsh", "bucket_size": 2}],
    },
    "post-norm, axial, adamw, noam": {
        "model.norm": "post",
        "model.activation": "relu",
        "model.positions": {"kind": "axial", "shape": [3, 4]},
        "optimizer": {"name": "adamw", "lr": 1.0, "weight_decay": 0.1},
        "schedule": {"kind": "noam", "warmup_steps": 2},
    },
    "sinusoidal, adafactor, one cycle": {
        "model.positions": {"kind": "sinusoidal"},
        "optimizer": {"name": "adafactor", "lr": 0.01},
        "schedule": {"kind": "one_cycle"},
    },
    "bf16, reversible lsh": {
        "train.precision": "bf16",
        "model.reversible": True,
        "model.attention": {"kind": "lsh", "bucket_size": 2, "n_rounds": 2},
    },
    "odd length, accumulated": {"data.length": 13, "train.accumulate": 2, "train.batch_size": 4},
    "the shortest": {"data.length": 4, "data.vocab_size": 400},
    "corrupted, not fresh": {"data.corruption": 0.5, "data.fresh": False},
    "one sequence to test": {"data.n_test": 1, "data.n_val": 1, "train.eval_batch_size": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_configuration_trains(case, script):
    figures = run_of(script, CONFIGURATIONS[case])
    assert figures["steps"] == 3
    assert 0 < figures["test/loss"] < 12
    assert 0 <= figures["test/accuracy"] <= 1
    decodable = "rule: chunk" not in Path("c.yaml").read_text()
    assert ("test/generated_accuracy" in figures) == decodable
    assert all(np.isfinite(float(row["train/loss"])) for row in rows_of() if row["train/loss"])


def test_epochs_in_place_of_steps(script):
    figures = run_of(script, {"train.max_steps": GONE, "train.epochs": 2, "data.n_train": 20})
    assert figures["steps"] == 2 * (20 // 8)


def test_versions_are_counted_and_the_last_is_resumed(script):
    run_of(script)
    first = (RUN / "metrics.json").read_text()
    assert script("synth_train", "--config", "c.yaml").code == 0
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}
    weights = [load_file(RUN.parent / v / "checkpoints/best/model.safetensors") for v in ("version_0", "version_1")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "one seed, one result"
    assert script("synth_train", "--config", "c.yaml", "--resume", "last", "--train.num_workers", "0").code == 0
    assert (RUN / "metrics.json").read_text() == first, "the older run is left alone"
    assert {path.name for path in RUN.parent.iterdir()} == {"version_0", "version_1"}


def test_another_seed_gives_another_model(script):
    run_of(script)
    assert script("synth_train", "--config", "c.yaml", "--seed", "1").code == 0
    one, other = (load_file(path) for path in sorted(RUN.parent.glob("*/checkpoints/best/model.safetensors")))
    assert not torch.equal(one["to_logits.weight"], other["to_logits.weight"])


def test_a_loss_that_turns_nan_ends_the_run(script):
    tiny_yaml("c.yaml", {"optimizer.lr": 1e30, "train.clip_norm": 0, "train.max_steps": 20, "train.eval_every": 1})
    outcome = script("synth_train", "--config", "c.yaml")
    assert outcome.code == 1
    assert re.match(r"stopped: the .* became (nan|inf|-inf) at step \d+; last good state: runs/tiny", outcome.lines[-1])
    assert "learning rate" in outcome.lines[-1]


def test_early_stopping_by_patience_and_by_target(script):
    changes = {"train.max_steps": 50, "train.eval_every": 1}
    figures = run_of(script, changes | {"optimizer.lr": 1e-12, "train.monitor": {"patience": 3, "min_delta": 0.1}})
    assert figures["steps"] == 4, "one evaluation is the first best, three bring nothing"
    Path("runs").rename("before")
    assert run_of(script, changes | {"train.monitor": {"target": 100.0}})["steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "stack"),
    [
        ({"kind": "full"}, {}),
        ({"kind": "lsh", "bucket_size": 4, "n_rounds": 2}, {"model.reversible": True}),
    ],
    ids=["full", "reversible lsh"],
)
def test_it_learns_to_copy(attention, stack, script):
    """Without looking a word back none gets beyond chance, one in seven; nor when it must read its own output."""
    changes = {
        "data": {"vocab_size": 8, "length": 12, "n_train": 4096, "n_val": 64, "n_test": 256},
        "model": {"dim": 32, "heads": 2, "ffn_dim": 32, "attention": attention},
        "train": {"max_steps": 300, "batch_size": 32, "eval_every": 20, "device": "cpu"},
        "train.monitor": {"metric": "val/accuracy", "mode": "max", "target": 0.99},
    }
    figures = run_of(script, changes | stack)
    assert figures["test/accuracy"] > 0.95
    assert figures["test/generated_accuracy"] > 0.95
    assert figures["steps"] < 300
    first, last = (next(row for row in rows if row["val/accuracy"]) for rows in (rows_of(), rows_of()[::-1]))
    assert float(last["val/accuracy"]) >= max(0.99, float(first["val/accuracy"]))
