"""Training steps of a language model by length: python -m benchmarks.gpu.models --output FILE.

12 layers, width 512, 8 heads, a vocabulary of bytes, plain and reversible; 65,536 tokens a batch, in sequences of 2,048
to 65,536 tokens. A step is forward and loss under autocast to bfloat16, backward, and AdamW. Full attention runs on
PyTorch's flash kernel; LSH attention and the Performer, on a GPU, on their Triton kernels, and LSH-2 also on PyTorch's
operators.
Memory is the peak of torch's allocator in a step, above the weights and AdamW's two moments of them.

Model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is what the model needs a second, by the rates that the card
is sold with:

    FLOPs of a step = 6 * (weights of linear maps) * tokens + 3 * layers * tokens * (FLOPs of attention a token)

A linear map takes two FLOPs a weight and token, backward twice as many: 6. The embedding is a lookup; biases and
normalisation are left out. Attention takes, a token and layer, forward, with n tokens, width d:

    full        4 d (n + 1) / 2           a query meets itself and the tokens before it, in q . k and in p v
    LSH         4 d rounds min(window, (n - 1) / 2)    as if a window were always full, so this is the most it can be;
                + d rounds buckets        the hash, which has no backward: counted once, not three times
    Performer   8 d features              features of q and k, the sum of phi(k) v^T, and phi(q) times it

What is computed twice, in a reversible stack's or a kernel's backward, counts once: a reversible model does the same
work, and what it does besides lowers its utilisation.

A card that is not in the table below is measured by the product of two large matrices (the stage "sanity").
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
    worth: int  # 0 comes first
    form: str = "torch"  # MY_TRANSFORMERS_KERNELS
    seconds: float = 2.0  # that a case takes on an H200, at length 0
    slope: float = 5.0  # and more at 65,536


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
    """How large everything is."""

    model: dict[str, int]  # settings of its sizes
    tokens: int  # of a batch
    lengths: tuple[int, ...]  # in order of worth
    budget: float  # seconds of measured steps in a case
    least: int  # steps


_MODEL = {"dim": 512, "heads": 8, "depth": 12, "ffn_dim": 2048}
_TINY_MODEL = {"dim": 32, "heads": 2, "depth": 2, "ffn_dim": 64}
REAL = Scale(_MODEL, 65_536, (65_536, 16_384, 4096, 32_768, 8192, 2048), budget=0.5, least=3)
TINY = Scale(_TINY_MODEL, 256, (256, 64), budget=0, least=1)

# Dense bfloat16 with float32 sums, TFLOP/s as the makers state them; the first name that the device's contains counts.
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
    """All of them, in order of worth, Triton's only on CUDA; ``peak``: the device's FLOP/s, None if nobody knows."""
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
    """Times and memory of one case.

    Returns:
        "seconds" of each step, "peak" in bytes, "batch" and "length" of its sequences, "flops" of the model in a step,
        and the device's "peak FLOP/s".
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
    """A step on the same text (b, n + 1) each time."""
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
    """Of a training step on ``batch`` sequences of ``length`` tokens; the module's docstring has the formula."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    differentiated, hashing = _attention_flops(config.attention.settings, config.dim, length)
    return batch * length * (6 * weights + config.depth * (3 * differentiated + hashing))


def _attention_flops(attention: MechanismSettings, dim: int, length: int) -> tuple[float, float]:
    """Forward FLOPs per token and layer: of operations that are differentiated, and of hashing, which is not."""
    match attention:
        case FullSettings():
            return 4 * dim * (length + 1) / 2, 0
        case LSHSettings(n_rounds=rounds, bucket_size=size, window=window):
            keys = min(window or 2 * size, (length - 1) / 2)
            return 4 * dim * rounds * keys, dim * rounds * choose_n_buckets(length, size)
        case PerformerSettings(n_features=int(features)):
            return 8 * dim * features, 0
    raise ValueError(f"nobody has counted the operations of attention.kind: {attention.kind}")


def peak_rate(device_name: str, sanity: Path) -> float | None:
    """FLOP/s of a card by its name, else what the stage "sanity" measured, else None."""
    for name, tera in PEAKS.items():
        if re.search(rf"\b{name}\b", device_name) and "MIG" not in device_name:  # which is a part of a card
            return tera * 1e12
    if not sanity.exists():
        return None
    product = json.loads(sanity.read_text(encoding="utf-8"))["cases"].get("bfloat16 product", {})
    return product["TFLOP/s"]["max"] * 1e12 if "TFLOP/s" in product else None


def main() -> None:
    """Measure what is missing, as far as the time allows."""
    arguments = stage.arguments(__doc__)
    deadline = stage.Deadline(arguments.seconds)
    results = Results(arguments.output, stage="models", device=arguments.device, tiny=arguments.tiny)
    peak = peak_rate(results.found["machine"]["device"], arguments.output.with_name("sanity.json"))
    if arguments.tiny:
        torch.set_num_threads(1)  # several would wait for each other longer than they compute
    gc.freeze()  # what was imported need not be looked through before each case
    stage.go_through(cases(TINY if arguments.tiny else REAL, arguments.device, peak), results, deadline)


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Speed, memory and utilisation by length, a table each for plain and for reversible models."""
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
    """Steps a second."""
    return 1 / statistics.median(case["seconds"])


def _thousand_tokens(case: dict[str, Any]) -> str:
    return f"{case['batch'] * case['length'] * _rate(case) / 1000:,.1f}"


def _times(case: dict[str, Any], of_full: dict[int, dict[str, Any]]) -> str | None:
    """Beside full attention of the same length."""
    full = of_full.get(case["length"], {"error": "not measured"})
    return None if "error" in full else f"{_rate(case) / _rate(full):.2f}"


def _utilisation(case: dict[str, Any]) -> str | None:
    return None if case["peak FLOP/s"] is None else f"{100 * case['flops'] * _rate(case) / case['peak FLOP/s']:.1f}"


if __name__ == "__main__":
    main()
