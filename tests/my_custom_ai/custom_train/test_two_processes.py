"""Training on two processes."""

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from several_processes import on_processes
from tiny_training import (
    Killed,
    KilledAt,
    Points,
    Squares,
    assert_same_file,
    rows_of,
    sgd,
    tiny_model,
    tiny_trainer,
)

from my_custom_ai.custom_train import RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors, without_prefix
from my_custom_ai.utils.meters import Ratio

pytestmark = pytest.mark.slow

TRACKERS = ("tensorboard",)
DROPOUT = {"accumulate": 2, "save_every": 1, "total_steps": 8, "val_data_size": 7, "dropout": 0.3, "log_every": 4}
FULL_BATCH = {"accumulate": 1, "total_steps": 10, "val_data_size": 7, "train_data_size": 8, "trackers": TRACKERS}


def trainer_of(folder, objective, *, val_data_size, train_data_size=21, dropout=0.0, width=8, **settings):
    return tiny_trainer(
        folder,
        model=tiny_model(dropout, width=width),
        objective=objective,
        train_data=Points(train_data_size),
        val_data=Points(val_data_size),
        **settings,
    )


def momentum(model):
    return sgd(model, momentum=0.9)


def train(folder, settings, killed_at, kind=KilledAt):
    """On this process: train, evaluate with the best weights, and return what was seen."""
    objective = kind(killed_at)
    trainer = trainer_of(folder, objective, **settings)
    try:
        trainer.fit()
    except Killed:
        return
    seen = {"trained": list(chain(*objective.trained)), "evaluated": list(chain(*objective.evaluated))}
    trainer.load_best()
    seen["odd"] = trainer.evaluate(Points(7))
    seen["single"] = trainer.evaluate(Points(1))  # the second process has none
    trainer.objective = CountsNothing()
    seen["nothing"] = trainer.evaluate(Points(3))
    seen["folder"] = str(trainer.run.path)
    return seen


class CountsUnevenly(KilledAt):
    """Squared error, divided by one to three for each example, so that no two batches need count the same."""

    def measure(self, model, batch):
        ratios = super().measure(model, batch)
        return ratios | {"loss": Ratio(ratios["loss"].total, (1 + batch[0] % 3).sum())}


class CountsNothing(Squares):
    def measure(self, model, batch):
        return super().measure(model, batch) | {"none": Ratio(torch.tensor(0.0), 0)}

    def derived(self, means):
        return {"root": math.sqrt(means["loss"])}


def on_two(forkserver, *arguments):
    return on_processes(2, forkserver, train, *arguments)


@pytest.fixture(scope="module")
def full_batch(tmp_path_factory, forkserver):
    """A training on two processes whose every update sees all examples, and its twin on one."""
    folder = tmp_path_factory.mktemp("full_batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        seen = on_two(forkserver, "two", FULL_BATCH | {"batch_size": 4, "optimizer": momentum}, None)
        twin = trainer_of(folder / "one", None, **FULL_BATCH, batch_size=8, optimizer=momentum)
        twin.fit()
    return folder, seen, twin


def test_two_processes_train_as_one_with_twice_the_batch(full_batch):
    folder, seen, twin = full_batch
    ours = without_prefix("model", load_tensors(folder / "two/checkpoints/last/state.safetensors")[0])
    for name, weights in twin.model.state_dict().items():
        assert torch.allclose(ours[name], weights, atol=1e-6), name
        assert (weights - tiny_model().state_dict()[name]).abs().max() > 0.01
    losses = [
        [float(row["train/loss"]) for row in rows_of(run, "train")] for run in (RunDirectory(folder / "two"), twin.run)
    ]
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1], rel=1e-5), "of both processes"
    for epoch in range(10):
        shares = [set(one["trained"][4 * epoch : 4 * epoch + 4]) for one in seen]
        assert shares[0] | shares[1] == set(range(8)) and not shares[0] & shares[1]


def test_evaluation_counts_each_example_once(full_batch):
    folder, seen, twin = full_batch
    evaluations = 2  # after updates 5 and 10
    assert [one["evaluated"][:2] for one in seen] == [[0, 1]] * 2, "tried before the first update"
    together = sorted(seen[0]["evaluated"][2:] + seen[1]["evaluated"][2:])
    assert together == sorted(list(range(7)) * evaluations)
    twin.load_best()
    for size, name in ((7, "odd"), (1, "single")):
        expected = twin.evaluate(Points(size))
        assert seen[0][name] == seen[1][name] == pytest.approx(expected, abs=1e-5)
    assert all(math.isnan(one["nothing"]["none"]) and one["nothing"]["loss"] > 0 for one in seen)
    assert all(one["nothing"]["root"] == math.sqrt(one["nothing"]["loss"]) for one in seen), "of both processes' mean"
    runs = RunDirectory(folder / "two"), twin.run
    history = [[float(row["val/loss"]) for row in rows] for rows in (rows_of(run, "val") for run in runs)]
    assert len(history[0]) == 2 and history[0] == pytest.approx(history[1], abs=1e-5)


def test_both_use_one_folder_and_the_main_process_writes(full_batch):
    folder, seen, _ = full_batch
    assert seen[0]["folder"] == seen[1]["folder"] == "two"
    assert {path.name for path in folder.iterdir()} == {"one", "two", "seen_0.json", "seen_1.json"}
    files = [str(path.relative_to(folder / "two")) for path in (folder / "two").rglob("*") if path.is_file()]
    events = [name for name in files if name.startswith("tensorboard/")]
    assert len(events) == 1
    plain = {"metrics.csv", "checkpoints/best/model.safetensors", "checkpoints/last/state.safetensors"}
    assert set(files) - set(events) == plain


def test_resumed_on_three_it_ends_the_same_bit_for_bit(forkserver):
    """Sums of more than two numbers depend on their order."""
    settings = DROPOUT | {"width": 40, "batch_size": 2}
    for folder, killed_at in (("whole", None), ("killed", 6), ("killed", None)):
        on_processes(3, forkserver, train, folder, settings, killed_at, CountsUnevenly)
    last = Path("checkpoints", "last", "state.safetensors")
    assert_same_file("killed" / last, "whole" / last)


def test_resumed_on_two_it_ends_the_same_bit_for_bit(forkserver):
    whole, killed = (Path(name, "checkpoints", "last", "state.safetensors") for name in ("whole", "killed"))
    on_two(forkserver, "whole", DROPOUT, None, CountsUnevenly)
    on_two(forkserver, "killed", DROPOUT, 8, CountsUnevenly)  # in the middle of update 4
    tensors, note = load_tensors(killed)
    assert note["step"] == 3 and note["meter"]["size"][1] == 3 * 12, "examples of both processes"
    assert not torch.equal(tensors["generator.0.torch"], tensors["generator.1.torch"])
    seen = on_two(forkserver, "killed", DROPOUT, None, CountsUnevenly)
    assert [len(one["trained"]) for one in seen] == [2 * 5 * 3] * 2  # only what was missing
    assert_same_file(killed, whole)
    best = Path("checkpoints", "best", "model.safetensors")
    assert_same_file("killed" / best, "whole" / best)
    losses = [[row["train/loss"] for row in rows_of(RunDirectory(Path(run)), "train")] for run in ("whole", "killed")]
    assert losses[0] == losses[1] and len(losses[0]) == 2
