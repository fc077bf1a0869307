"""Attention layers by length: python -m benchmarks.gpu.layers --output FILE.

Measures forward, forward and backward, and one step of decoding, for our mechanisms, PyTorch's fused kernels,
FlexAttention, flash-linear-attention and other libraries. bfloat16, 8 heads of size 64, 65,536 tokens per batch in
sequences of 1,024 to 131,072 tokens (at 131,072, one sequence). A step decodes 16 sequences with caches of that length.
All layers include the projections to heads and back.

Times are those of single calls, by CUDA events. Memory is the peak of PyTorch's allocator during a call, above what was
allocated before, so without the input, the weights and their gradients. Forward alone runs without autograd; LSH draws
new rotations in it.

A case is one layer, one length and one of the three kinds; the most important cases come first.
"""

import gc
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend

from benchmarks import layers
from benchmarks.gpu import stage
from benchmarks.gpu.by_length import Found, free, in_form, key_of, parsed, rows_by_length
from benchmarks.gpu.results import Results
from benchmarks.layers import Sizes
from my_custom_ai.utils.measure import allocated_peak, seconds_within
from my_transformers import Cache, MultiHeadAttention
from my_transformers.lsh.cache import LSHCache

TOKENS, SEQUENCES = 65_536, 16  # tokens of a batch; sequences of a decoding step
LENGTHS = (4096, 16_384, 65_536, 8192, 32_768, 2048, 131_072, 1024)  # the most important first
FEW = (4096, 65_536, 16_384, 1024)
BOTH, FORWARD, STEP = "forward and backward", "forward", "one step of decoding"
FLASH, FLASH_BIDIRECTIONAL = "flash", "flash, bidirectional"


class Contender(NamedTuple):
    """A layer to measure."""

    make: Callable[[int, Sizes], nn.Module]  # (length, sizes) -> layer
    worth: int  # priority; 0 comes first
    lengths: tuple[int, ...] = LENGTHS
    than: str | None = None  # for our layers: the contender to overtake
    steps: bool = False  # whether to measure steps of decoding
    cuda_only: bool = False
    form: str = "torch"  # for our layers: value of MY_TRANSFORMERS_KERNELS
    seconds: float = 0.3  # expected time of a case on an H100 at length 0
    slope: float = 0.5  # additional expected seconds at length 65,536


def _rank(length: int) -> int:
    return min(256, length // 4)


def _lsh(n_rounds: int, *, deduplicate: bool = True) -> Contender:
    make = partial(layers.lsh, n_rounds=n_rounds, window=128, deduplicate=deduplicate)
    headline = deduplicate and n_rounds in (2, 4)
    worth = 0 if headline else 1 if deduplicate else 2
    return Contender(make, worth, LENGTHS if headline else FEW, than=FLASH, steps=deduplicate)


def _fused(contender: Contender, *, seconds: float) -> Contender:
    """A contender with its Triton kernels, which compile in the first case of each kind; there are none for steps."""
    return contender._replace(form="triton", steps=False, cuda_only=True, seconds=seconds)


def _sdpa(worth: int, backend: SDPBackend, *, causal: bool = True, cuda_only: bool = False) -> Contender:
    return Contender(partial(layers.sdpa, causal=causal, backend=backend), worth, cuda_only=cuda_only)


def _flex(keys: int) -> Contender:
    make = partial(layers.sliding_window, keys=keys)
    return Contender(make, 3, FEW[:2], cuda_only=True, seconds=20)  # mostly compilation; cost per token is constant


def _library(make: Callable[..., nn.Module], **settings: object) -> Contender:
    return Contender(partial(make, **settings), 2, FEW, seconds=1, slope=1.5)


_LOCAL = Contender(layers.local, 1, than=FLASH, steps=True)

_PERFORMER = Contender(partial(layers.performer, causal=True), 0, than=FLASH, steps=True, slope=8)
_BIDIRECTIONAL_PERFORMER = Contender(partial(layers.performer, causal=False), 1, than=FLASH_BIDIRECTIONAL)

CONTENDERS = {
    FLASH: _sdpa(0, SDPBackend.FLASH_ATTENTION),
    "LSH-2": _lsh(2),
    "LSH-4": _lsh(4),
    **{f"LSH-{r}, Triton": _fused(_lsh(r), seconds=2) for r in (2, 4)},
    "Performer": _PERFORMER,
    "Performer, Triton": _fused(_PERFORMER._replace(slope=0.5), seconds=2),
    "cuDNN": _sdpa(1, SDPBackend.CUDNN_ATTENTION, cuda_only=True),
    "LSH-1": _lsh(1),
    "LSH-8": _lsh(8),
    "local": _LOCAL,
    "local, FlexAttention": _fused(_LOCAL._replace(lengths=FEW), seconds=5),
    "full": Contender(partial(layers.full, causal=True), 1, steps=True),
    "flash-linear-attention": Contender(layers.fla_performer, 1, seconds=6),  # compiles and tunes in the first case
    FLASH_BIDIRECTIONAL: _sdpa(1, SDPBackend.FLASH_ATTENTION, causal=False),
    "Performer, bidirectional": _BIDIRECTIONAL_PERFORMER,
    "Performer, bidirectional, Triton": _fused(_BIDIRECTIONAL_PERFORMER._replace(lengths=FEW), seconds=2),
    "Linformer, k = 256": Contender(
        lambda length, sizes: layers.linformer(length, sizes, rank=_rank(length)), 1, than=FLASH_BIDIRECTIONAL
    ),
    "shared-QK": Contender(layers.shared_qk, 2, (4096, 2048, 1024), steps=True),
    **{f"LSH-{r}, duplicates counted": _lsh(r, deduplicate=False) for r in (2, 4, 8)},
    **{f"reformer-pytorch, {r} rounds": _library(layers.reformer_pytorch, n_rounds=r) for r in (2, 4)},
    **{f"transformers' Reformer, {r} rounds": _library(layers.transformers_reformer, n_rounds=r) for r in (2, 4)},
    "performer-pytorch": _library(layers.performer_pytorch, causal=True),
    "performer-pytorch, bidirectional": _library(layers.performer_pytorch, causal=False),
    "linformer": Contender(lambda length, sizes: layers.linformer_library(length, sizes, rank=_rank(length)), 2, FEW),
    **{f"FlexAttention, window {keys}": _flex(keys) for keys in (256, 512)},
}


class Scale(NamedTuple):
    """Sizes of the measurement."""

    sizes: Sizes
    tokens: int  # per batch
    sequences: int  # per decoding step
    lengths: tuple[int, ...] | None  # None: those of the contender
    budget: float  # seconds of measured calls per case
    least: int  # minimum number of measured calls


REAL = Scale(Sizes(dim=512, heads=8), TOKENS, SEQUENCES, None, budget=0.15, least=5)
TINY = Scale(Sizes(dim=32, heads=2), 256, 2, (64, 256), budget=0, least=1)


def cases(scale: Scale, device: torch.device) -> list[stage.Case]:
    """All cases in order of importance; on other devices without those that need CUDA."""
    ranked = []
    for name, contender in CONTENDERS.items():
        if contender.cuda_only and device.type != "cuda":
            continue
        for kind in (BOTH, STEP, FORWARD) if contender.steps else (BOTH, FORWARD):
            for place, length in enumerate(scale.lengths or contender.lengths):
                call = in_form(contender.form)(partial(measure, contender.make, length, kind, scale, device))
                seconds = contender.seconds + contender.slope * length / TOKENS
                rank = contender.worth, kind == FORWARD, place
                ranked.append((rank, stage.Case(key_of(name, length, kind), call, seconds)))
    return [case for _, case in sorted(ranked, key=itemgetter(0))]


def measure(
    make: Callable[[int, Sizes], nn.Module], length: int, kind: str, scale: Scale, device: torch.device
) -> dict[str, Any]:
    """Measure one case.

    Returns:
        "seconds" of each call, "peak" memory in bytes, and "batch", the number of sequences.
    """
    free(device)
    torch.manual_seed(0)
    layer = make(length, scale.sizes).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    batch = scale.sequences if kind == STEP else max(1, scale.tokens // length)
    call = _CALLS[kind](layer, batch, length, scale.sizes.dim)
    seconds = seconds_within(call, device, budget=scale.budget, least=scale.least)
    return {"seconds": seconds, "peak": allocated_peak(call, device), "batch": batch}


def _input(layer: nn.Module, *shape: int) -> torch.Tensor:
    like = next(layer.parameters())
    return torch.randn(shape, device=like.device, dtype=like.dtype)


def _both(layer: nn.Module, batch: int, length: int, dim: int) -> Callable[[], None]:
    x, gradient = (_input(layer, batch, length, dim) for _ in range(2))
    x.requires_grad_()

    def call() -> None:
        layer(x).backward(gradient)
        x.grad = None

    return call


def _forward(layer: nn.Module, batch: int, length: int, dim: int) -> Callable[[], None]:
    x = _input(layer, batch, length, dim)

    @torch.no_grad()
    def call() -> None:
        layer(x)

    return call


def _step(layer: nn.Module, batch: int, length: int, dim: int) -> Callable[[], None]:
    """A step that decodes the last of ``length`` tokens; each call decodes the same one."""
    assert isinstance(layer, MultiHeadAttention)  # true for all contenders with ``steps``
    layer.eval()
    cache = layer.new_cache(batch, length)
    fill(cache, length)
    x = _input(layer, batch, 1, dim)

    @torch.no_grad()
    def call() -> None:
        cache.length = length - 1
        layer.step(x, cache)

    return call


_CALLS = {BOTH: _both, FORWARD: _forward, STEP: _step}


def fill(cache: Cache, length: int) -> None:
    """Fill a cache with random keys and values; for LSH, with the expected number of tokens in every bucket.

    A Performer's sums are left as they are: their values do not affect the time.
    """
    for name in ("keys", "values"):
        if hasattr(cache, name):
            getattr(cache, name).normal_()
    if isinstance(cache, LSHCache):
        cache.counts.fill_(length // cache.counts.shape[-1])
        cache.recent.random_(length)
        cache.codes.random_(length)


def main() -> None:
    """Measure the missing cases, as far as time allows."""
    arguments = stage.arguments(__doc__)
    deadline = stage.Deadline(arguments.seconds)
    results = Results(arguments.output, stage="layers", device=arguments.device, tiny=arguments.tiny)
    warnings.simplefilter("ignore")  # the libraries warn a lot
    if arguments.tiny:
        torch.set_num_threads(1)  # with so little work, synchronising threads would take longer than computing
    gc.freeze()  # exempts imported modules from the garbage collection before each case
    stage.go_through(cases(TINY if arguments.tiny else REAL, arguments.device), results, deadline)


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Where our layers overtake flash attention; and times and memory by length, one table per kind of call."""
    found = parsed(results["cases"])
    made = {"Layers against flash attention, forward and backward": overtaking(found)}
    for kind in (BOTH, FORWARD, STEP):
        made[f"Layers, {kind}: milliseconds"] = rows_by_length(found, CONTENDERS, kind, _milliseconds)
    made[f"Layers, {BOTH}: peak MiB"] = rows_by_length(found, CONTENDERS, BOTH, _mebibytes)
    return {title: rows for title, rows in made.items() if rows}


def _milliseconds(case: dict[str, Any]) -> str:
    median = 1000 * statistics.median(case["seconds"])
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def _mebibytes(case: dict[str, Any]) -> str:
    return f"{case['peak'] / 2**20:,.0f}"


def overtaking(found: Found) -> list[dict[str, Any]]:
    """One row per layer of ours: the length from which it is faster, and ratios at the longest length measured."""
    rows = []
    for name, contender in CONTENDERS.items():
        if contender.than is None:
            continue
        own, other = (_medians(found, one) for one in (name, contender.than))
        both = sorted(own.keys() & other.keys())
        if not both:
            continue
        row: dict[str, Any] = {"": name, "than": contender.than, "faster from length": crossing(own, other)}
        measured = [n for n in both if max(own[n], other[n]) < float("inf")]
        if measured:
            longest = measured[-1]
            peaks = [found[one, longest, BOTH]["peak"] for one in (name, contender.than)]
            row["longest"] = f"{longest:,}"
            row["times as fast there"] = f"{other[longest] / own[longest]:.2f}"
            row["times its memory there"] = f"{peaks[0] / peaks[1]:.2f}"
        rows.append(row)
    return rows


def _medians(found: Found, name: str) -> dict[int, float]:
    """Median seconds of forward and backward by length; infinite if the case failed."""
    return {
        length: float("inf") if "error" in case else statistics.median(case["seconds"])
        for (one, length, kind), case in found.items()
        if one == name and kind == BOTH
    }


def crossing(own: dict[int, float], other: dict[int, float]) -> str:
    """The shortest length such that ``own`` is faster than ``other`` there and at all longer lengths measured for both.

    Both map lengths to seconds, infinite if a case failed; where both failed, ``own`` does not count as faster.
    """
    lengths = sorted(own.keys() & other.keys())
    faster_from = None
    for length in reversed(lengths):
        if own[length] >= other[length]:
            break
        faster_from = length
    return f"none up to {lengths[-1]:,}" if faster_from is None else f"{faster_from:,}"


if __name__ == "__main__":
    main()
