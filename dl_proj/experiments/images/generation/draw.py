"""Draw images with a generator, and lay them out as one picture."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from dl_proj.experiments.images.data import to_pixels
from dl_proj.experiments.images.settings import GeneratorDataConfig
from dl_proj.figure_style import style
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.sampling import sampler
from dl_proj.pictures import plain, room_for, save_figure

_GAP = 96  # grey between the images
_WIDEST = 300  # inches: matplotlib draws 65,536 pixels at most


def draw(
    model: AutoregressiveModel,
    labels: Tensor,
    data: GeneratorDataConfig,
    *,
    seed: int,
    device: torch.device,
    given: Tensor | None = None,
    batch_size: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """Draw an image for each label, pixel by pixel with a cache.

    Image i depends on ``seed``, i, its label and its given pixels alone, not on the batch that it is drawn in.

    Args:
        model: a generator.
        labels: (n,) int64.
        data: the images that it was trained on.
        seed: of the draws.
        device: the model's.
        given: (n, k) first pixels' levels, to be continued; None draws all pixels.
        batch_size: images drawn together.
        temperature: see :func:`~dl_proj.models.sampling.sample`, as the next two.
        top_k: see there.
        top_p: see there.
        progress: wraps the pixels of a batch, for a progress bar.

    Returns:
        (n, side, side) uint8 pixels from 0 to 255.
    """
    was_training = model.training
    model.eval()
    given = torch.empty(len(labels), 0, dtype=torch.int64) if given is None else given
    n_new = data.max_len - given.shape[1]
    uniform = torch.rand(len(labels), n_new, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    levels = []
    for start in range(0, len(labels), batch_size):
        some = slice(start, start + batch_size)
        choose = sampler(uniform[some].to(device), temperature=temperature, top_k=top_k, top_p=top_p)
        known = given[some].to(device)
        new = model.generate(known, n_new, labels=labels[some].to(device), choose=choose, progress=progress)
        levels.append(torch.cat((known, new), dim=1).cpu())
    model.train(was_training)
    return to_pixels(torch.cat(levels), data.vocab_size).unflatten(1, (data.side, data.side))


def draw_grid(rows: Tensor, labels: tuple[str, ...], path: Path, columns: tuple[str, ...] = ()) -> None:
    """Write images (rows, columns, side, side) as one PNG, a label before each row and perhaps a title a column."""
    height, width, side = rows.shape[:3]
    framed = F.pad(rows, (0, 1, 0, 1), value=_GAP).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[:-1, :-1]
    unit = min(0.5, _WIDEST / max(height, width))
    names = [plain(label) for label in labels]
    with style():
        size = (unit * width + 0.6 + room_for(names), unit * height + (0.4 if columns else 0.1))
        figure = Figure(figsize=size, layout="constrained")
        panel = figure.add_subplot()
        panel.imshow(framed.numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        middles = [(side + 1) * i + (side - 1) / 2 for i in range(max(height, width))]
        panel.set_yticks(middles[:height], names)
        panel.set_xticks(middles[: len(columns)], [plain(column) for column in columns], fontsize=8)
        panel.xaxis.tick_top()
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    save_figure(figure, path)
