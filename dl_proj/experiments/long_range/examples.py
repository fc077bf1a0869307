"""lra_examples.py: what a task looks like."""

import math
import tempfile
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from dl_proj.experiments.long_range.data import load_task
from dl_proj.experiments.long_range.data_settings import (
    ImageSequenceConfig,
    ListOpsConfig,
    LongRangeDataConfig,
    PathfinderConfig,
)
from dl_proj.experiments.long_range.examples_settings import ExamplesConfig
from dl_proj.experiments.long_range.listops import to_text
from dl_proj.experiments.long_range.sequences import Splits
from dl_proj.figure_style import PAGE, style
from dl_proj.pictures import save_figure
from my_custom_ai.custom_train.data import length_of

_SHOWN = 300  # bytes of a text


def show_examples(config: ExamplesConfig) -> None:
    """Draw or print the first test examples; of those that are made, no others are."""
    with tempfile.TemporaryDirectory() as folder:
        task = _first(config.data, config.number, Path(folder))
        number = min(config.number, length_of(task.test, "test data"))
        examples = [task.test[i] for i in range(number)]
    if isinstance(config.data, PathfinderConfig | ImageSequenceConfig):
        _draw([(pixels, task.classes[label]) for (pixels,), label in examples], config)
        print(f"written: {config.output}")
    else:
        for sequences, label in examples:
            print(f"{task.classes[label]}: {' | '.join(_as_text(config.data, sequence) for sequence in sequences)}")
    counts = Counter(task.classes[label] for _, label in examples)
    shares = ", ".join(f"{name} {counts[name] / number:.1%}" for name in task.classes)
    print(f"classes of {number} test examples: {shares}")


def _first(data: LongRangeDataConfig, number: int, folder: Path) -> Splits:
    if isinstance(data, ListOpsConfig | PathfinderConfig):
        return load_task(data.model_copy(update={"n_test": number, "n_val": 2, "n_train": 2, "root": folder}))
    return load_task(data)


def _as_text(data: LongRangeDataConfig, sequence: Tensor) -> str:
    tokens = bytes(sequence.tolist())
    if isinstance(data, ListOpsConfig):
        return to_text(tokens)
    text = " ".join(tokens[:_SHOWN].decode(errors="replace").split())
    return f"{text}..." if len(tokens) > _SHOWN else text


def _draw(examples: list[tuple[Tensor, str]], config: ExamplesConfig) -> None:
    """A page of pictures with their classes, about as wide as high."""
    side, columns = math.isqrt(config.data.max_length), math.ceil(math.sqrt(len(examples) * 1.5))
    rows = -(-len(examples) // columns)
    with style():
        unit = PAGE / columns
        figure = Figure(figsize=(PAGE, (unit + 0.2) * rows), layout="constrained")
        for number, (pixels, name) in enumerate(examples, start=1):
            panel = figure.add_subplot(rows, columns, number)
            panel.imshow(pixels.view(side, side).numpy(), cmap="gray", vmin=0, interpolation="nearest")
            panel.set_title(name)
            panel.set_axis_off()
    save_figure(figure, config.output)
