"""The losses of a pixel: bits per dim, focal loss, and weights by frequency."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dl_proj.experiments.images.generation.objective import PixelObjective, count_levels, frequency_weights
from dl_proj.models.build import build_autoregressive
from dl_proj.models.settings import StackConfig

VOCAB = 6


class Prepared(nn.Module):
    """Gives prepared logits and remembers what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens, *, labels):
        self.tokens, self.labels = tokens, labels
        return self.logits


def batch(n=4, side=3, vocab=VOCAB):
    return torch.randint(vocab, (n, 1, side, side)).to(torch.uint8), torch.arange(n)


def naive(logits, images, gamma, weights):
    """Sum of the pixels' losses and of their bits, in float64, by the printed formula."""
    loss, bits = 0.0, 0.0
    for rows, image in zip(logits.double(), images, strict=True):
        for row, level in zip(rows, image.flatten().tolist(), strict=True):
            p = torch.exp(row[level]) / torch.exp(row).sum()
            loss = loss - weights[level] * (1 - p) ** gamma * torch.log(p)
            bits = bits - torch.log2(p).item()
    return loss, bits


def measured(logits, images, gamma=0.0, weights=None):
    return PixelObjective(gamma, weights).measure(Prepared(logits), (images, torch.arange(len(images))))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_the_loss_is_the_printed_formula(gamma, weighted):
    images, _ = batch()
    weights = torch.tensor([0.1, 2.0, 0.7, 1.5, 0.0, 3.0]) if weighted else None
    model = Prepared(2 * torch.randn(4, 9, VOCAB))
    figures = PixelObjective(gamma, weights).measure(model, (images, torch.arange(4)))
    logits = model.logits.detach().double().requires_grad_()
    loss, bits = naive(logits, images, gamma, torch.ones(VOCAB) if weights is None else weights)
    assert figures["loss"].total.item() == pytest.approx(loss.item(), rel=1e-5)
    assert figures["bits_per_dim"].total.item() == pytest.approx(bits, rel=1e-5)
    assert figures["loss"].count == figures["bits_per_dim"].count == 4 * 9
    figures["loss"].value.backward()
    (loss / 36).backward()
    torch.testing.assert_close(model.logits.grad.double(), logits.grad, rtol=1e-4, atol=1e-7)


def test_without_gamma_it_is_cross_entropy():
    images, _ = batch()
    logits = torch.randn(4, 9, VOCAB)
    found = measured(logits, images)["loss"].value
    torch.testing.assert_close(found, F.cross_entropy(logits.flatten(0, 1), images.flatten().long()))


def test_the_model_gets_all_pixels_but_the_last_row_by_row_and_the_labels():
    images, labels = batch()
    model = Prepared(torch.zeros(4, 9, VOCAB))
    PixelObjective().measure(model, (images, labels))
    rows = [[int(image[0, y, x]) for y in range(3) for x in range(3)] for image in images]
    assert model.tokens.tolist() == [row[:-1] for row in rows]
    assert model.tokens.dtype == torch.int64
    assert model.labels is labels


@pytest.mark.parametrize("vocab", [2, 6, 256])
def test_a_model_that_knows_nothing_needs_log2_vocab_bits(vocab):
    images, _ = batch(vocab=vocab)
    bits = measured(torch.zeros(4, 9, vocab), images, gamma=2.0)["bits_per_dim"].value.item()
    assert bits == pytest.approx(math.log2(vocab), rel=1e-6)


def test_a_model_that_knows_the_pixel_needs_none():
    images, _ = batch()
    sure = 30.0 * F.one_hot(images.flatten(1).long(), VOCAB)
    assert 0 <= measured(sure, images)["bits_per_dim"].value.item() < 1e-6


def test_a_model_that_is_half_sure_needs_one_bit():
    images, _ = batch()
    half = math.log(VOCAB - 1) * F.one_hot(images.flatten(1).long(), VOCAB)
    assert measured(half, images)["bits_per_dim"].value.item() == pytest.approx(1, rel=1e-6)


def test_bits_per_dim_depend_on_neither_gamma_nor_weights_and_have_no_gradient():
    images, _ = batch()
    logits = torch.randn(4, 9, VOCAB)
    plain = measured(logits, images)
    other = measured(logits, images, gamma=2.0, weights=torch.rand(VOCAB))
    assert torch.equal(plain["bits_per_dim"].total, other["bits_per_dim"].total)
    assert not torch.isclose(plain["loss"].total, other["loss"].total)
    assert not plain["bits_per_dim"].total.requires_grad


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_gradients_are_finite_where_a_model_is_certain(gamma):
    images = torch.tensor([0, 1, 2, 3]).view(4, 1, 1, 1)
    for size in (1e4, 90.0, 20.0, 16.0):
        logits = torch.zeros(4, 1, VOCAB)
        logits[:2, 0, 0] = size  # right, wrong
        logits[2:, 0, 2] = -size  # wrong, and one of several
        model = Prepared(logits)
        figures = PixelObjective(gamma).measure(model, (images, torch.arange(4)))
        figures["loss"].total.backward()
        assert figures["loss"].total.isfinite()
        assert figures["bits_per_dim"].total.isfinite()
        assert model.logits.grad.isfinite().all()
        assert model.logits.grad[0].abs().max() < 1e-5, "nothing to learn where it is right and certain"
        assert model.logits.grad[1, 0, 1].item() == pytest.approx(-1, rel=1e-4), "all of it where it is wrong"


@pytest.mark.parametrize("gamma", [0, 0.5])
def test_every_pixel_counts_the_first_and_the_last_too(gamma):
    """With a real model: what a pixel is tells in the loss of itself and of those behind it."""
    torch.manual_seed(1)
    config = StackConfig.model_validate({"dim": 8, "heads": 2, "ffn_dim": 8, "attention": {"kind": "full"}})
    model = build_autoregressive(config, vocab_size=VOCAB, max_len=9, n_labels=2).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    images, labels = torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.tensor([1])

    def bits_and_loss():
        figures = PixelObjective(gamma).measure(model, (images, labels))
        return [figures[name].value.item() for name in ("bits_per_dim", "loss")]

    before = bits_and_loss()
    for place in range(9):
        images.view(-1)[place] = 3
        assert all(abs(one - two) > 1e-6 for one, two in zip(before, bits_and_loss(), strict=True)), place
        images.zero_()
    labels[0] = 0
    assert bits_and_loss() != before


def test_probabilities_of_all_images_add_up_to_one():
    """The model's bits are those of a distribution over whole images, given the label."""
    torch.manual_seed(1)
    config = StackConfig.model_validate({"dim": 8, "heads": 2, "ffn_dim": 8, "attention": {"kind": "shared_qk"}})
    model = build_autoregressive(config, vocab_size=3, max_len=4, n_labels=2).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = torch.cartesian_prod(*[torch.arange(3)] * 4).view(81, 1, 1, 2, 2)
    total = 0.0
    for image in images:
        figures = PixelObjective().measure(model, (image, torch.tensor([1])))
        total += 2 ** -figures["bits_per_dim"].total.item()
        assert figures["bits_per_dim"].count == 4
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weights_follow_from_frequencies(power):
    levels = torch.from_numpy(np.random.default_rng(0).choice(5, p=[0.7, 0.1, 0.1, 0.08, 0.02], size=(40, 1, 6, 6)))
    weights = frequency_weights(count_levels(levels.to(torch.uint8), VOCAB), power)
    assert (weights.dtype, weights.shape) == (torch.float32, (VOCAB,))
    assert weights[levels].double().mean().item() == pytest.approx(1, rel=1e-6)
    counts = [(levels == level).sum().item() for level in range(5)]
    for one in range(5):
        for two in range(5):
            ratio = (counts[one] / counts[two]) ** -power
            assert (weights[one] / weights[two]).item() == pytest.approx(ratio, rel=1e-5)
    once = (1 / counts[0]) ** -power
    assert (weights[5] / weights[0]).item() == pytest.approx(once, rel=1e-5), "a level that never occurs"
    if power == 0:
        assert torch.equal(weights, torch.ones(VOCAB))
    if power == 1:
        spread = np.bincount(levels.flatten(), weights=weights[levels].flatten())
        np.testing.assert_allclose(spread, spread.mean(), rtol=1e-5)
