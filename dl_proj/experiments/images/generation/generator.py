"""Use a trained generator: classes in, pictures out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.checkpoint_folder import read_config
from dl_proj.experiments.images.data import classes_of_model
from dl_proj.experiments.images.generation.draw import draw
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.images.sources import chosen_classes
from dl_proj.experiments.trained import Trained, ready
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train.names import DeviceName


@dataclass(frozen=True)
class Generator(Trained[GeneratorTrainConfig, AutoregressiveModel]):
    """A trained generator of small grey images.

    Args:
        classes: the classes that it can draw.
    """

    classes: tuple[str, ...]

    def generate(
        self,
        labels: Sequence[str | int],
        *,
        given: Tensor | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        batch_size: int = 100,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Tensor:
        """Draw a picture for each label.

        Args:
            labels: classes, by name or number.
            given: (n, k) levels of each picture's first k pixels, which the model continues; None: it draws all pixels.
            seed: seed of the sampling: the same seed gives the same pictures, whatever the batch size.
            temperature: below 1: more probable pixels; above 1: more variety.
            top_k: sample from only the k most probable levels; None: from all.
            top_p: sample from the smallest set of levels with at least this probability.
            batch_size: pictures drawn together.
            progress: wraps the iteration over pixels, for a progress bar.

        Returns:
            (n, side, side) uint8, 0 is black and 255 white, on the CPU.

        Raises:
            ValueError: an unknown label.
        """
        names = [chosen_classes(self.classes, (label,))[0] for label in labels]
        return draw(
            self.model,
            torch.tensor([self.classes.index(name) for name in names], dtype=torch.int64),
            self.config.data,
            seed=seed,
            device=self.device,
            given=given,
            batch_size=batch_size,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            progress=progress,
        )


def load_generator(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> Generator:
    """Load the generator in a checkpoint's folder; see :func:`dl_proj.load`."""
    config = read_config(GeneratorTrainConfig, folder, data)
    classes = classes_of_model(folder, config.data)
    model, where = ready(build_generator(config, len(classes)), folder, device)
    return Generator(folder, config, model, where, classes)
