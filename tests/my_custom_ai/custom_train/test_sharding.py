"""FSDP2 in the engine: like DistributedDataParallel to rounding, with plain weights, resumed on one process."""

from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from several_processes import on_processes
from tiny_training import Killed, KilledAt, Points, assert_same_file, rows_of
from torch import nn

from my_custom_ai.custom_train import (
    CheckpointError,
    Monitor,
    Pace,
    RunDirectory,
    Trainer,
    build_optimizer,
    load_weights,
    start,
)
from my_custom_ai.custom_train.checkpoint import load_tensors, without_prefix

pytestmark = pytest.mark.slow

LAST, BEST = Path("checkpoints/last/state.safetensors"), Path("checkpoints/best/model.safetensors")


class Block(nn.Module):
    def __init__(self, common, dropout):
        super().__init__()
        self.own, self.common, self.dropout = nn.Linear(7, 7), common, nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(torch.tanh(self.common(self.own(x))))


class Net(nn.Module):
    """A list of layers that share a module, and a first matrix that is the last one too."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(3)
        common = nn.Linear(7, 7)
        self.first = nn.Linear(3, 7, bias=False)
        self.blocks = nn.ModuleList(Block(common, dropout) for _ in range(3))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        for block in self.blocks:
            x = block(self.first(x) if x.shape[-1] == 3 else x)
        return (x @ self.first.weight).sum(-1)


def trainer_of(folder, parallel, *, dropout=0.0, killed_at=None, optimizer=None, **pace):
    model = Net(dropout)
    often = {"eval_every": 4, "log_every": 1, "save_every": 1}
    settings = {"total_steps": 8, "batch_size": 2, "eval_batch_size": 4, "accumulate": 2, "clip_norm": 1.0, **often}
    return Trainer(
        model,
        KilledAt(killed_at),
        (optimizer or (lambda model: build_optimizer(model, lr=0.02)))(model),
        train_data=Points(21),
        val_data=Points(5),
        run=RunDirectory(Path(folder)),
        monitor=Monitor(),
        pace=Pace(**settings | pace),
        seed=5,
        parallel=parallel,
        accelerator=start("cpu"),
    )


def train(*jobs):
    """On this process: one training after another; what the last one saw."""
    for folder, parallel, settings in jobs:
        trainer = trainer_of(folder, parallel, **settings)
        try:
            trainer.fit()
        except Killed:
            continue
        trainer.load_best()
    moments = sum(values["exp_avg"].to_local().numel() for values in trainer.optimizer.state.values())
    seen = {"trained": list(chain(*trainer.objective.trained)), "moments": moments}
    return seen | {"odd": trainer.evaluate(Points(5)), "single": trainer.evaluate(Points(1))}


def losses(folder, what="train"):
    return [float(row[f"{what}/loss"]) for row in rows_of(RunDirectory(Path(folder)), what)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, forkserver):
    """The same training with both, on two processes; that with FSDP killed in the middle of its fifth update, too."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        drop, kill = {"dropout": 0.3}, {"killed_at": 9}
        jobs = [("ddp", "ddp", {}), ("killed", "fsdp", kill), ("dropped", "fsdp", drop | kill)]
        jobs += [("dropped", "fsdp", drop), ("whole", "fsdp", drop), ("fsdp", "fsdp", {})]
        seen = on_processes(2, forkserver, train, *jobs)
    return folder, seen


def test_losses_equal_those_of_ddp(trained):
    folder, seen = trained
    for what, n in (("train", 8), ("val", 2)):
        ours, ddp = losses(folder / "fsdp", what), losses(folder / "ddp", what)
        assert len(ours) == n and ours == pytest.approx(ddp, rel=1e-5)
    parameters = sum(p.numel() for p in Net().parameters())
    assert 0 < max(one["moments"] for one in seen) < 0.7 * parameters, "each has its part of the moments"
    assert sum(one["moments"] for one in seen) == parameters


def test_weights_are_plain_and_whole(trained):
    folder, seen = trained
    plain = Net()
    load_weights(folder / "fsdp" / BEST, plain)
    assert torch.equal(plain.first.weight, load_tensors(folder / "fsdp" / BEST)[0]["first.weight"])
    for size, name in ((5, "odd"), (1, "single")):
        _, x, y = Points(size).everything()
        expected = (plain.eval()(x).squeeze(-1) - y).square().mean().item()
        assert [one[name]["loss"] for one in seen] == pytest.approx([expected] * 2, rel=1e-5)
    ours, ddp = (without_prefix("model", load_tensors(folder / name / LAST)[0]) for name in ("fsdp", "ddp"))
    assert ours.keys() == ddp.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, ddp[name], atol=1e-5), name


def test_resumed_on_two_it_ends_the_same_bit_for_bit(trained):
    folder, _ = trained
    assert_same_file(folder / "dropped" / LAST, folder / "whole" / LAST)
    assert_same_file(folder / "dropped" / BEST, folder / "whole" / BEST)


def test_resumed_on_one_it_computes_the_same_updates(trained):
    folder, seen = trained
    assert load_tensors(folder / "killed" / LAST)[1]["step"] == 4
    trainer = trainer_of(folder / "killed", "fsdp")
    trainer.fit()
    both = [iter(one["trained"][4 * 2 * 2 :]) for one in seen]  # of two processes, the examples after four updates
    alone = iter(trainer.objective.trained)
    for _ in range(4):
        together = sorted(chain(*(islice(examples, 4) for examples in both)))
        assert sorted(chain(*islice(alone, 4))) == together and len(together) == 8
    assert losses(folder / "killed") == pytest.approx(losses(folder / "fsdp"), rel=1e-5)
    assert load_tensors(folder / "killed" / LAST)[1]["processes"] == 2, "that of its updates"


def test_what_cannot_be_shared_out(forkserver):
    trainer_of("single", "ddp", total_steps=1, accumulate=1).fit()
    assert on_processes(2, forkserver, refused) == [True, True]
    with pytest.raises(ValueError, match="parallel is 'zero', must be one of ddp, fsdp"):
        trainer_of("new", "zero")


def refused():
    with pytest.raises(ValueError, match="Adafactor"):
        trainer_of("new", "fsdp", optimizer=lambda model: build_optimizer(model, "adafactor", lr=0.1))
    with pytest.raises(CheckpointError, match=r"begun on 1 process\(es\), with 1 batch\(es\) per update"):
        trainer_of("single", "fsdp", accumulate=1).fit()
    return not Path("new").exists()
