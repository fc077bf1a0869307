"""Invariance of outputs, checked on our layers and on those of libraries: python benchmarks/contract.py.

512 tokens, width 256, 4 heads, float32, evaluation mode, the same random numbers in every call. Each check changes an
input on which certain outputs must not depend, and reports the largest change of these outputs relative to the largest
output:

- later: a causal layer's outputs for the first 300 tokens, when the other tokens change;
- padding: the outputs of 400 real tokens, when tokens that the mask marks as padding change;
- others: the outputs of one sequence, when the other sequence of its batch changes.

Tokens are similar to each other, so that LSH attention puts many into one bucket. Prints a table, and writes
contract.json to --output_dir. Needs requirements-dev.txt.
"""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages are in the parent folder

from benchmarks import layers
from benchmarks.command_line import parser, result_file
from dl_proj.tables import markdown
from my_custom_ai.utils.files import write_text
from my_custom_ai.utils.measure import machine

LENGTH, EARLY, REAL = 512, 300, 400
Call = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
"""Calls a layer with tokens (b, n, dim) and a mask (b, n), which is True at real tokens, or None without padding."""


class Case(NamedTuple):
    """A layer, and how to call it."""

    make: Callable[[], nn.Module]
    call: Call
    causal: bool
    masks: bool = True  # whether it takes a mask


def _with(name: str) -> Call:
    """A call that passes the mask, if there is one, as keyword ``name``."""
    return lambda layer, x, mask: layer(x) if mask is None else layer(x, **{name: mask})


def _without(layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    return layer(x)


def _transformers(layer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.layer
    assert isinstance(attention, nn.Module)
    found: Tensor = attention(x, attention_mask=mask, num_hashes=4).hidden_states
    return found


CASES = {
    "LSH-4, ours": Case(lambda: layers.lsh(LENGTH, n_rounds=4, deduplicate=True), _with("mask"), True),
    "LSH-4, reformer-pytorch": Case(lambda: layers.reformer_pytorch(LENGTH, n_rounds=4), _with("input_mask"), True),
    "LSH-4, transformers": Case(lambda: layers.transformers_reformer(LENGTH, n_rounds=4), _transformers, True),
    "Performer, ours": Case(lambda: layers.performer(LENGTH, causal=False), _with("mask"), False),
    "Performer, performer-pytorch": Case(lambda: layers.performer_pytorch(LENGTH, causal=False), _with("mask"), False),
    "causal Performer, ours": Case(lambda: layers.performer(LENGTH, causal=True), _with("mask"), True),
    "causal Performer, performer-pytorch": Case(
        lambda: layers.performer_pytorch(LENGTH, causal=True), _with("mask"), True
    ),
    "Linformer, ours": Case(lambda: layers.linformer(LENGTH, rank=128), _with("mask"), False),
    "Linformer, linformer": Case(lambda: layers.linformer_library(LENGTH, rank=128), _without, False, masks=False),
    "Linformer, linformer-pytorch": Case(
        lambda: layers.linformer_pytorch(LENGTH, rank=128), _with("input_mask"), False
    ),
}


def tokens(seed: int, size: float = 1.0) -> Tensor:
    """Two sequences of similar tokens: a common vector plus noise."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, 1, layers.SIZES.dim, generator=generator)
    return size * (common + 0.7 * torch.randn(2, LENGTH, layers.SIZES.dim, generator=generator))


def moved(case: Case) -> dict[str, float | str]:
    """The largest change of an output in each check, relative to the largest output."""
    torch.manual_seed(0)
    layer = case.make().eval()
    x, changed = tokens(1), tokens(2, size=3.0)
    real = torch.arange(LENGTH).expand(2, -1) < REAL

    def change(other: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs = []
        for some in (x, other):
            torch.manual_seed(1)
            with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
                outputs.append(case.call(layer, some, mask))
        return (outputs[1] - outputs[0]).abs() / outputs[0].abs().max()

    found: dict[str, float | str] = {"later": "not causal", "padding": "takes no mask"}
    if case.causal:
        found["later"] = change(torch.cat((x[:, :EARLY], changed[:, EARLY:]), dim=1))[:, :EARLY].max().item()
    if case.masks:
        found["padding"] = change(torch.where(real.unsqueeze(-1), x, changed), real)[:, :REAL].max().item()
    found["others"] = change(torch.stack((x[0], changed[1])))[0].max().item()
    return found


def main(words: list[str] | None = None) -> None:
    """Check, write, print."""
    arguments = parser(__doc__).parse_args(words)
    warnings.simplefilter("ignore")
    results = {name: moved(case) for name, case in CASES.items()}
    path = result_file(arguments, "contract.json")
    write_text(path, json.dumps({"machine": machine(torch.device("cpu")), "results": results}, indent=1) + "\n")
    print(table(results))
    print(f"written: {path}")


def table(results: dict[str, dict[str, float | str]]) -> str:
    """One row per layer; changes below a millionth count as rounding."""

    def cell(value: float | str) -> str:
        return value if isinstance(value, str) else "unchanged" if value < 1e-6 else f"{100 * value:.2g} %"

    return markdown(
        [{"layer": name} | {check: cell(one) for check, one in row.items()} for name, row in results.items()]
    )


if __name__ == "__main__":
    main()
