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
    """Adds a function of the displacement between query and key to their logit, around another mechanism.

    With displacement t = x_i - x_j along an axis, and ``n_scales`` learned frequencies w per axis,

        logit_ij = q_i . k_j / sqrt(d) + sum_w (a cos(w t) + b sin(w t)),

    where a and b are learned for each head and, with ``content``, depend on the query: a = a_0 + u_a . q_i. The sum is
    an inner product of position features: (cos, sin)(w x_j) for the key and, for the query, (cos, sin)(w x_i)
    multiplied by a 2 x 2 matrix of a and b. So queries and keys are extended by 2 * n_scales * axes numbers, and the
    inner mechanism needs no positions. With exact softmax attention inside, the output is translation-equivariant to
    float precision. With random features it is so up to their error, which falls as 1 / sqrt(m) but is large for large
    queries and keys. ``turned`` random directions reduce the effect of a translation, and increase the error against
    exact softmax.

    Definition: my_transformers/reference.py, relative_attention.

    Args:
        mechanism: PerformerAttention or FullAttention, for queries and keys of size :func:`extended_dim`.
        heads: the number of heads.
        head_dim: size of queries and keys.
        n_scales: the number of frequencies per axis.
        columns: width of the grid that the sequence fills row by row; None: positions on a line.
        off_grid: the number of leading tokens that are not on the grid (a class token); nothing is added to their
            logits.
        content: let a and b depend on the query.
        longest: the longest initial wavelength in tokens; the shortest is 4.

    Raises:
        ValueError: a mechanism that shares queries and keys, or arguments out of range.
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
            raise ValueError(f"n_scales is {n_scales} and longest {longest}: must be at least 1 and 4, respectively")
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
        self._dim_ratio = extended_dim(head_dim, n_scales, columns) / head_dim

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map q and k (b, h, n, head_dim) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where real.

        Raises:
            ValueError: the number of keys differs from the number of queries.
        """
        check_heads(q, k, v, heads=len(self.coefficients), head_dim=self.head_dim)
        if q.shape[2] != k.shape[2]:
            raise ValueError(
                f"relative positions need one key per query, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        tokens = torch.arange(q.shape[2], device=q.device)
        return self.mechanism(*self._extended(q, k, tokens), v, mask=mask)

    def new_cache(self, like: Tensor, max_len: int) -> "RelativeCache":
        """The inner mechanism's empty cache for decoding up to ``max_len`` tokens; ``like`` is (b, h, any, d)."""
        inner = self.mechanism.new_cache(like, max_len)
        if isinstance(inner, KeyValueCache):  # keys are extended by position features, values are not
            inner.keys = like.new_zeros(*inner.keys.shape[:3], round(self.head_dim * self._dim_ratio))
        return RelativeCache(inner, 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "RelativeCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        widths = self.head_dim, self.head_dim, v.shape[-1]  # the inner cache checks the values' size and the batch
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
        query = torch.cat((a * cos + b * sin, a * sin - b * cos), dim=-1) / _KEY_SCALE
        key = torch.cat((cos, sin), dim=-1) * _KEY_SCALE
        q = torch.cat((q, query.to(q.dtype).expand(*q.shape[:3], -1) * self.head_dim**0.25), dim=-1)
        k = torch.cat((k, key.to(k.dtype).expand(*k.shape[:3], -1) * self.head_dim**0.25), dim=-1)
        scale = self._dim_ratio**0.25  # the inner mechanism divides by sqrt(d') instead of sqrt(d)
        return q * scale, k * scale

    def _coefficients(self, q: Tensor) -> Tensor:
        """(b or 1, heads, n or 1, 2, w): a and b for each query and frequency."""
        constant = self.coefficients.unsqueeze(1)
        if self.by_content is None:
            return constant.unsqueeze(0)
        return constant + (q @ self.by_content.to(q.dtype)).unflatten(-1, (2, -1))


_SPREAD = 0.05  # initial standard deviation of the coefficients
_KEY_SCALE = (2 * _SPREAD**2) ** 0.25  # gives position features of queries and keys the same initial norm


def extended_dim(head_dim: int, n_scales: int, columns: int | None) -> int:
    """Size d' of the queries and keys that :class:`RelativeAttention` passes to its inner mechanism."""
    return head_dim + 2 * n_scales * (1 if columns is None else 2)


@dataclass
class RelativeCache(Cache):
    """The inner mechanism's cache."""

    inner: Cache
    length: int
    max_len: int
