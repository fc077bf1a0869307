"""mnist_generator.py: images from a trained generator, new ones or real ones whose lower half it finishes."""

from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures
from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoint, read_config, with_root
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.images.data import known_classes, load_configured, quantised, to_pixels
from dl_proj.experiments.images.generation.draw import draw, draw_grid
from dl_proj.experiments.images.generation.settings import DrawConfig, GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.experiments.images.sources import chosen_classes
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import load_weights, start
from my_custom_ai.utils.files import whole_file


def draw_digits(config: DrawConfig) -> None:
    """Draw what is asked for, and write grid.png."""
    folder = find_checkpoint(config.checkpoint)
    trained = with_root(read_config(GeneratorTrainConfig, folder), config.data_root)
    known = known_classes(trained.data)
    try:
        classes = chosen_classes(known, config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from None
    judge = (
        None if config.judge is None else Judge(config.judge, classes, config.data_root)
    )  # before the drawing takes its time
    accelerator = start(config.device)
    model = build_generator(trained, len(known))
    load_weights(folder / "model.safetensors", model)
    labels = torch.tensor([known.index(name) for name in classes]).repeat_interleave(config.per_label)
    real = _real_images(trained, labels, known, config.per_label) if config.complete else None
    drawn = draw(
        model.to(accelerator.device),
        labels,
        trained.data,
        seed=config.seed,
        device=accelerator.device,
        given=None if real is None else real[:, : _upper_half(trained.data.side)],
        batch_size=config.batch_size,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        progress=partial(tqdm, desc="drawing", unit="pixel", dynamic_ncols=True),
    )
    if real is None:
        rows = drawn.unflatten(0, (len(classes), config.per_label))
    else:
        pixels = to_pixels(real, trained.data.vocab_size).view_as(drawn)
        pairs = torch.stack((pixels, drawn), dim=1)
        rows = pairs.unflatten(0, (len(classes), config.per_label)).flatten(1, 2)
    columns = () if real is None else ("real", "finished") * config.per_label
    draw_grid(rows, classes, config.output_dir / "grid.png", columns)
    print(f"written: {config.output_dir / 'grid.png'}")
    if config.single_files:
        _write_single_files(drawn, classes, config)
    if judge is not None:
        right = judge.count_right(drawn, classes, config.per_label)
        print(f"{config.judge} reads {right} of {len(drawn)} images as their label ({right / len(drawn):.1%})")


def _real_images(trained: GeneratorTrainConfig, labels: Tensor, known: tuple[str, ...], per_label: int) -> Tensor:
    """The first test images of each wanted label: (n, pixels) levels."""
    test = load_configured(trained.data).test
    found = []
    for label in labels.unique_consecutive():
        some = test.levels[test.labels == label][:per_label]
        if len(some) < per_label:
            raise ConfigError(f"per_label: {per_label} is more than the {len(some)} test images of {known[label]}")
        found.append(some.flatten(1).long())
    return torch.cat(found)


def _upper_half(side: int) -> int:
    """Pixels in the upper half of an image, the middle row of an odd side included."""
    return (side + 1) // 2 * side


def _write_single_files(drawn: Tensor, classes: tuple[str, ...], config: DrawConfig) -> None:
    for i, image in enumerate(drawn):
        label, number = classes[i // config.per_label], i % config.per_label
        with whole_file(config.output_dir / f"{label}_{number}.png") as part:
            Image.fromarray(image.numpy()).save(part, format="png")
    print(f"written: {len(drawn)} files {config.output_dir / '<label>_<number>.png'}")


class Judge:
    """A classifier of the same classes that says whether a drawn image looks like its label.

    Args:
        checkpoint: its name or folder.
        classes: that are drawn.
        data_root: of an image folder, whose classes name what it knows; None: where it was trained.

    Raises:
        ConfigError: it does not know one of the classes.
    """

    def __init__(self, checkpoint: str, classes: tuple[str, ...], data_root: Path | None = None) -> None:
        folder = find_checkpoint(checkpoint)
        self.config = with_root(read_config(ClassifierTrainConfig, folder), data_root)
        self.known = known_classes(self.config.data)
        if missing := [name for name in classes if name not in self.known]:
            raise ConfigError(f"judge: {checkpoint} knows no {', '.join(missing)}; it knows {', '.join(self.known)}")
        self.model = build_classification_model(self.config, len(self.known))
        load_weights(folder / "model.safetensors", self.model)
        self.model.eval()

    @torch.no_grad()
    def count_right(self, drawn: Tensor, classes: tuple[str, ...], per_label: int) -> int:
        """Images (n, side, side), ``per_label`` of each class in order, that are taken for their class."""
        data = self.config.data
        images = drawn.unsqueeze(1).expand(-1, data.channels, -1, -1)
        images = pictures.resize(images, [data.side, data.side], antialias=True)
        levels = quantised(images, data.vocab_size)
        said = torch.cat([self.model(some).argmax(-1) for some in levels.split(self.config.train.eval_batch_size)])
        asked = torch.tensor([self.known.index(name) for name in classes]).repeat_interleave(per_label)
        return int((said == asked).sum())
