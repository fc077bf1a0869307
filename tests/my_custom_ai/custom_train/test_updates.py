"""An update follows the mean over all that its batches count, however these are split up, and over processes."""

import math
from pathlib import Path

import pytest
import torch
from several_processes import on_processes
from tiny_training import rows_of, sgd, tiny_trainer
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from my_custom_ai.custom_train import NonFiniteLoss, RunDirectory
from my_custom_ai.custom_train.checkpoint import load_tensors, without_prefix
from my_custom_ai.utils.meters import Ratio

STEPS, CLIP_NORM = 6, 3.0
COUNTS = (20, 2, 0, 7, 1, 11)  # tokens that count of each sentence
SPLITS = {  # (batch size, accumulate) by number of processes: each update sees all six sentences
    1: [(6, 1), (1, 6), (2, 3), (3, 2)],
    2: [(3, 1), (1, 3)],
    3: [(2, 1), (1, 2)],
}


class Sentences(Dataset):
    """Sentences of features and targets in float64; some tokens, and some whole sentences, do not count."""

    def __init__(self, counts):
        generator = torch.Generator().manual_seed(2)
        self.sentences = []
        for count in counts:
            x = torch.randn(count + 3, 3, generator=generator, dtype=torch.float64)
            self.sentences.append((x, x.sum(1).sin() + count / 5, torch.arange(count + 3) < count))

    def __len__(self):
        return len(self.sentences)

    def __getitem__(self, index):
        return self.sentences[index]

    def collate(self, sentences):
        return tuple(pad_sequence(list(column), batch_first=True) for column in zip(*sentences, strict=True))


class TokenLoss:
    """Squared error per counted token; the target's size per sentence."""

    def measure(self, model, batch):
        x, y, counted = batch
        error = (model(x).squeeze(-1) - y)[counted]
        return {"loss": Ratio(error.square().sum(), counted.sum()), "size": Ratio((y * counted).sum(), len(y))}


def double_model():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def momentum(model):
    return sgd(model, lr=0.3, momentum=0.9)


def trainer_on(folder, counts, batch_size, accumulate, objective=None):
    return tiny_trainer(
        folder,
        model=double_model(),
        objective=objective or TokenLoss(),
        optimizer=momentum,
        train_data=Sentences(counts),
        val_data=Sentences(counts),
        total_steps=STEPS,
        batch_size=batch_size,
        accumulate=accumulate,
        clip_norm=CLIP_NORM,
        log_every=2,
    )


def by_hand(counts):
    """Weights after the plain loop over all counted tokens at once, and the loss of each pair of updates."""
    model, losses = double_model(), []
    x, y, counted = (torch.cat(column) for column in zip(*Sentences(counts), strict=True))
    optimizer, norms = momentum(model), []
    for _ in range(STEPS):
        loss = (model(x[counted]).squeeze(-1) - y[counted]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), CLIP_NORM).item())
        optimizer.step()
        losses.append(loss.item())
    assert min(norms) < CLIP_NORM < max(norms) or counts != COUNTS, "some updates are clipped, some are not"
    return model.state_dict(), [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]


def assert_as_by_hand(folder, counts):
    weights, losses = by_hand(counts)
    run = RunDirectory(Path(folder))
    ours = without_prefix("model", load_tensors(run.last_state)[0])
    for name, value in weights.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-11, atol=1e-12)
        assert (value - double_model().state_dict()[name]).abs().max() > 0.01
    rows = rows_of(run, "train")
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(losses, rel=1e-7)
    sizes = sum((y * counted).sum().item() for _, y, counted in Sentences(counts)) / len(counts)
    assert [float(row["train/size"]) for row in rows] == pytest.approx([sizes] * len(rows), rel=1e-7)


@pytest.mark.parametrize(("batch_size", "accumulate"), SPLITS[1])
def test_accumulated_batches_are_one_batch(batch_size, accumulate):
    trainer_on("run", COUNTS, batch_size, accumulate).fit()
    assert_as_by_hand("run", COUNTS)


def test_where_nothing_counts_nothing_moves():
    trainer = trainer_on("run", (0, 0), 1, 2)
    trainer.fit()
    assert all(
        torch.equal(value, double_model().state_dict()[name]) for name, value in trainer.model.state_dict().items()
    )
    assert [row["train/loss"] for row in rows_of(trainer.run, "train")] == ["nan"] * 3


# -- the figures of a bug: 20 tokens without a slope and 2 of slope 2 --


class Slopes(Sentences):
    """(slope of each token,); sizes are those of the sentences."""

    def __init__(self):
        self.sentences = [(torch.zeros(20),), (torch.full((2,), 2.0),)]
        self.sizes = [20, 2]

    def collate(self, sentences):
        slopes = [slope for (slope,) in sentences]
        counted = [torch.ones(len(slope), dtype=torch.bool) for slope in slopes]
        return pad_sequence(slopes, batch_first=True), pad_sequence(counted, batch_first=True)


class SlopeTimesBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, slopes):
        return slopes * self.bias


class MeanOutput:
    def measure(self, model, batch):
        slopes, counted = batch
        return {"loss": Ratio(model(slopes)[counted].sum(), counted.sum())}


def bias_step(folder, batch_tokens, accumulate):
    """How far one update of rate 1 goes."""
    trainer = tiny_trainer(
        folder,
        model=SlopeTimesBias(),
        objective=MeanOutput(),
        optimizer=lambda model: sgd(model, lr=1.0),
        train_data=Slopes(),
        val_data=Slopes(),
        total_steps=1,
        batch_size=None,
        batch_tokens=batch_tokens,
        accumulate=accumulate,
    )
    trainer.fit()
    return -next(trainer.model.parameters()).item()


@pytest.mark.parametrize(("batch_tokens", "accumulate"), [(40, 1), (20, 2)])
def test_a_short_sentence_weighs_by_its_tokens(batch_tokens, accumulate):
    assert bias_step("run", batch_tokens, accumulate) == pytest.approx(4 / 22, rel=1e-6)


# -- on several processes --


class NonsenseOnTheLast(TokenLoss):
    """The first training batch of the last process is nan."""

    def __init__(self, rank):
        self.spoilt = rank > 0

    def measure(self, model, batch):
        ratios = super().measure(model, batch)
        if not (self.spoilt and model.training):
            return ratios
        self.spoilt = False
        return ratios | {"loss": Ratio(ratios["loss"].total * math.nan, ratios["loss"].count)}


def trained_on_several(processes):
    """On each: train by every split; returns the step of the bias, and how nonsense on one of them ended."""
    for batch_size, accumulate in SPLITS[processes]:
        trainer_on(f"all_{batch_size}_{accumulate}", COUNTS, batch_size, accumulate).fit()
    trainer_on("some_count_nothing", (9, 0, 0)[:processes], 1, 1).fit()
    trainer = trainer_on("nonsense", COUNTS, 1, 2)
    trainer.objective = NonsenseOnTheLast(trainer.accelerator.process_index)
    try:
        trainer.fit()
    except NonFiniteLoss as error:
        return {"step": bias_step("bias", 20, 1) if processes == 2 else None, "nonsense": str(error)}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_are_one_batch(processes, forkserver):
    seen = on_processes(processes, forkserver, trained_on_several, processes)
    for batch_size, accumulate in SPLITS[processes]:
        assert_as_by_hand(f"all_{batch_size}_{accumulate}", COUNTS)
    assert_as_by_hand("some_count_nothing", (9, 0, 0)[:processes])
    assert len(seen) == processes
    for one in seen:
        assert one["nonsense"].startswith("the loss became nan at step 1;"), "on all of them"
        assert one["step"] == (pytest.approx(4 / 22, rel=1e-6) if processes == 2 else None)
