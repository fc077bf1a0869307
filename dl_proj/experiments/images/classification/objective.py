"""The objective of classification, and the confusion matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from my_custom_ai.custom_train.data import evaluation_batches
from my_custom_ai.utils.meters import Ratio


class ClassificationObjective:
    """Cross-entropy (nats per example) and accuracy.

    Args:
        random_shift: maximum of the random shifts of training images, in pixels along each axis.
    """

    def __init__(self, random_shift: int = 0) -> None:
        self.random_shift = random_shift

    def measure(self, model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Ratio]:
        """Measure a batch of model inputs, such as images (b, c, side, side), and labels (b,); see Objective."""
        *inputs, labels = batch
        if model.training and self.random_shift:
            inputs = [randomly_shifted(images, self.random_shift) for images in inputs]
        logits = model(*inputs)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        correct = logits.argmax(-1) == labels
        return {"loss": Ratio(loss, len(labels)), "accuracy": Ratio(correct, torch.ones_like(correct))}


def randomly_shifted(images: Tensor, most: int) -> Tensor:
    """Shift each image of (b, c, h, w) by -most to most pixels along both axes, replicating its border."""
    padded = F.pad(images.float(), (most,) * 4, mode="replicate").to(images.dtype)
    batch, _, height, width = images.shape
    top, left = torch.randint(0, 2 * most + 1, (2, batch, 1), device=images.device)
    rows = (top + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, None, :]
    which = torch.arange(batch, device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[which, channels, rows, columns]


@torch.no_grad()
def confusion_matrix(
    model: nn.Module, data: Dataset[tuple[Tensor, Tensor]], *, n_classes: int, batch_size: int, device: torch.device
) -> Tensor:
    """Count the images by true class (rows) and predicted class (columns): (n_classes, n_classes) int64."""
    was_training = model.training
    model.eval()
    counts = torch.zeros(n_classes**2, dtype=torch.int64)
    for images, labels in evaluation_batches(data, batch_size=batch_size):
        predicted = model(images.to(device)).argmax(-1).cpu()
        counts += torch.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    model.train(was_training)
    return counts.view(n_classes, n_classes)
