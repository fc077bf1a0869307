"""Every mechanism that the contract is held against.

A mechanism's cases are in its own test file, which mirrors its module (tests/my_transformers/test_linear.py is that of
my_transformers/linear.py): ``CASES`` and ``DEFAULTS``, lists of :class:`Case`, and ``DEFINITIONS``, a dictionary of
:class:`Defined`. :func:`declared` finds them. Those of the older families are here and in test_definitions.py.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from my_transformers import (
    MECHANISMS,
    BlockCausalLinformerAttention,
    Cache,
    ClippedRelativeAttention,
    ConvolutionProjection,
    FullAttention,
    LearnedProjection,
    LengthProjection,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MaxProjection,
    MeanProjection,
    PerformerAttention,
    RelativeAttention,
    SharedQKAttention,
    TransformersLSHAttention,
    extended_dim,
)

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]
BOTH = (False, True)


@dataclass(frozen=True)
class Case:
    """A mechanism under test.

    ``build(causal=, dropout=, heads=, head_dim=)`` makes it, with the same parameters each time.
    """

    name: str
    make: Callable[..., nn.Module]
    directions: tuple[bool, ...] = BOTH  # what ``causal`` can be
    instead: str = ""  # of the direction that there is not: what its refusal names
    min_heads: int = 1
    compiled: bool = True  # False, to save time: other cases have every part of its graph
    pointwise_variant_of: str = ""  # that case has the same lengths, chunks and caches: see ``BOOKKEEPING``
    leaks_by_design: bool = False  # chunk rules: documented, and excused from strict causality and steps
    circle: bool = False  # the padded sequence wraps around: the amount of padding changes outputs
    alone: float = 0.0  # relative error of the value that a token alone gets back in float32
    mixes_values: bool = False  # before attending, by a learned matrix: what comes out is no weighted mean of values
    inexact: bool = False  # weights add up to one about, not exactly

    def __str__(self) -> str:
        return self.name

    def build(
        self, *, causal: bool, dropout: float = 0.0, heads: int = 2, head_dim: int = 8, device: str = "cpu"
    ) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make(heads=heads, head_dim=head_dim, causal=causal, dropout=dropout).to(device)

    def reordering(self, device: str = "cpu") -> float:
        """How far later tokens may move an earlier output in float64: where they change the order of additions.

        Sorting does, and so may CUDA's kernels, which are chosen by the shapes of their inputs.
        """
        return 1e-12 if self.name.startswith("lsh") or device != "cpu" else 0.0


@dataclass(frozen=True)
class Defined:
    """A mechanism and its definition.

    ``make(causal=, heads=, head_dim=, **drawn settings)`` returns the module and a function of (q, k, v, mask).
    """

    make: Callable[..., tuple[nn.Module, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]]
    drawn: st.SearchStrategy[dict] = field(default_factory=lambda: st.just({}))
    directions: tuple[bool, ...] = BOTH


def declared(name: str) -> Iterator[Any]:
    """What the mechanisms' own test files hold under a name."""
    for module in dict.fromkeys(mechanism.__module__ for mechanism in MECHANISMS):
        *folders, file = module.split(".")
        path = Path(__file__).parents[1].joinpath(*folders, f"test_{file}.py")
        if path.exists() and re.search(rf"^{name} = ", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            spec = importlib.util.spec_from_file_location(f"cases_of_{file}", path)
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            yield getattr(loaded, name)


def plain(mechanism: type[nn.Module], **settings: object) -> Callable[..., nn.Module]:
    """For :class:`Case`: of settings that need neither ``heads`` nor ``head_dim``."""
    return lambda *, heads, head_dim, **common: mechanism(**settings, **common)


def _lsh(**settings: object) -> Callable[..., nn.Module]:
    """Causal ones have as many buckets as 70 tokens want: many enough to tell tokens apart, few enough to crowd."""

    def make(*, heads: int, head_dim: int, causal: bool, **common: object) -> nn.Module:
        return LSHAttention(**settings, **common, causal=causal, max_len=70 if causal else None)

    return make


def _performer(**settings: object) -> Callable[..., nn.Module]:
    return lambda *, heads, head_dim, **common: PerformerAttention(head_dim, chunk_size=4, **settings, **common)


def _relative(*, exact: bool = False, **settings: object) -> Callable[..., nn.Module]:
    def make(*, heads: int, head_dim: int, **common: object) -> nn.Module:
        longer = extended_dim(head_dim, 2, settings.get("columns"))
        performer = _performer(n_features=32, turned=longer - head_dim)
        inside = FullAttention(**common) if exact else performer(heads=heads, head_dim=longer, **common)
        return RelativeAttention(inside, heads=heads, head_dim=head_dim, n_scales=2, **settings)

    return make


def _clipped(*, exact: bool = False, **settings: object) -> Callable[..., nn.Module]:
    def make(*, heads: int, head_dim: int, dropout: float, causal: bool) -> nn.Module:
        content = plain(FullAttention) if exact else _performer(n_features=32)
        inside = content(heads=heads, head_dim=head_dim, dropout=dropout, causal=causal)
        return ClippedRelativeAttention(inside, heads=heads, head_dim=head_dim, distance=2, dropout=dropout, **settings)

    return make


def _defaults_around(mechanism: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(*, heads: int, head_dim: int, **common: object) -> nn.Module:
        return mechanism(FullAttention(**common), heads=heads, head_dim=head_dim)

    return make


def _projection(kind: str, max_len: int, rank: int, heads: int, head_dim: int) -> LengthProjection:
    match kind:
        case "learned":
            return LearnedProjection(max_len, rank)
        case "learned-heads":
            return LearnedProjection(max_len, rank, heads=heads)
        case "mean":
            return MeanProjection(max_len, rank)
        case "max":
            return MaxProjection(max_len, rank)
        case "convolution":
            return ConvolutionProjection(max_len, rank, head_dim=head_dim)
        case "convolution-heads":
            return ConvolutionProjection(max_len, rank, head_dim=head_dim, heads=heads)


def _linformer(mechanism: type[nn.Module], max_len: int, rank: int, keys: str, values: str | None = None) -> Callable:
    def make(*, heads: int, head_dim: int, **common: object) -> nn.Module:
        both = [_projection(kind, max_len, rank, heads, head_dim) for kind in (keys, values) if kind]
        return mechanism(*both, **common)

    return make


def _linformers() -> list[Case]:
    """Both mechanisms with each projection; the last column: a learned matrix, whose rows add up to anything."""
    kinds = [
        ("learned", ("learned", "learned"), True),
        ("learned-heads", ("learned-heads",), True),
        ("mean", ("mean",), False),
        ("max", ("max",), False),
        ("convolution", ("convolution",), True),
        ("convolution-heads", ("convolution-heads", "convolution"), True),
    ]
    return [
        Case(
            f"{name}-{kind}",
            _linformer(mechanism, max_len, rank, *projections),
            directions=(causal,),
            instead=instead,
            mixes_values=mixes_values,
            compiled=kind == "learned" or (not causal and kind in ("mean", "convolution-heads")),
            pointwise_variant_of=f"{name}-mean" if kind == "max" else "",
        )
        for name, mechanism, max_len, rank, causal, instead in (
            (
                "linformer",
                LinformerAttention,
                100,
                5,
                False,
                "BlockCausalLinformerAttention, LSHAttention or Performer",
            ),
            ("block-causal", BlockCausalLinformerAttention, 8, 3, True, "use LinformerAttention for both directions"),
        )
        for kind, projections, mixes_values in kinds
    ]


CASES = [
    Case("full", plain(FullAttention)),
    Case("shared_qk", plain(SharedQKAttention)),
    Case("local", plain(LocalAttention, chunk_size=5)),
    Case("local-far", plain(LocalAttention, chunk_size=3, back=2), compiled=False),
    Case(
        "local-circle",
        plain(LocalAttention, chunk_size=4, circle=12),
        directions=(False,),
        instead="causal=False",
        circle=True,
    ),
    Case("lsh-1", _lsh(bucket_size=4, n_rounds=1), compiled=False),
    Case("lsh-3", _lsh(bucket_size=4, n_rounds=3)),
    Case("lsh-narrow", _lsh(bucket_size=8, n_rounds=2, window=3), compiled=False),  # buckets overflow their window
    Case("lsh-crowded", _lsh(n_buckets=2, window=5, n_rounds=2), compiled=False),
    Case("lsh-counted-twice", _lsh(bucket_size=4, n_rounds=3, deduplicate=False), compiled=False),
    Case("lsh-chunk", _lsh(bucket_size=4, n_rounds=2, rule="chunk"), leaks_by_design=True),
    Case(
        "lsh-chunk-across",
        _lsh(bucket_size=4, rule="chunk", attend_across_buckets=True),
        leaks_by_design=True,
    ),
    Case(
        "transformers-lsh",
        plain(TransformersLSHAttention, chunk_size=4, n_rounds=2, multiple_of=8),
        leaks_by_design=True,
        circle=True,
        alone=0.016,
    ),
    Case("performer", _performer(n_features=32)),
    Case("performer-hyperbolic", _performer(n_features=32, kernel="hyperbolic"), pointwise_variant_of="performer"),
    Case("performer-relu", _performer(n_features=32, kernel="relu"), pointwise_variant_of="performer"),
    Case("performer-unprojected", _performer(kernel="unprojected"), pointwise_variant_of="performer"),
    Case("relative-line", _relative(), compiled=False),
    Case("relative-grid", _relative(columns=5, off_grid=1), compiled=False),
    Case("relative-exact", _relative(exact=True, columns=5, off_grid=1)),
    Case("relative-without-content", _relative(exact=True, content=False), pointwise_variant_of="relative-exact"),
    Case("clipped-line", _clipped(), min_heads=2, compiled=False),
    Case("clipped-grid", _clipped(columns=5, off_grid=1), min_heads=2, compiled=False),
    Case("clipped-exact", _clipped(exact=True, columns=5, off_grid=1), min_heads=2),
    *_linformers(),
]
DEFAULTS = [  # with all that can be left out left out, for sequences longer than their blocks
    Case("full-default", plain(FullAttention)),
    Case("shared_qk-default", plain(SharedQKAttention)),
    Case("local-default", plain(LocalAttention)),
    Case("lsh-default", plain(LSHAttention)),
    Case("performer-default", lambda *, heads, head_dim, **common: PerformerAttention(head_dim, **common)),
    Case("linformer-default", _linformer(LinformerAttention, 400, 50, "learned"), directions=(False,)),
    Case("block-causal-default", _linformer(BlockCausalLinformerAttention, 64, 16, "learned"), directions=(True,)),
    Case("relative-default", _defaults_around(RelativeAttention)),
    Case("clipped-default", _defaults_around(ClippedRelativeAttention)),
]


def heads(
    n: int,
    *,
    seed: int = 0,
    batch: int = 2,
    h: int = 2,
    d: int = 8,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[Tensor]:
    """q, k and v (batch, h, n, d) of one seed; the first half of the tokens hash alike, so buckets are crowded."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn((3, batch, h, n, d), generator=generator, dtype=torch.float64).unbind(0)
    q[:, :, : n // 2] = q[:, :, :1] + 0.1 * q[:, :, : n // 2]
    return [x.to(device, dtype) for x in (q, k, v)]


def attend(mechanism: nn.Module, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Call a mechanism with as many of the three as it takes."""
    return mechanism(q, v, mask=mask) if mechanism.shared_query_key else mechanism(q, k, v, mask=mask)


def steps(mechanism: nn.Module, q: Tensor, k: Tensor, v: Tensor, *, cache: Cache | None = None) -> Tensor:
    """The same, one token at a time, perhaps after those that a cache knows."""
    cache = mechanism.new_cache(q, q.shape[2]) if cache is None else cache
    one = [
        [x[:, :, t : t + 1] for x in ((q, v) if mechanism.shared_query_key else (q, k, v))] for t in range(q.shape[2])
    ]
    return torch.cat([mechanism.step(*token, cache) for token in one], dim=2)


CASES += [case for cases in declared("CASES") for case in cases]  # last, for those files import what is above
DEFAULTS += [case for cases in declared("DEFAULTS") for case in cases]
BOOKKEEPING = [case for case in CASES if not case.pointwise_variant_of]
"""The cases that the tests of lengths, rows, caches and graphs run.

A case that differs from another one in pointwise functions alone is held to what depends on numbers: causality,
padding, weights, steps, dropout, precision, extremes, gradients. What depends on lengths, rows, caches and graphs is
proven by the other case: any length, independent rows, cuts of steps, rows picked anew, refusals, compiling.
"""
STRICT = [case for case in CASES if not case.leaks_by_design and True in case.directions]
