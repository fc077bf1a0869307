"""Training on two processes that gloo connects, as torchrun would start them."""

import json
import math
import os
import socket
from itertools import chain
from pathlib import Path

import pytest
import torch
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

from my_custom_ai.custom_train import CheckpointError, RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors, without_prefix
from my_custom_ai.utils.meters import Ratio

TRACKERS = ("tensorboard",)
DROPOUT = {"accumulate": 2, "save_every": 1, "total_steps": 8, "val_data_size": 7, "dropout": 0.3}
FULL_BATCH = {"accumulate": 1, "total_steps": 10, "val_data_size": 7, "train_data_size": 8, "trackers": TRACKERS}


def trainer_of(folder, task, *, val_data_size, train_data_size=21, dropout=0.0, **settings):
    return tiny_trainer(
        folder,
        model=tiny_model(dropout),
        task=task,
        train_data=Points(train_data_size),
        val_data=Points(val_data_size),
        **settings,
    )


def momentum(model):
    return sgd(model, momentum=0.9)


def train(folder, settings, killed_at):
    """On this process: train, evaluate with the best weights, and write down what was seen."""
    task = KilledAt(killed_at)
    trainer = trainer_of(folder, task, **settings)
    try:
        trainer.fit()
    except Killed:
        return
    seen = {"trained": list(chain(*task.trained)), "evaluated": list(chain(*task.evaluated))}
    trainer.load_best()
    seen["odd"] = trainer.evaluate(Points(7))
    seen["single"] = trainer.evaluate(Points(1))  # the second process has none
    trainer.task = CountsNothing()
    seen["nothing"] = trainer.evaluate(Points(3))
    seen["folder"] = str(trainer.run.path)
    Path(f"seen_{os.environ['RANK']}.json").write_text(json.dumps(seen))


class CountsNothing(Squares):
    def measure(self, model, batch):
        return super().measure(model, batch) | {"none": Ratio(torch.tensor(0.0), 0)}

    def derived(self, means):
        return {"root": math.sqrt(means["loss"])}


def refuse(*_):
    raise AssertionError("only the main process may write")


def join_in(rank, port, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    torch.manual_seed(rank + 77)  # what a process drew before must not matter
    if rank:
        Path.replace = refuse
    train(*arguments)


def on_two(forkserver, *arguments):
    """Gives what the two wrote down, if they were not killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [forkserver.Process(target=join_in, args=(rank, port, arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return [json.loads(path.read_text()) for path in sorted(Path.cwd().glob("seen_*.json"))]


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
    for epoch in range(10):
        shares = [set(one["trained"][4 * epoch : 4 * epoch + 4]) for one in seen]
        assert shares[0] | shares[1] == set(range(8)) and not shares[0] & shares[1]


def test_evaluation_counts_each_example_once(full_batch):
    folder, seen, twin = full_batch
    evaluations = 2  # after updates 5 and 10
    together = sorted(seen[0]["evaluated"] + seen[1]["evaluated"])
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


def test_resumed_on_two_it_ends_the_same_bit_for_bit_and_on_one_it_is_refused(forkserver):
    whole, killed = (Path(name, "checkpoints", "last", "state.safetensors") for name in ("whole", "killed"))
    on_two(forkserver, "whole", DROPOUT, None)
    on_two(forkserver, "killed", DROPOUT, 8)  # in the middle of update 4
    tensors, note = load_tensors(killed)
    assert note["step"] == 3
    assert not torch.equal(tensors["generator.0.torch"], tensors["generator.1.torch"])
    with pytest.raises(CheckpointError, match=r"saved by 2 process\(es\), cannot continue exactly on 1$"):
        trainer_of("killed", None, **DROPOUT).fit()
    seen = on_two(forkserver, "killed", DROPOUT, None)
    assert [len(one["trained"]) for one in seen] == [2 * 5 * 3] * 2  # only what was missing
    assert_same_file(killed, whole)
    best = Path("checkpoints", "best", "model.safetensors")
    assert_same_file("killed" / best, "whole" / best)
