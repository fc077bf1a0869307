"""Time per token in decoding, by the length of the text so far: python benchmarks/decoding_by_length.py.

Byte-level language models (2 layers, width 256, 4 heads, random weights) draw 4,096 tokens step by step with their
caches. They take turns of 64 tokens, so that anything that slows the machine down affects all of them. Prints the
median time per token in each eighth of the text, and writes decoding_by_length_<device>.json to --output_dir.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages are in the parent folder

from benchmarks.command_line import parser, result_file
from dl_proj.models.attention_settings import AttentionSchema
from dl_proj.models.build import build_autoregressive
from dl_proj.models.settings import StackConfig
from dl_proj.tables import markdown
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import machine, seconds_of
from my_transformers.full_settings import FullSettings
from my_transformers.linformer.settings import CausalLinformerSettings
from my_transformers.local_settings import LocalSettings
from my_transformers.lsh.settings import LSHSettings
from my_transformers.performer.settings import PerformerSettings
from my_transformers.settings import MechanismSettings

LENGTH, PARTS, TURN = 4096, 8, 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MECHANISMS: dict[str, MechanismSettings] = {
    "full": FullSettings(),
    "LSH-2": LSHSettings(bucket_size=64, n_rounds=2),
    "LSH-4": LSHSettings(bucket_size=64, n_rounds=4),
    "Performer": PerformerSettings(),
    "block-causal Linformer": CausalLinformerSettings(block_size=64, rank=(8,)),
    "local": LocalSettings(chunk_size=64),
}


def text_of(attention: MechanismSettings) -> Iterator[Tensor]:
    """Iterator that draws the next token of a text on each ``next``."""
    torch.manual_seed(0)
    config = StackConfig(dim=256, heads=4, depth=2, ffn_dim=512, attention=AttentionSchema.of(attention))
    model = build_autoregressive(config, vocab_size=256, max_len=LENGTH).to(DEVICE).eval()
    return model.stream(torch.zeros(1, 1, dtype=torch.int64, device=DEVICE), LENGTH)


def _draw(text: Iterator[Tensor]) -> None:
    for _ in itertools.islice(text, TURN):
        pass


def main(words: list[str] | None = None) -> None:
    """Measure, write, print."""
    arguments = parser(__doc__).parse_args(words)
    texts = {name: text_of(attention) for name, attention in MECHANISMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in texts}  # per token, one number for each turn
    for _ in tqdm(range(LENGTH // TURN), desc="turns of 64 tokens"):
        for name, text in texts.items():
            (turn,) = seconds_of(partial(_draw, text), DEVICE, calls=1, warm_up=0)
            seconds[name].append(turn / TURN)
    path = result_file(arguments, f"decoding_by_length_{DEVICE.type}.json")
    write_text(path, json.dumps({"machine": machine(DEVICE), "seconds a token": seconds}, indent=1) + "\n")
    turns = LENGTH // TURN // PARTS
    rows = []
    for name, found in seconds.items():
        row: dict[str, object] = {"milliseconds a token": name}
        for part in range(PARTS):
            end = (part + 1) * LENGTH // PARTS
            row[f"to {end:,}"] = f"{1000 * statistics.median(found[part * turns : (part + 1) * turns]):.2f}"
        rows.append(row)
    print(markdown(rows))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
