"""Every mechanism that the contract is held against, one line each. A new mechanism joins by adding its line."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from my_transformers import FullAttention, LSHAttention, SharedQKAttention

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@dataclass(frozen=True)
class Case:
    """A mechanism under test; ``build(causal=, dropout=)`` makes it."""

    name: str
    build: Callable[..., nn.Module]
    leaks_by_design: bool = False  # the paper's chunk rule: documented, and excused from strict causality and steps

    def __str__(self) -> str:
        return self.name

    @property
    def reordering(self) -> float:
        """How far later tokens may move an earlier output in float64: sorting them changes the order of additions."""
        return 1e-12 if self.name.startswith("lsh") else 0.0


def _lsh(**settings: object) -> Callable[..., nn.Module]:
    return lambda **common: LSHAttention(**(settings | common))


CASES = [
    Case("full", FullAttention),
    Case("shared_qk", SharedQKAttention),
    Case("lsh-1", _lsh(bucket_size=4, n_rounds=1)),
    Case("lsh-3", _lsh(bucket_size=4, n_rounds=3)),
    Case("lsh-narrow", _lsh(bucket_size=8, n_rounds=2, window=3)),  # buckets overflow their window
    Case("lsh-crowded", _lsh(n_buckets=2, window=5, n_rounds=2)),
    Case("lsh-counted-twice", _lsh(bucket_size=4, n_rounds=3, deduplicate=False)),
    Case("lsh-chunk", _lsh(bucket_size=4, n_rounds=2, rule="chunk"), leaks_by_design=True),
    Case("lsh-chunk-across", _lsh(bucket_size=4, rule="chunk", attend_across_buckets=True), leaks_by_design=True),
]
STRICT = [case for case in CASES if not case.leaks_by_design]


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


def steps(mechanism: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, one token at a time."""
    cache = mechanism.new_cache(q, q.shape[2])
    one = [
        [x[:, :, t : t + 1] for x in ((q, v) if mechanism.shared_query_key else (q, k, v))] for t in range(q.shape[2])
    ]
    return torch.cat([mechanism.step(*token, cache) for token in one], dim=2)
