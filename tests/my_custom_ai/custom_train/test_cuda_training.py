"""Training on a GPU: the same weights as on a CPU, resumed bit for bit, in half precision, and under torchrun."""

import json
import os
import socket
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
    tiny_model,
    tiny_trainer,
)

from my_custom_ai.custom_train import evaluation, start
from my_custom_ai.custom_train import trainer as trainer_module
from my_custom_ai.utils.meters import Meter, Ratio

pytestmark = pytest.mark.cuda
on_cuda = pytest.mark.parametrize("device", ["cuda"] if torch.cuda.is_available() else [])
STATE, BEST = Path("checkpoints", "last", "state.safetensors"), Path("checkpoints", "best", "model.safetensors")


def weights(trainer):
    return {name: value.cpu() for name, value in trainer.accelerator.unwrap_model(trainer.model).state_dict().items()}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all((value - tiny_model().state_dict()[name]).abs().max() > 0.01 for name, value in ours.items())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adafactor"])
@on_cuda
def test_trains_as_a_cpu_does(device, optimizer):
    trained = []
    for name in ("cpu", device):
        trainer = tiny_trainer(name, device=name, optimizer=optimizer, clip_norm=1.0)
        trainer.fit()
        trainer.load_best()
        trained.append(weights(trainer))
    assert_close(trained[1], trained[0])


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@on_cuda
def test_resumed_it_ends_the_same_bit_for_bit(device, precision):
    """With dropout, whose generator is the GPU's, and in float16 the scale of the loss."""
    settings = {"device": device, "precision": precision, "accumulate": 2, "save_every": 1}
    tiny_trainer("whole", model=tiny_model(0.3), **settings).fit()
    with pytest.raises(Killed):
        tiny_trainer("killed", model=tiny_model(0.3), objective=KilledAt(9), **settings).fit()
    tiny_trainer("killed", model=tiny_model(0.3), **settings).fit()
    assert_same_file("killed" / STATE, "whole" / STATE)
    assert_same_file("killed" / BEST, "whole" / BEST)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@on_cuda
def test_half_precision_learns_as_float32_does(device, precision):
    """In float16 with a step or two fewer: the scale of the loss is too large at first."""
    losses = {}
    for name in ("no", precision):
        trainer = tiny_trainer(name, device=device, precision=name, total_steps=40)
        trainer.fit()
        losses[name] = [float(row["train/loss"]) for row in rows_of(trainer.run, "train")]
    assert sum(losses[precision][-7:]) < 0.9 * sum(losses[precision][:7])  # seven batches are an epoch
    assert sum(losses[precision]) == pytest.approx(sum(losses["no"]), rel=0.05)
    assert all(value.dtype == torch.float32 for value in weights(trainer).values())


@on_cuda
def test_batches_come_from_pinned_memory(device, monkeypatch):
    pinned, send = [], trainer_module.to_device

    def watch(batch, to):
        pinned.append(all(tensor.is_pinned() for tensor in batch))
        return send(batch, to)

    monkeypatch.setattr(trainer_module, "to_device", watch)
    monkeypatch.setattr(evaluation, "to_device", watch)
    tiny_trainer("run", device=device, total_steps=3, save_every=1).fit()
    tiny_trainer("run", device=device, total_steps=5).fit()  # begins in the middle of an epoch
    tried = [pinned.pop(i) for i in (6, 0)]  # two examples, before the first update of each
    assert tried == [False, False] and pinned and all(pinned)


@pytest.mark.parametrize("matmul_precision", ["high", "highest"])
@on_cuda
def test_products_are_rounded_to_tf32_only_if_asked_for(device, matmul_precision):
    start(device, matmul_precision=matmul_precision)
    a, b = torch.randn(2, 256, 256, dtype=torch.float64).unbind()
    error = ((a.float().to(device) @ b.float().to(device)).double().cpu() - a @ b).abs().max()
    start(device)
    assert (error > 1e-3) == (matmul_precision == "high" and torch.cuda.get_device_capability()[0] >= 8)


@on_cuda
def test_a_meter_does_not_wait_for_the_device(device):
    meter, total = Meter(), torch.ones(3, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        meter.add({"of a number": Ratio(total.sum(), 3), "of a tensor": Ratio(total.sum(), (total > 0).sum())})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.means() == {"of a number": 1, "of a tensor": 1}


def train_as_one_of_one(port, device):
    """As torchrun starts a process: alone, which needs no DistributedDataParallel, but in a process group."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    trainer = tiny_trainer("group", device=device, accumulate=2)
    trainer.fit()
    seen = {
        "backend": torch.distributed.get_backend(),
        "evaluated": trainer.evaluate(Points(7)),
    }
    Path("seen.json").write_text(json.dumps(seen))
    torch.save(weights(trainer), "weights.pt")
    torch.distributed.destroy_process_group()


@on_cuda
def test_a_process_group_of_one_trains_as_a_process_alone(forkserver, device):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = forkserver.Process(target=train_as_one_of_one, args=(port, device))
    process.start()
    process.join(120)
    process.kill()
    assert process.exitcode == 0
    alone = tiny_trainer("alone", objective=Squares(), accumulate=2)
    alone.fit()
    assert_close(torch.load("weights.pt", weights_only=True), weights(alone))
    seen = json.loads(Path("seen.json").read_text())
    assert seen["backend"] == "nccl"
    assert seen["evaluated"] == pytest.approx(alone.evaluate(Points(7)), abs=1e-4)
