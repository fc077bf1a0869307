"""The smallest training there is, for tests that change one thing of it."""

import csv
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from my_custom_ai.custom_train import Monitor, Pace, RunDirectory, Trainer, build_optimizer, start
from my_custom_ai.custom_train.checkpoint import load_tensors
from my_custom_ai.custom_train.schedules import constant
from my_custom_ai.utils.meters import Ratio


class Killed(BaseException):
    """Ends a training where a kill would: nothing that saves or cleans up catches it."""


class Points(Dataset):
    """(number, x, y); x moves with the epoch, so that a batch from a wrong epoch shows."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(size, 3, generator=generator)
        self.y = torch.randn(size, generator=generator)
        self.epoch = 0

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return index, self.x[index] + 0.1 * self.epoch, self.y[index]

    def set_epoch(self, epoch):
        self.epoch = epoch

    def everything(self):
        return torch.arange(len(self)), self.x, self.y


class Squares:
    """Squared error; keeps the numbers of the examples that it saw."""

    def __init__(self):
        self.trained, self.evaluated = [], []

    def measure(self, model, batch):
        numbers, x, y = batch
        (self.trained if model.training else self.evaluated).append(numbers.tolist())
        error = model(x).squeeze(-1) - y
        return {"loss": Ratio(error.square().sum(), len(y)), "size": Ratio(error.abs().sum(), len(y))}


class KilledAt(Squares):
    """Squared error until the n-th training batch."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def measure(self, model, batch):
        if model.training and len(self.trained) + 1 == self.batch:
            raise Killed
        return super().measure(model, batch)


def tiny_model(dropout=0.0, width=8):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))


def sgd(model, lr=0.1, momentum=0.0):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def tiny_trainer(
    folder,
    *,
    model=None,
    objective=None,
    optimizer="adam",
    schedule=None,
    train_data=None,
    val_data=None,
    monitor=None,
    device="cpu",
    precision="no",
    **pace,
):
    pace = Pace(**{"total_steps": 12, "batch_size": 3, "eval_batch_size": 4, "eval_every": 5, "log_every": 1} | pace)
    model = tiny_model() if model is None else model
    return Trainer(
        model,
        objective or Squares(),
        build_optimizer(model, optimizer, lr=0.02) if isinstance(optimizer, str) else optimizer(model),
        schedule=schedule or constant(),
        train_data=train_data or Points(21),  # seven batches: an update may straddle two epochs
        val_data=Points(7) if val_data is None else val_data,
        run=RunDirectory(Path(folder)),
        monitor=monitor or Monitor("val/loss"),
        pace=pace,
        seed=5,
        accelerator=start(device, precision),
    )


def rows_of(run, prefix):
    """The rows of metrics.csv that have a value of ``prefix/loss``."""
    with run.metrics.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get(f"{prefix}/loss")]


def assert_same_file(one, other):
    """Bit for bit the same tensors and the same note."""
    (a, note_a), (b, note_b) = load_tensors(one), load_tensors(other)
    assert note_a == note_b
    assert_same_tensors(a, b)


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name
