"""Time that the cache saves in decoding: python benchmarks/cached_decoding.py [checkpoint ...].

Each generator draws a grid of 100 images twice: token by token with its cache, and by running the model on the whole
prefix for every pixel. Prints a table and writes cached_decoding.json to --output_dir. The pixels of the timed runs are
compared, in float32, where rounding may select another level, and those of two further runs in float64.
"""

import json
import platform
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages are in the parent folder

from benchmarks.command_line import parser, result_file
from dl_proj.checkpoint_folder import find_checkpoint, read_config
from dl_proj.experiments.images.data import known_classes
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import build_generator
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.sampling import sampler
from dl_proj.tables import markdown
from my_custom_ai.custom_train import CheckpointError, load_weights
from my_custom_ai.utils.files import write_text
from my_transformers import LSHAttention
from my_transformers.lsh.hashing import choose_n_buckets

N_IMAGES = 100
CHECKPOINTS = ["mnist-gen-full-144", "mnist-gen-lsh-r1-144", "mnist-gen-lsh-r2-144", "mnist-gen-lsh-r4-144"]


@torch.no_grad()
def by_recomputing(model: AutoregressiveModel, labels: Tensor, length: int, uniform: Tensor) -> Tensor:
    """Draw pixels by running the model on the whole prefix for every pixel."""
    for module in model.modules():
        if isinstance(module, LSHAttention):  # a prefix needs the same number of buckets as the whole image
            module.n_buckets = choose_n_buckets(length, module.bucket_size)
    choose = sampler(uniform)
    pixels = torch.empty(len(labels), 0, dtype=torch.int64)
    for t in tqdm(range(length), desc="recomputing", leave=False):
        new = choose(model(pixels, labels=labels)[:, -1], t)
        pixels = torch.cat((pixels, new.unsqueeze(1)), dim=1)
    return pixels


def measure(name: str) -> dict[str, object]:
    """Measure one checkpoint with and without its cache."""
    folder = find_checkpoint(name)
    config = read_config(GeneratorTrainConfig, folder)
    n_labels = len(known_classes(config.data))
    model = build_generator(config, n_labels).eval()
    load_weights(folder / "model.safetensors", model)
    length = config.data.max_len
    labels = torch.arange(N_IMAGES) % n_labels
    uniform = torch.rand(N_IMAGES, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prompt = torch.empty(N_IMAGES, 0, dtype=torch.int64)
    model.generate(prompt, 8, labels=labels, choose=sampler(uniform))  # warm-up
    start = time.perf_counter()
    cached = model.generate(prompt, length, labels=labels, choose=sampler(uniform))
    between = time.perf_counter()
    recomputed = by_recomputing(model, labels, length, uniform)
    end = time.perf_counter()
    model.double()
    exact = model.generate(prompt, length, labels=labels, choose=sampler(uniform))
    return {
        "checkpoint": name,
        "attention": config.model.attention.title,
        "cached_seconds": round(between - start, 3),
        "recomputed_seconds": round(end - between, 3),
        "ratio": round((end - between) / (between - start), 1),
        "pixels": cached.numel(),
        "different_pixels": int((cached != recomputed).sum()),
        "different_in_float64": int((exact != by_recomputing(model, labels, length, uniform)).sum()),
    }


def main(words: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument(
        "checkpoints", nargs="*", default=CHECKPOINTS, metavar="checkpoint", help="a generator's folder or shipped name"
    )
    arguments = options.parse_args(words)
    try:
        for name in arguments.checkpoints:
            find_checkpoint(name)
    except CheckpointError as error:
        options.error(str(error))
    rows = [measure(name) for name in arguments.checkpoints]
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    path = result_file(arguments, "cached_decoding.json")
    write_text(path, json.dumps({"machine": machine | {"torch": torch.__version__}, "rows": rows}, indent=2) + "\n")
    print(markdown(rows))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
