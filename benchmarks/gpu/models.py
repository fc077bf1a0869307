"""Training steps of a language model by length: python -m benchmarks.gpu.models --output FILE.

12 layers, width 512, 8 heads, byte vocabulary, plain and reversible; 65,536 tokens per batch, in sequences of 2,048 to
65,536 tokens. A step is forward and loss under bfloat16 autocast, backward, and AdamW. Full attention uses PyTorch's
flash kernel. LSH attention and the Performer use their Triton kernels on a GPU, and LSH-2 also PyTorch's operators.
Memory is the peak of PyTorch's allocator during a step, above the weights and AdamW's two moments.

Model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is the model's FLOPs per second divided by the card's
specified peak rate, where

    FLOPs of a step = 6 * (weights of linear maps) * tokens + 3 * layers * tokens * (FLOPs of attention per token)

A linear map takes two FLOPs per weight and token in forward, and four in backward: 6. The embedding is a lookup; biases
and normalisation are omitted. Forward FLOPs of attention per token and layer, with n tokens and width d:

    full        4 d (n + 1) / 2           a query attends to itself and earlier tokens, in q . k and in p v
    LSH         4 d rounds min(window, (n - 1) / 2)    an upper bound: windows are assumed to be full;
                + d rounds buckets        the hash, which has no backward, so it counts once instead of three times
    Performer   8 d features              features of q and k, the sum of phi(k) v^T, and phi(q) times it

Recomputation, in the backward of a reversible stack or of a kernel, does not count: it is not work of the model, and
lowers the utilisation.

For a card that is not in the table below, the peak is that of a product of two large matrices (stage "sanity").
"""

import contextlib
import gc
import json
import re
import statistics
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu import stage
from benchmarks.gpu.by_length import free, in_form, key_of, parsed, rows_by_length
from benchmarks.gpu.results import Results
from dl_proj.models.attention_settings import AttentionSchema
from dl_proj.models.build import build_language_model
from dl_proj.models.settings import LanguageModelConfig
from my_custom_ai.utils.measure import allocated_peak, seconds_within
from my_transformers.full_settings import FullSettings
from my_transformers.lsh.hashing import choose_n_buckets
from my_transformers.lsh.settings import LSHSettings
from my_transformers.performer.settings import PerformerSettings
from my_transformers.settings import MechanismSettings

PLAIN, REVERSIBLE = "plain", "reversible"
VOCABULARY = 256
FULL = "full (flash)"


class Contender(NamedTuple):
    """An attention to measure."""

    attention: MechanismSettings
    worth: int  # priority; 0 comes first
    form: str = "torch"  # value of MY_TRANSFORMERS_KERNELS
    seconds: float = 2.0  # expected time of a case on an H200 at length 0
    slope: float = 5.0  # additional expected seconds at length 65,536


def _lsh(n_rounds: int) -> LSHSettings:
    return LSHSettings(bucket_size=64, n_rounds=n_rounds)


_PERFORMER = PerformerSettings(n_features=256)

CONTENDERS = {
    FULL: Contender(FullSettings(), 0),
    "LSH-2, Triton": Contender(_lsh(2), 0, "triton"),
    "Performer, Triton": Contender(_PERFORMER, 0, "triton"),
    "LSH-4, Triton": Contender(_lsh(4), 1, "triton"),
    "LSH-2": Contender(_lsh(2), 2),
}


class Scale(NamedTuple):
    """Sizes of the measurement."""

    model: dict[str, int]  # size settings of the model
    tokens: int  # per batch
    lengths: tuple[int, ...]  # the most important first
    budget: float  # seconds of measured steps per case
    least: int  # minimum number of measured steps


_MODEL = {"dim": 512, "heads": 8, "depth": 12, "ffn_dim": 2048}
_TINY_MODEL = {"dim": 32, "heads": 2, "depth": 2, "ffn_dim": 64}
REAL = Scale(_MODEL, 65_536, (65_536, 16_384, 4096, 32_768, 8192, 2048), budget=0.5, least=3)
TINY = Scale(_TINY_MODEL, 256, (256, 64), budget=0, least=1)

# Specified TFLOP/s for dense bfloat16 products with float32 accumulation. The first name that is contained in the
# device's name applies.
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def cases(scale: Scale, device: torch.device, peak: float | None) -> list[stage.Case]:
    """All cases in order of importance, those with Triton only on CUDA; ``peak``: FLOP/s of the device, if known."""
    ranked = []
    for name, contender in CONTENDERS.items():
        if contender.form == "triton" and device.type != "cuda":
            continue
        for place, length in enumerate(scale.lengths):
            for kind in (PLAIN, REVERSIBLE):
                settings = {"attention": AttentionSchema.of(contender.attention), "reversible": kind == REVERSIBLE}
                config = LanguageModelConfig(**scale.model, **settings)
                call = in_form(contender.form)(partial(measure, config, length, scale, device, peak))
                seconds = contender.seconds + contender.slope * length / 65_536
                ranked.append(((contender.worth, place), stage.Case(key_of(name, length, kind), call, seconds)))
    return [case for _, case in sorted(ranked, key=itemgetter(0))]


def measure(
    config: LanguageModelConfig, length: int, scale: Scale, device: torch.device, peak: float | None
) -> dict[str, Any]:
    """Measure one case.

    Returns:
        "seconds" of each step, "peak" memory in bytes, "batch" and "length" of its sequences, "flops" of the model per
        step, and the device's "peak FLOP/s".
    """
    free(device)
    torch.manual_seed(0)
    model = build_language_model(config, causal=True, vocab_size=VOCABULARY, max_len=length).to(device)
    batch = max(1, scale.tokens // length)
    step = training_step(model, torch.randint(VOCABULARY, (batch, length + 1), device=device))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if config.attention.kind == "full" else contextlib.nullcontext():
        seconds = seconds_within(step, device, budget=scale.budget, least=scale.least)
        found = {"seconds": seconds, "peak": allocated_peak(step, device), "batch": batch, "length": length}
    return found | {"flops": model_flops(model, config, batch, length), "peak FLOP/s": peak}


def training_step(model: nn.Module, text: torch.Tensor) -> Callable[[], None]:
    """A function that does one training step, always on the same text (b, n + 1)."""
    optimizer = torch.optim.AdamW(model.parameters())
    tokens, targets = text[:, :-1], text[:, 1:].flatten()

    def step() -> None:
        with torch.autocast(text.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def model_flops(model: nn.Module, config: LanguageModelConfig, batch: int, length: int) -> float:
    """FLOPs of a training step on ``batch`` sequences of ``length`` tokens, by the formula in the module docstring."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    differentiated, hashing = _attention_flops(config.attention.settings, config.dim, length)
    return batch * length * (6 * weights + config.depth * (3 * differentiated + hashing))


def _attention_flops(attention: MechanismSettings, dim: int, length: int) -> tuple[float, float]:
    """Forward FLOPs per token and layer: of the differentiated operations, and of hashing, which is not."""
    match attention:
        case FullSettings():
            return 4 * dim * (length + 1) / 2, 0
        case LSHSettings(n_rounds=rounds, bucket_size=size, window=window):
            keys = min(window or 2 * size, (length - 1) / 2)
            return 4 * dim * rounds * keys, dim * rounds * choose_n_buckets(length, size)
        case PerformerSettings(n_features=int(features)):
            return 8 * dim * features, 0
    raise ValueError(f"the FLOPs of attention.kind: {attention.kind} are not known here; add a formula")


def peak_rate(device_name: str, sanity: Path) -> float | None:
    """Peak FLOP/s of a card, by its name or as measured by the stage "sanity"; None if neither is known."""
    for name, tera in PEAKS.items():
        if re.search(rf"\b{name}\b", device_name) and "MIG" not in device_name:  # a MIG instance is part of a card
            return tera * 1e12
    if not sanity.exists():
        return None
    product = json.loads(sanity.read_text(encoding="utf-8"))["cases"].get("bfloat16 product", {})
    return product["TFLOP/s"]["max"] * 1e12 if "TFLOP/s" in product else None


def main() -> None:
    """Measure the missing cases, as far as time allows."""
    arguments = stage.arguments(__doc__)
    deadline = stage.Deadline(arguments.seconds)
    results = Results(arguments.output, stage="models", device=arguments.device, tiny=arguments.tiny)
    peak = peak_rate(results.found["machine"]["device"], arguments.output.with_name("sanity.json"))
    if arguments.tiny:
        torch.set_num_threads(1)  # with so little work, synchronising threads would take longer than computing
    gc.freeze()  # exempts imported modules from the garbage collection before each case
    stage.go_through(cases(TINY if arguments.tiny else REAL, arguments.device, peak), results, deadline)


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Speed, memory and utilisation by length, for plain and for reversible models."""
    found = parsed(results["cases"])
    made = {}
    for kind in (PLAIN, REVERSIBLE):
        full = {length: case for (name, length, of), case in found.items() if (name, of) == (FULL, kind)}
        columns: dict[str, Callable[[dict[str, Any]], str | None]] = {
            "thousand tokens a second": _thousand_tokens,
            f"times the tokens a second of {FULL}": partial(_times, of_full=full),
            "peak GiB": lambda case: f"{case['peak'] / 2**30:.2f}",
            "model FLOPs utilisation, %": _utilisation,
        }
        for title, show in columns.items():
            rows = rows_by_length(found, CONTENDERS, kind, show)
            if any(value is not None for row in rows for value in list(row.values())[1:]):
                made[f"{kind.capitalize()} models: {title}"] = rows
    return made


def _rate(case: dict[str, Any]) -> float:
    """Steps per second."""
    return 1 / statistics.median(case["seconds"])


def _thousand_tokens(case: dict[str, Any]) -> str:
    return f"{case['batch'] * case['length'] * _rate(case) / 1000:,.1f}"


def _times(case: dict[str, Any], of_full: dict[int, dict[str, Any]]) -> str | None:
    """Speed relative to full attention at the same length."""
    full = of_full.get(case["length"], {"error": "not measured"})
    return None if "error" in full else f"{_rate(case) / _rate(full):.2f}"


def _utilisation(case: dict[str, Any]) -> str | None:
    return None if case["peak FLOP/s"] is None else f"{100 * case['flops'] * _rate(case) / case['peak FLOP/s']:.1f}"


if __name__ == "__main__":
    main()
