"""Use a trained classifier: pictures in, classes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dl_proj.checkpoint_folder import read_config
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import AnyClassifier, build_classification_model
from dl_proj.experiments.images.data import classes_of_model, picture_levels
from dl_proj.experiments.trained import Trained, ready
from dl_proj.models.sampling import check_logits
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train.names import DeviceName

Picture = str | Path | Image.Image


@dataclass(frozen=True)
class Classifier(Trained[ClassifierTrainConfig, AnyClassifier]):
    """A trained image classifier.

    Args:
        classes: the class names, in the order of the model's logits.
    """

    classes: tuple[str, ...]

    def predict(self, pictures: Picture | Sequence[Picture], *, batch_size: int = 100) -> list[dict[str, float]]:
        """Return the probability of each class for each picture, most probable class first.

        Colours, size and levels of a picture are converted as in training.

        Args:
            pictures: files or Pillow images; one or several.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: a picture cannot be read; the message names it.
        """
        if isinstance(pictures, Picture):
            pictures = [pictures]
        found: list[dict[str, float]] = []
        for first in range(0, len(pictures), batch_size):
            some = pictures[first : first + batch_size]
            levels = torch.stack([picture_levels(picture, self.config.data) for picture in some])
            found += self.named(self.probabilities(levels))
        return found

    @torch.no_grad()
    def probabilities(self, levels: Tensor) -> Tensor:
        """Return class probabilities (n, classes), on the CPU, of pixel levels (n, channels, side, side).

        Raises:
            NonFinite: see :func:`~dl_proj.models.sampling.check_logits`.
        """
        logits = self.model(levels.to(self.device))
        check_logits(logits)
        return logits.softmax(-1).cpu()

    def named(self, probabilities: Tensor) -> Iterable[dict[str, float]]:
        """Yield each row of (n, classes) as probabilities by class name, most probable first."""
        for row in probabilities:
            order = row.argsort(descending=True, stable=True).tolist()
            yield {self.classes[i]: row[i].item() for i in order}


def load_classifier(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> Classifier:
    """Load the classifier in a checkpoint's folder; see :func:`dl_proj.load`."""
    config = read_config(ClassifierTrainConfig, folder, data)
    classes = classes_of_model(folder, config.data)
    model, where = ready(build_classification_model(config, len(classes)), folder, device)
    return Classifier(folder, config, model, where, classes)
