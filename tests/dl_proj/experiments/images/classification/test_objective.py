"""A classifier's figures, shifted training images, and the confusion matrix."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from sklearn import metrics
from torch import nn

from dl_proj.experiments.images.classification.objective import (
    ClassificationObjective,
    confusion_matrix,
    randomly_shifted,
)
from dl_proj.experiments.images.data import LabelledImages, load_configured
from dl_proj.experiments.images.settings import ClassifierDataConfig


class Prepared(nn.Module):
    """Gives prepared logits and remembers what it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        self.images = images
        return self.logits


class Guesser(nn.Module):
    """Says a class that follows from the image's levels; notes its mode and whether a graph is kept."""

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes = n_classes
        self.weight = nn.Parameter(torch.ones(()))
        self.modes, self.graphs, self.sizes = set(), set(), []

    def says(self, images):
        return images.long().flatten(1).sum(1) % self.n_classes

    def forward(self, images):
        self.modes.add(self.training)
        self.sizes.append(len(images))
        logits = self.weight * F.one_hot(self.says(images), self.n_classes).double()
        self.graphs.add(logits.requires_grad)
        return logits


def pictures(n, channels=2, height=5, width=5):
    return torch.randint(256, (n, channels, height, width)).to(torch.uint8)


def all_shifts(image, most):
    """Every shift of (c, h, w), its border repeated outward: {(down, right): image}."""
    _, height, width = image.shape
    found = {}
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            rows = [min(max(y - down, 0), height - 1) for y in range(height)]
            columns = [min(max(x - right, 0), width - 1) for x in range(width)]
            found[down, right] = image[:, rows][:, :, columns]
    return found


def shift_of(result, shifts):
    """Which of the shifts it is; there must be exactly one."""
    same = [by for by, moved in shifts.items() if torch.equal(result, moved)]
    assert len(same) == 1
    return same[0]


def test_loss_and_accuracy():
    logits, labels = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    labels[0] = logits[0].argmax()
    model = Prepared(logits)
    images = pictures(7)
    figures = ClassificationObjective().measure(model, (images, labels))
    assert set(figures) == {"loss", "accuracy"}
    torch.testing.assert_close(figures["loss"].value, F.cross_entropy(logits, labels))
    rows = logits.tolist()
    right = sum(rows[i][label] == max(rows[i]) for i, label in enumerate(labels.tolist()))
    assert 0 < right < 7
    assert figures["accuracy"].value.item() == pytest.approx(right / 7)
    assert figures["loss"].count == figures["accuracy"].count.sum() == 7
    assert figures["accuracy"].total.tolist() == [
        max(row) == row[label] for row, label in zip(rows, labels, strict=True)
    ]
    assert model.images is images
    figures["loss"].value.backward()
    expected = (logits.softmax(-1) - F.one_hot(labels, 4)) / 7
    torch.testing.assert_close(model.logits.grad, expected)


@pytest.mark.parametrize("most", [1, 2])
def test_images_are_shifted_in_training_only(most):
    images, labels = pictures(30), torch.zeros(30, dtype=torch.int64)
    model = Prepared(torch.zeros(30, 3))
    task = ClassificationObjective(random_shift=most)
    task.measure(model.eval(), (images, labels))
    assert torch.equal(model.images, images)
    task.measure(model.train(), (images, labels))
    found = {shift_of(moved, all_shifts(image, most)) for moved, image in zip(model.images, images, strict=True)}
    assert max(abs(step) for by in found for step in by) == most
    ClassificationObjective().measure(model.train(), (images, labels))
    assert torch.equal(model.images, images)


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (5, 7)])
def test_each_image_is_moved_by_one_of_the_shifts(most, height, width):
    """All its channels together, with its border repeated."""
    images = pictures(12, 3, height, width)
    moved = randomly_shifted(images, most)
    assert (moved.dtype, moved.shape) == (torch.uint8, images.shape)
    for before, after in zip(images, moved, strict=True):
        shift_of(after, all_shifts(before, most))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_the_kind_of_numbers_is_kept(dtype):
    images = pictures(4).to(dtype)
    moved = randomly_shifted(images, 1)
    assert moved.dtype == dtype
    for before, after in zip(images, moved, strict=True):
        shift_of(after, all_shifts(before, 1))


@pytest.mark.parametrize("most", [1, 2])
def test_all_shifts_are_equally_frequent_and_each_image_has_its_own(most):
    n = 60 * (2 * most + 1) ** 2
    image = pictures(1)[0]
    shifts = all_shifts(image, most)
    names = {moved.numpy().tobytes(): i for i, moved in enumerate(shifts.values())}
    found = [names[moved.numpy().tobytes()] for moved in randomly_shifted(image.expand(n, -1, -1, -1), most)]
    assert chisquare(np.bincount(found, minlength=len(shifts))).pvalue > 1e-3
    neighbours = np.mean([one == two for one, two in zip(found[1:], found[:-1], strict=True)])
    assert neighbours == pytest.approx(1 / len(shifts), rel=0.4)


def test_no_shift_is_the_image_itself():
    images = pictures(3)
    assert torch.equal(randomly_shifted(images, 0), images)


def test_shifts_come_from_the_global_generator():
    images = pictures(20)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(randomly_shifted(images, 2))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(randomly_shifted(images, 2), randomly_shifted(images, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_confusion_matrix_is_sklearns(training, batch_size):
    data = LabelledImages(pictures(30, 1), torch.arange(30) % 5)  # of 6 classes the last has no image
    model = Guesser(6).train(training)
    counts = confusion_matrix(model, data, n_classes=6, batch_size=batch_size, device=torch.device("cpu"))
    expected = metrics.confusion_matrix(data.labels, model.says(data.levels), labels=range(6))
    assert counts.dtype == torch.int64
    assert counts.tolist() == expected.tolist()
    assert (expected != expected.T).any()
    assert (model.modes, model.graphs, model.training) == ({False}, {False}, training)
    assert max(model.sizes) == min(batch_size, 30)


def test_the_confusion_matrix_of_real_digits():
    test = load_configured(ClassifierDataConfig(dataset="digits")).test
    model = Guesser(10)
    counts = confusion_matrix(model, test, n_classes=10, batch_size=64, device=torch.device("cpu"))
    assert counts.tolist() == metrics.confusion_matrix(test.labels, model.says(test.levels)).tolist()
