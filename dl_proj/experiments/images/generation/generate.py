"""mnist_generator.py: images from a trained generator: new ones, or completions of real upper halves."""

import json
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures
from tqdm import tqdm

from dl_proj.checkpoint_folder import find_checkpoint
from dl_proj.experiments.images.classification.classifier import load_classifier
from dl_proj.experiments.images.data import load_configured, to_pixels
from dl_proj.experiments.images.decoding import quantised
from dl_proj.experiments.images.generation.draw import draw_grid
from dl_proj.experiments.images.generation.generator import Generator, load_generator
from dl_proj.experiments.images.generation.settings import DrawConfig
from dl_proj.experiments.images.sources import chosen_classes
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train.names import DeviceName
from my_custom_ai.utils.files import whole_file, write_text

_SAMPLING = ("temperature", "top_k", "top_p")


def draw_digits(config: DrawConfig) -> None:
    """Draw images as configured, and write grid.png."""
    generator = load_generator(find_checkpoint(config.checkpoint), device=config.device, data=config.data.given)
    data = generator.config.data
    try:
        classes = chosen_classes(generator.classes, config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from None
    root = {name: value for name, value in config.data.given.items() if name == "root"}
    judge = None if config.judge is None else Judge(config.judge, classes, config.device, root)
    real = _real_images(generator, classes, config.per_label) if config.complete else None
    drawn = generator.generate(
        [name for name in classes for _ in range(config.per_label)],
        seed=config.seed,
        given=None if real is None else real[:, : _upper_half(data.side)],
        batch_size=config.batch_size,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        progress=partial(tqdm, desc="drawing", unit="pixel", dynamic_ncols=True),
    )
    if real is None:
        rows = drawn.unflatten(0, (len(classes), config.per_label))
    else:
        pixels = to_pixels(real, data.vocab_size).view_as(drawn)
        pairs = torch.stack((pixels, drawn), dim=1)
        rows = pairs.unflatten(0, (len(classes), config.per_label)).flatten(1, 2)
    columns = () if real is None else ("real", "completed") * config.per_label
    if judge is not None:
        correct = judge.count_right(drawn, classes, config.per_label)
        print(f"{config.judge} recognises {correct} of {len(drawn)} images ({correct / len(drawn):.1%})")
        _write_judgement(config, correct, len(drawn))
    draw_grid(rows, classes, config.output_dir / "grid.png", columns)
    print(f"written: {config.output_dir / 'grid.png'}")
    if config.single_files:
        _write_single_files(drawn, classes, config)


def _real_images(generator: Generator, classes: tuple[str, ...], per_label: int) -> Tensor:
    """Return the first test images of each class: (n, pixels) levels."""
    images = load_configured(generator.config.data)
    found = []
    for name in classes:
        number = images.classes.index(name) if name in images.classes else -1
        places = (images.test.labels == number).nonzero().flatten()[:per_label].tolist()
        if len(places) < per_label:
            raise ConfigError(f"per_label: {per_label} is more than the {len(places)} test images of {name}")
        found.append(torch.stack([images.test[place][0] for place in places]).flatten(1).long())
    return torch.cat(found)


def _write_judgement(config: DrawConfig, correct: int, drawn: int) -> None:
    asked = {name: getattr(config, name) for name in ("checkpoint", "judge", "seed", *_SAMPLING)}
    path = config.output_dir / "judge.json"
    write_text(path, json.dumps(asked | {"images": drawn, "recognised": correct}, indent=2) + "\n")
    print(f"written: {path}")


def _upper_half(side: int) -> int:
    """Return the number of pixels in the upper half of an image, including the middle row of an odd side."""
    return (side + 1) // 2 * side


def _write_single_files(drawn: Tensor, classes: tuple[str, ...], config: DrawConfig) -> None:
    for i, image in enumerate(drawn):
        label, number = classes[i // config.per_label], i % config.per_label
        with whole_file(config.output_dir / f"{label}_{number}.png") as part:
            Image.fromarray(image.numpy()).save(part, format="png")
    print(f"written: {len(drawn)} files {config.output_dir / '<label>_<number>.png'}")


class Judge:
    """A classifier of the same classes that decides whether a drawn image looks like its label.

    Args:
        checkpoint: its name or folder.
        classes: the classes that are drawn.
        device: where to compute.
        data: data settings to override: the root of an image folder, which provides the class names.

    Raises:
        ConfigError: one of the classes is unknown to it.
    """

    def __init__(
        self, checkpoint: str, classes: tuple[str, ...], device: DeviceName = "auto", data: Nested | None = None
    ) -> None:
        self.classifier = load_classifier(find_checkpoint(checkpoint), device=device, data=data)
        known = self.classifier.classes
        if missing := [name for name in classes if name not in known]:
            raise ConfigError(f"judge: {checkpoint} has no class {', '.join(missing)}; must be of {', '.join(known)}")

    def count_right(self, drawn: Tensor, classes: tuple[str, ...], per_label: int) -> int:
        """Count the images that are recognised, among (n, side, side), ``per_label`` of each class in order."""
        data = self.classifier.config.data
        images = drawn.unsqueeze(1).expand(-1, data.channels, -1, -1)
        images = pictures.resize(images, [data.side, data.side], antialias=True)
        levels = quantised(images, data.vocab_size)
        size = self.classifier.config.train.eval_batch_size
        predicted = torch.cat([self.classifier.probabilities(some).argmax(-1) for some in levels.split(size)])
        wanted = torch.tensor([self.classifier.classes.index(name) for name in classes]).repeat_interleave(per_label)
        return int((predicted == wanted).sum())
