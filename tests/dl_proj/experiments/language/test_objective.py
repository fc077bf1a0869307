"""Loss, accuracy, perplexity and bits per byte, against loops over single predictions in float64."""

import math

import pytest
import torch
from torch import nn

from dl_proj.experiments.language.objective import CausalObjective, MaskedObjective

VOCAB = 7


class Says(nn.Module):
    """Says what it was given, and keeps what it was asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.asked = self.at = None

    def forward(self, tokens, at=None):
        self.asked, self.at = tokens, at
        return self.logits if at is None else self.logits[at]


def naive(logits, targets, counted):
    """(mean nats, share that is right) of the counted predictions, one after the other."""
    nats, right = [], []
    for row, own, some in zip(logits.tolist(), targets.tolist(), counted.tolist(), strict=True):
        for scores, target, counts in zip(row, own, some, strict=True):
            if counts:
                nats.append(math.log(sum(map(math.exp, scores))) - scores[target])
                right.append(max(scores) == scores[target])
    return sum(nats) / len(nats), sum(right) / len(right)


@pytest.fixture
def batch():
    logits, tokens = 2 * torch.randn(3, 5, VOCAB), torch.randint(VOCAB, (3, 6))
    counted = torch.rand(3, 5) < 0.5
    counted[0, 0] = True
    return logits, tokens, counted


def test_causal_figures(batch):
    logits, tokens, counted = batch
    model = Says(logits)
    found = CausalObjective().measure(model, (tokens, counted, torch.full((3,), 2.5)))
    loss, accuracy = naive(logits, tokens[:, 1:], counted)
    assert torch.equal(model.asked, tokens[:, :-1])
    assert found["loss"].value.item() == pytest.approx(loss)
    assert found["accuracy"].value.item() == pytest.approx(accuracy)
    assert found["bits_per_byte"].value.item() == pytest.approx(loss / math.log(2) / 2.5)
    assert {name: ratio.count.item() for name, ratio in found.items()} == {
        "loss": counted.sum(),
        "accuracy": counted.sum(),
        "bits_per_byte": 2.5 * counted.sum(),
    }
    assert not found["bits_per_byte"].total.requires_grad


def test_bytes_are_those_of_each_window(batch):
    """Windows of different texts may share a batch."""
    logits, tokens, counted = batch
    found = CausalObjective().measure(Says(logits), (tokens, counted, torch.tensor([1.0, 2.0, 4.0])))
    assert found["bits_per_byte"].count == (counted.sum(1) * torch.tensor([1, 2, 4])).sum()


def test_masked_figures(batch):
    logits, tokens, chosen = batch
    inputs, targets = torch.randint(VOCAB, (3, 5)), tokens[:, :5]
    model = Says(logits)
    found = MaskedObjective().measure(model, (inputs, targets, chosen))
    loss, accuracy = naive(logits, targets, chosen)
    assert torch.equal(model.asked, inputs) and torch.equal(model.at, chosen)
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"].value.item() == pytest.approx(loss)
    assert found["accuracy"].value.item() == pytest.approx(accuracy)
    assert found["loss"].count == found["accuracy"].count == chosen.sum()


@pytest.mark.parametrize(
    "objective", [CausalObjective(), MaskedObjective()], ids=lambda objective: type(objective).__name__
)
def test_what_does_not_count_moves_nothing(objective, batch):
    logits, tokens, counted = batch
    model = Says(logits)
    last = (
        (tokens, counted, torch.ones(3))
        if isinstance(objective, CausalObjective)
        else (tokens[:, :5], tokens[:, :5], counted)
    )
    found = objective.measure(model, last)
    found["loss"].value.backward()
    assert model.logits.grad[~counted].abs().max() == 0
    assert (model.logits.grad[counted].abs().amax(-1) > 0).all()
    other = objective.measure(Says(torch.where(counted.unsqueeze(-1), logits, torch.randn_like(logits))), last)
    assert {name: ratio.value for name, ratio in other.items()} == {name: r.value for name, r in found.items()}


def test_nothing_that_counts_is_no_loss(batch):
    logits, tokens, _ = batch
    found = MaskedObjective().measure(Says(logits), (tokens[:, :5], tokens[:, :5], torch.zeros(3, 5).bool()))
    assert found["loss"].value == 0


def test_perplexity_is_of_the_mean():
    assert CausalObjective().derived({"loss": math.log(5), "accuracy": 0.1}) == {"perplexity": pytest.approx(5)}
    assert MaskedObjective().derived({"loss": 1e4}) == {"perplexity": math.inf}
    assert math.isnan(MaskedObjective().derived({"loss": math.nan})["perplexity"])
