"""Relative positions for any mechanism with separate queries and keys (Horn et al. 2021, constrained projections)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.checks import check_heads
from my_transformers.full import KeyValueCache
from my_transformers.mechanism import Mechanism
from my_transformers.relative.grid import check_grid, places
from my_transformers.relative.settings import RelativeSettings


class RelativeAttention(Mechanism, settings=RelativeSettings):
    """Adds a function of the distance between query i and key j to their logit, around another mechanism.

    Along each axis, and for each of ``n_scales`` learned frequencies w, with distance t = x_i - x_j,

        logit_ij = q_i . k_j / sqrt(d) + sum_w (a cos(w t) + b sin(w t)),

    where a and b are learned for each head and, with ``content``, depend on the query: a = a_0 + u_a . q_i. This is an
    inner product of position features: (cos, sin)(w x_j) of the key, and for the query the same turned by the 2 x 2
    matrix that a and b make. So queries and keys are longer by 2 * n_scales * axes numbers, and the mechanism inside
    needs no positions: with the exact softmax the output is translation-equivariant to float precision, with
    random features up to their error, which falls as 1 / sqrt(m) but is large for large queries and keys. Random
    directions that are ``turned`` lower what a translation changes, and raise the error against the exact softmax.

    Definition: my_transformers/reference.py, relative_attention.

    Args:
        mechanism: PerformerAttention, or FullAttention, for queries and keys of :func:`extended_dim` numbers.
        heads: number of heads.
        head_dim: of queries and keys.
        n_scales: frequencies per axis.
        columns: the sequence goes through a grid with so many columns row by row; None: positions on a line.
        off_grid: number of tokens at the start without a place (a class token): no term is added to their logits.
        content: let a and b depend on the query.
        longest: tokens, the longest wavelength at the start; the shortest is 4.

    Raises:
        ValueError: a mechanism that shares queries and keys, or numbers out of range.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        *,
        heads: int,
        head_dim: int,
        n_scales: int = 4,
        columns: int | None = None,
        off_grid: int = 0,
        content: bool = True,
        longest: float = 64,
    ) -> None:
        super().__init__()
        check_grid(columns, off_grid)
        if mechanism.shared_query_key:
            raise ValueError(
                "relative positions need separate queries and keys; use PerformerAttention or FullAttention"
            )
        if n_scales < 1 or longest < 4:
            raise ValueError(f"n_scales is {n_scales}, longest {longest}: must be at least 1 and 4")
        self.mechanism = mechanism
        self.causal = mechanism.causal
        self.head_dim = head_dim
        self.columns = columns
        self.off_grid = off_grid
        axes = 1 if columns is None else 2
        wavelengths = torch.logspace(math.log2(4), math.log2(longest), n_scales, base=2)
        self.frequencies = nn.Parameter((2 * math.pi / wavelengths).expand(axes, -1).clone())
        self.coefficients = nn.Parameter(_SPREAD * torch.randn(heads, 2, axes * n_scales))  # a_0 and b_0
        width = head_dim**-0.5
        self.by_content = (
            nn.Parameter(_SPREAD * width * torch.randn(heads, head_dim, 2 * axes * n_scales)) if content else None
        )
        self._longer = extended_dim(head_dim, n_scales, columns) / head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Q and k (b, h, n, head_dim), v (b, h, n, e), mask (b, n) True where a token is real -> (b, h, n, e).

        Raises:
            ValueError: not as many keys as queries.
        """
        check_heads(q, k, v, heads=len(self.coefficients), head_dim=self.head_dim)
        if q.shape[2] != k.shape[2]:
            raise ValueError(
                f"relative positions need keys at the queries' places, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        tokens = torch.arange(q.shape[2], device=q.device)
        return self.mechanism(*self._extended(q, k, tokens), v, mask=mask)

    def new_cache(self, like: Tensor, max_len: int) -> "RelativeCache":
        """The mechanism's empty cache for decoding up to ``max_len`` tokens, and the number of the next token."""
        inner = self.mechanism.new_cache(like, max_len)
        if isinstance(inner, KeyValueCache):  # whose keys are longer than its values
            inner.keys = like.new_zeros(*inner.keys.shape[:3], round(self.head_dim * self._longer))
        return RelativeCache(inner, 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "RelativeCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the cache is of another shape, or has no room for t more tokens.
        """
        widths = self.head_dim, self.head_dim, v.shape[-1]  # the inner cache checks the values', and the batch
        cache.check(q, k, v, batch=q.shape[0], heads=len(self.coefficients), widths=widths)
        tokens = torch.arange(cache.length, cache.length + q.shape[2], device=q.device)
        out = self.mechanism.step(*self._extended(q, k, tokens), v, cache.inner)
        cache.length += q.shape[2]
        return out

    def _extended(self, q: Tensor, k: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (b, h, n, d') whose inner product, divided by sqrt(d'), is the logit above."""
        angle = places(tokens, self.columns, self.off_grid).to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies
        on_grid = (tokens >= self.off_grid).unsqueeze(-1)  # (n, 1)
        cos, sin = (f(angle.flatten(1)) * on_grid for f in (torch.cos, torch.sin))  # (n, w)
        a, b = self._coefficients(q).unbind(-2)  # (b or 1, h, n or 1, w)
        turned = torch.cat((a * cos + b * sin, a * sin - b * cos), dim=-1) / _KEY_SCALE
        key = torch.cat((cos, sin), dim=-1) * _KEY_SCALE
        q = torch.cat((q, turned.to(q.dtype).expand(*q.shape[:3], -1) * self.head_dim**0.25), dim=-1)
        k = torch.cat((k, key.to(k.dtype).expand(*k.shape[:3], -1) * self.head_dim**0.25), dim=-1)
        longer = self._longer**0.25  # for the mechanism divides by the root of the longer dim
        return q * longer, k * longer

    def _coefficients(self, q: Tensor) -> Tensor:
        """(b or 1, heads, n or 1, 2, w): a and b for each query and frequency."""
        constant = self.coefficients.unsqueeze(1)
        if self.by_content is None:
            return constant.unsqueeze(0)
        return constant + (q @ self.by_content.to(q.dtype)).unflatten(-1, (2, -1))


_SPREAD = 0.05  # of the coefficients at the start
_KEY_SCALE = (2 * _SPREAD**2) ** 0.25  # makes position features of queries and keys equally long at the start


def extended_dim(head_dim: int, n_scales: int, columns: int | None) -> int:
    """Length of the queries and keys that :class:`RelativeAttention` hands to its mechanism."""
    return head_dim + 2 * n_scales * (1 if columns is None else 2)


@dataclass
class RelativeCache(Cache):
    """The inner mechanism's cache."""

    inner: Cache
    length: int
    max_len: int
