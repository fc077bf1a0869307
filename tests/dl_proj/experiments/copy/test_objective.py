"""The copy task's figures: on the second word alone, and what they are for models whose skill is known."""

import math

import pytest
import torch
from torch import nn

from dl_proj.experiments.copy.dataset import CopyDataset
from dl_proj.experiments.copy.objective import CopyObjective

LENGTHS = [4, 5, 6, 7, 12, 13, 40, 41]
VOCAB = 9


def sequences(length, size=5, **changes):
    data = CopyDataset("train", size, **{"vocab_size": VOCAB, "length": length, "seed": 1} | changes)
    return torch.stack([data[i] for i in range(size)])


class HardWiredCopier(nn.Module):
    """Says at each place what stood one word (and its SOS) before the next place; knows nothing before that.

    Args:
        length: tokens a sequence.
        slip: is added to what it says, except to SOS.
        sure: logit of what it says; the others have 0.
    """

    def __init__(self, length, slip=0, sure=1e4):
        super().__init__()
        self.period = (length + 1) // 2
        self.slip, self.sure = slip, sure

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, VOCAB, dtype=torch.float64)
        for t in range(self.period - 1, tokens.shape[1]):
            said = tokens[:, t + 1 - self.period]
            said = torch.where(said > 0, (said - 1 + self.slip) % (VOCAB - 1) + 1, said)
            logits[torch.arange(len(tokens)), t, said] = self.sure
        return logits

    def generate(self, prompt, length):
        self.seen_modes = self.training
        for _ in range(length):
            prompt = torch.cat((prompt, self(prompt)[:, -1:].argmax(-1)), dim=1)
        return prompt[:, -length:]


class AnyLogits(nn.Module):
    """Gives prepared logits and remembers what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, tokens):
        self.tokens = tokens
        return self.logits


def naive(logits, batch):
    """Sum of the losses, of the right symbols and their number, symbol by symbol."""
    loss, right, count = 0.0, 0, 0
    length = batch.shape[1]
    second_sos = (length + 1) // 2
    for row, sequence in enumerate(batch.tolist()):
        for place in range(second_sos + 1, length):
            scores = logits[row][place - 1].tolist()
            loss -= scores[sequence[place]] - math.log(sum(math.exp(score) for score in scores))
            right += max(range(len(scores)), key=scores.__getitem__) == sequence[place]
            count += 1
    return loss, right, count


@pytest.mark.parametrize("length", LENGTHS)
def test_measure_equals_a_loop_over_symbols(length):
    batch = sequences(length, corruption=0.3)
    logits = torch.randn(5, length - 1, VOCAB, dtype=torch.float64)
    model = AnyLogits(logits)
    figures = CopyObjective(length).measure(model, batch)
    loss, right, count = naive(logits, batch)
    assert set(figures) == {"loss", "accuracy"}
    torch.testing.assert_close(figures["loss"].total.item(), loss, rtol=1e-12, atol=0)
    assert figures["accuracy"].total.sum().item() == right
    assert figures["loss"].count == figures["accuracy"].count.sum() == count
    assert torch.equal(model.tokens, batch[:, :-1]), "the last token has nothing to predict"


@pytest.mark.parametrize("length", LENGTHS)
def test_predictions_of_the_first_word_count_for_nothing(length):
    batch = sequences(length)
    second_sos = (length + 1) // 2
    logits = torch.randn(5, length - 1, VOCAB, dtype=torch.float64, requires_grad=True)
    other = logits.detach().clone()
    other[:, :second_sos] = 100 * torch.randn_like(other[:, :second_sos])
    one, two = (CopyObjective(length).measure(AnyLogits(x), batch) for x in (logits, other))
    assert all(torch.equal(one[name].total, two[name].total) for name in one)
    one["loss"].value.backward()
    assert logits.grad[:, :second_sos].eq(0).all()
    assert logits.grad[:, second_sos:].ne(0).all(), "each place of the second word does count"


@pytest.mark.parametrize("length", LENGTHS)
def test_a_perfect_copier_is_perfect(length):
    figures = CopyObjective(length).measure(HardWiredCopier(length), sequences(length))
    assert figures["accuracy"].value.item() == 1.0
    assert figures["loss"].value.item() == 0.0
    half_sure = CopyObjective(length).measure(HardWiredCopier(length, sure=math.log(VOCAB - 1)), sequences(length))
    assert half_sure["loss"].value.item() == pytest.approx(math.log(2)), "nats a symbol"


@pytest.mark.parametrize("length", LENGTHS)
def test_a_copier_that_always_slips_is_never_right(length):
    copier = HardWiredCopier(length, slip=1)
    assert CopyObjective(length).measure(copier, sequences(length))["accuracy"].value.item() == 0.0
    assert CopyObjective(length).generated_accuracy(copier, sequences(length)) == 0.0


def test_a_perfect_copier_meets_corruption():
    """It is right where the copy was left alone, or replaced by the same."""
    batch = sequences(41, size=50, corruption=0.5)
    copied = batch[:, 22:] == batch[:, 1:20]
    accuracy = CopyObjective(41).measure(HardWiredCopier(41), batch)["accuracy"]
    assert accuracy.total.tolist() == copied.sum(1).tolist()
    assert accuracy.value.item() == pytest.approx(copied.double().mean().item())
    assert 0.3 < accuracy.value.item() < 0.8


@pytest.mark.parametrize("length", LENGTHS)
def test_a_perfect_copier_generates_the_word(length):
    assert CopyObjective(length).generated_accuracy(HardWiredCopier(length), sequences(length)) == 1.0


def test_generated_accuracy_does_not_look_at_the_answer():
    """The model gets SOS w SOS and is compared with what stands behind."""
    batch = sequences(12)
    spoilt = batch.clone()
    spoilt[:, 7:9] = spoilt[:, 7:9] % (VOCAB - 1) + 1  # two of the copy's five symbols
    assert CopyObjective(12).generated_accuracy(HardWiredCopier(12), spoilt) == pytest.approx(3 / 5)


@pytest.mark.parametrize("training", [True, False])
def test_generated_accuracy_evaluates_and_leaves_the_mode_as_it_was(training):
    copier = HardWiredCopier(12).train(training)
    CopyObjective(12).generated_accuracy(copier, sequences(12))
    assert copier.seen_modes is False
    assert copier.training is training
