"""Linformer: attention over a projection of the keys and values to few tokens (Wang et al. 2020, equation 7)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache
from my_transformers.checks import check_heads
from my_transformers.dropout import check_dropout
from my_transformers.full import FullAttention
from my_transformers.linformer.projection import LengthProjection
from my_transformers.linformer.settings import CausalLinformerSettings, LinformerSettings
from my_transformers.masks import boolean_mask, causal_mask
from my_transformers.mechanism import Mechanism


class LinformerAttention(Mechanism, settings=LinformerSettings):
    """softmax(q (E k)^T / sqrt(d)) F v in O(n rank d); E and F project the length. For encoders and cross-attention.

    Every projected token mixes positions, so there is no causal form: see :class:`BlockCausalLinformerAttention`.
    The identity for E and F makes it equal to full attention. What is shared follows from the modules given:

    * none: ``LearnedProjection(..., heads=h)`` or ``ConvolutionProjection(..., heads=h)`` twice;
    * headwise: without ``heads``, twice;
    * key-value: one projection, no ``project_values``;
    * layerwise: the same one in all layers.

    Definition: my_transformers/reference.py, linformer_attention.

    Args:
        project_keys: E.
        project_values: F, of the same rank; None: E.
        dropout: probability of dropping a weight of a projected token in training.
        causal: must be False; accepted only to give a clear error.

    Raises:
        ValueError: causal, or projections to different ranks.
    """

    causal = False

    def __init__(
        self,
        project_keys: LengthProjection,
        project_values: LengthProjection | None = None,
        *,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if causal:
            raise ValueError(
                "linformer mixes all positions before attending (Wang et al. 2020, equation 7), so it cannot be "
                "causal; use BlockCausalLinformerAttention, LSHAttention or PerformerAttention"
            )
        self.attend = FullAttention(dropout=dropout)
        self.project_keys = project_keys
        self.project_values = _checked(project_keys, project_values)

    @property
    def has_weights(self) -> bool:
        """See the base class: not if values pass a maximum or a convolution."""
        return (self.project_values or self.project_keys).weighs_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Q (b, h, n, d), k (b, h, m, d), v (b, h, m, e), mask (b, m) True where a key is real -> (b, h, n, e).

        Raises:
            ValueError: m is more than the projections' max_len.
        """
        check_heads(q, k, v)
        mask = boolean_mask(mask, k)
        keys, real = self.project_keys(k, mask)
        values, _ = (self.project_values or self.project_keys)(v, mask)
        return self.attend(q, keys, values, mask=real)

    def shorten(
        self, x: Tensor, linear: Callable[..., Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values for :attr:`attend`, from tokens that linear maps have yet to project to heads.

        A projection of the length that treats all numbers of a token alike commutes with those maps,
        E (x W + 1 b^T) = (E x) W + (E 1) b^T. It goes first, so that they meet ``rank`` tokens instead of m.

        Args:
            x: (b, m, dim).
            linear: (tokens (b, ·, dim), 1 for keys or 2 for values, share of the bias (b or 1, ·, 1)) -> heads
                (b, h, ·, d).
            mask: (b, m), True where a token is real.

        Returns:
            Keys (b, h, rank, d), values (b, h, rank, e), and (b, rank) True where they are real, None if all are.

        Raises:
            ValueError: m is more than the projections' max_len.
        """
        mask = boolean_mask(mask, x)
        keys, real = _linear_and_short(x, partial(linear, number=1), self.project_keys, mask)
        values, _ = _linear_and_short(x, partial(linear, number=2), self.project_values or self.project_keys, mask)
        return keys, values, real


def _linear_and_short(
    x: Tensor, linear: Callable[..., Tensor], projection: LengthProjection, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Both maps, the length's first if it may be: (b, m, dim) -> (b, h, rank, d), and which are real."""
    if not projection.commutes:
        return projection(linear(x), mask)
    short, real = projection(x.unsqueeze(1), mask)
    ones = x.new_ones(1 if mask is None else x.shape[0], 1, x.shape[1], 1)
    return linear(short.squeeze(1), share=projection(ones, mask)[0].squeeze(1)), real


class BlockCausalLinformerAttention(Mechanism, settings=CausalLinformerSettings):
    """A strictly causal relative of Linformer: exact inside the block, projections of the blocks before it.

    The sequence is cut into blocks of the projections' max_len, B tokens. Query i sees the keys j <= i of its own
    block, and each finished block's ``rank`` projected tokens, in one softmax. With n / B blocks that is
    O(n (B + rank n / B) d) time, and as many scores per head are kept for backward: rank / B of full attention's n^2,
    and n B. One block that holds all, or projections that are the identity, make it equal to full causal attention.

    Definition: my_transformers/reference.py, block_causal_linformer_attention.

    Args:
        project_keys: from B tokens to ``rank``, for each block.
        project_values: likewise, of the same rank; None: the same module.
        dropout: probability of dropping an attention weight in training.
        causal: must be True; accepted only to give a clear error.

    Raises:
        ValueError: not causal, or projections to different ranks or from different blocks.
    """

    causal = True

    def __init__(
        self,
        project_keys: LengthProjection,
        project_values: LengthProjection | None = None,
        *,
        dropout: float = 0.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if not causal:
            raise ValueError("block-causal linformer is causal=True alone; use LinformerAttention for both directions")
        if project_values is not None and project_values.max_len != project_keys.max_len:
            raise ValueError(f"blocks of {project_keys.max_len} keys, but of {project_values.max_len} values")
        self.dropout = dropout
        self.project_keys = project_keys
        self.project_values = _checked(project_keys, project_values)

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        return self.project_keys.max_len

    @property
    def has_weights(self) -> bool:
        """See the base class: not if values pass a maximum or a convolution."""
        return (self.project_values or self.project_keys).weighs_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Q and k (b, h, n, d), v (b, h, n, e), mask (b, n) True where a token is real -> (b, h, n, e).

        A padded query's output is finite and of no meaning.

        Raises:
            ValueError: not as many keys as queries.
        """
        check_heads(q, k, v)
        mask, n = boolean_mask(mask, k), q.shape[2]
        if n != k.shape[2]:
            raise ValueError(f"causal attention needs as many keys as queries, got {n} queries and {k.shape[2]} keys")
        if n == 0:
            return v
        mask = torch.ones(q.shape[0], n, dtype=torch.bool, device=q.device) if mask is None else mask
        none = k[:, :, :0], v[:, :, :0]
        return self._in_blocks(q, k, v, mask, none, self.dropout if self.training else 0.0)[0]

    def _in_blocks(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, earlier: tuple[Tensor, Tensor], dropout: float
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The parallel form, whose tokens begin with a whole block; every query also sees some ``earlier`` tokens.

        Args:
            q: (b, h, n, d).
            k: (b, h, n, d).
            v: (b, h, n, e).
            mask: (b, n), True where a token is real.
            earlier: projected keys and values (b, h, p, ·) of the blocks before.
            dropout: probability of dropping an attention weight.

        Returns:
            (b, h, n, e), and projected keys and values (b, h, blocks * rank, ·) of these blocks.
        """
        n = q.shape[2]
        missing = -n % self.block_size
        q = q * q.shape[-1] ** -0.5
        q, k, v = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, self.block_size)) for x in (q, k, v))
        mask = F.pad(mask, (0, missing)).unflatten(1, (-1, self.block_size))  # (b, blocks, B)
        keys, values, real = self._summaries(k, v, mask)
        keys, values = keys.flatten(2, 3), values.flatten(2, 3)
        far_keys, far_values = (torch.cat(x, dim=2) for x in zip(earlier, (keys, values), strict=True))
        scores = torch.cat((q @ k.mT, q @ far_keys.unsqueeze(2).mT), dim=-1)
        visible = self._visible(mask, real, earlier[0].shape[2])
        weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
        weights = F.dropout(weights, dropout)
        near, far = weights.tensor_split((self.block_size,), dim=-1)
        return (near @ v + far @ far_values.unsqueeze(2)).flatten(2, 3)[:, :, :n], (keys, values)

    def _summaries(self, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Blocks of k and v (b, h, blocks, B, ·) -> projected keys and values (b, h, blocks, rank, ·), real ones."""
        blocks = k.shape[2]
        of_blocks = mask.flatten(0, 1)
        keys, real = self.project_keys(k.transpose(1, 2).flatten(0, 1), of_blocks)
        values, _ = (self.project_values or self.project_keys)(v.transpose(1, 2).flatten(0, 1), of_blocks)
        if real is None:  # but of a block without real tokens nothing is
            real = of_blocks.any(-1, keepdim=True).expand(-1, keys.shape[2])
        keys, values = (x.unflatten(0, (-1, blocks)).transpose(1, 2) for x in (keys, values))
        return keys, values, real.unflatten(0, (-1, blocks))

    def _visible(self, mask: Tensor, real: Tensor, earlier: int) -> Tensor:
        """True where a query sees a key of its block, an earlier projected token or one of these blocks'.

        Returns:
            (b, 1, blocks, B, B + earlier + blocks * rank).
        """
        blocks, rank = real.shape[1:]
        size = self.block_size
        near = mask.unsqueeze(-2) & causal_mask(size, mask.device)
        finished = torch.ones(blocks, blocks, dtype=torch.bool, device=mask.device).tril(-1)
        far = F.pad((real.unsqueeze(1) & finished[None, :, :, None]).flatten(2), (earlier, 0), value=True).unsqueeze(2)
        return torch.cat((near, far.expand(-1, -1, size, earlier + blocks * rank)), dim=-1).unsqueeze(1)

    def new_cache(self, like: Tensor, max_len: int) -> "BlockCache":
        """An empty cache for up to ``max_len`` tokens: 2 d (B + rank max_len / B) numbers per head, as many per step.

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: tokens.
        """
        sizes = (self.block_size, max_len // self.block_size * self.project_keys.rank)
        block, far = (like.new_zeros(like.shape[0], 2, like.shape[1], size, like.shape[-1]) for size in sizes)
        return BlockCache(block, far, 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "BlockCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the cache is of another shape, or has no room for t more tokens.
        """
        widths = (cache.block.shape[-1],) * 3
        cache.check(q, k, v, batch=cache.block.shape[0], heads=cache.block.shape[2], widths=widths)
        place, finished = cache.length % self.block_size, cache.length // self.block_size * self.project_keys.rank
        cache.length += q.shape[2]
        if q.shape[2] != 1:
            return self._several_steps(q, k, v, cache, place, finished)
        cache.block[:, 0, :, place], cache.block[:, 1, :, place] = k[:, :, 0], v[:, :, 0]
        seen = torch.cat((cache.block[:, :, :, : place + 1], cache.far[:, :, :, :finished]), dim=3)
        if place + 1 == self.block_size:
            into = slice(finished, finished + self.project_keys.rank)
            cache.far[:, 0, :, into] = self.project_keys(cache.block[:, 0])[0]
            cache.far[:, 1, :, into] = (self.project_values or self.project_keys)(cache.block[:, 1])[0]
        keys, values = seen.unbind(1)
        return F.scaled_dot_product_attention(q, keys, values)

    def _several_steps(self, q: Tensor, k: Tensor, v: Tensor, cache: "BlockCache", place: int, finished: int) -> Tensor:
        """The parallel form over the unfinished block and the new tokens."""
        k, v = (torch.cat((cache.block[:, i, :, :place], x), dim=2) for i, x in enumerate((k, v)))
        real = torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device)
        earlier = cache.far[:, 0, :, :finished], cache.far[:, 1, :, :finished]
        out, projected = self._in_blocks(F.pad(q, (0, 0, place, 0)), k, v, real, earlier, 0.0)
        blocks, rest = divmod(k.shape[2], self.block_size)
        added = blocks * self.project_keys.rank
        for i, (far, tokens) in enumerate(zip(projected, (k, v), strict=True)):
            cache.far[:, i, :, finished : finished + added] = far[:, :, :added]
            cache.block[:, i, :, :rest] = tokens[:, :, k.shape[2] - rest :]
        return out[:, :, place:]


@dataclass
class BlockCache(Cache):
    """Keys (0) and values (1) of the block that is being filled, and the projected ones of the finished blocks."""

    block: Tensor  # (b, 2, h, B, d)
    far: Tensor  # (b, 2, h, max_len // B * rank, d)
    length: int
    max_len: int


def _checked(keys: LengthProjection, values: LengthProjection | None) -> LengthProjection | None:
    if values is not None and values.rank != keys.rank:
        raise ValueError(f"keys are projected to rank {keys.rank}, but values to rank {values.rank}")
    return values
