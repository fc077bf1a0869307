"""Linformer: attention to keys and values that are projected to fewer tokens (Wang et al. 2020, equation 7)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache
from my_transformers.checks import check_heads
from my_transformers.dropout import check_dropout, drop
from my_transformers.full import FullAttention
from my_transformers.linformer.projection import LengthProjection
from my_transformers.linformer.settings import CausalLinformerSettings, LinformerSettings
from my_transformers.masks import boolean_mask, causal_mask
from my_transformers.mechanism import Mechanism


class LinformerAttention(Mechanism, settings=LinformerSettings):
    """softmax(q (E k)^T / sqrt(d)) F v in O(n rank d); E and F project the length. For encoders and cross-attention.

    Each projected token mixes all positions, so there is no causal form; see :class:`BlockCausalLinformerAttention`.
    With the identity for E and F it equals full attention. Parameters are shared (the paper's terms) by passing the
    same module:

    * none: two of ``LearnedProjection(..., heads=h)`` or ``ConvolutionProjection(..., heads=h)``;
    * headwise: two projections without ``heads``;
    * key-value: one projection, and no ``project_values``;
    * layerwise: the same projection in all layers.

    Definition: my_transformers/reference.py, linformer_attention.

    Args:
        project_keys: E.
        project_values: F, of the same rank; None: E.
        dropout: probability of dropping the attention weight of a projected token in training.
        causal: must be False; accepted only to give a clear error.

    Raises:
        ValueError: causal, or the projections have different ranks.
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
        """See the base class: False if values are projected by a maximum or a convolution."""
        return (self.project_values or self.project_keys).weighs_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend from q (b, h, n, d) to k (b, h, m, d) and v (b, h, m, e) -> (b, h, n, e).

        ``mask`` (b, m) is True where a key is real.

        Raises:
            ValueError: m is larger than the projections' max_len.
        """
        check_heads(q, k, v)
        mask = boolean_mask(mask, k)
        keys, real = self.project_keys(k, mask)
        values, _ = (self.project_values or self.project_keys)(v, mask)
        return self.attend(q, keys, values, mask=real)

    def shorten(
        self, x: Tensor, linear: Callable[..., Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Projected keys and values for :attr:`attend`, from tokens that are not yet mapped to heads.

        A length projection that treats all components of a token alike commutes with the linear maps to heads:
        E (x W + 1 b^T) = (E x) W + (E 1) b^T. It is applied first, so the linear maps process ``rank`` tokens instead
        of m.

        Args:
            x: (b, m, dim).
            linear: called as linear(tokens (b, ·, dim), number=1 for keys or 2 for values, share=scale of the bias
                (b or 1, ·, 1)); returns heads (b, h, ·, d).
            mask: (b, m), True where a token is real.

        Returns:
            Keys (b, h, rank, d), values (b, h, rank, e), and a mask (b, rank), True where they are real; None: all are.

        Raises:
            ValueError: m is larger than the projections' max_len.
        """
        mask = boolean_mask(mask, x)
        keys, real = _to_heads_and_rank(x, partial(linear, number=1), self.project_keys, mask)
        values, _ = _to_heads_and_rank(x, partial(linear, number=2), self.project_values or self.project_keys, mask)
        return keys, values, real


def _to_heads_and_rank(
    x: Tensor, linear: Callable[..., Tensor], projection: LengthProjection, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Both maps, the length projection first if they commute: (b, m, dim) -> (b, h, rank, d), and their mask."""
    if not projection.commutes:
        return projection(linear(x), mask)
    short, real = projection(x.unsqueeze(1), mask)
    ones = x.new_ones(1 if mask is None else x.shape[0], 1, x.shape[1], 1)
    return linear(short.squeeze(1), share=projection(ones, mask)[0].squeeze(1)), real


class BlockCausalLinformerAttention(Mechanism, settings=CausalLinformerSettings):
    """A strictly causal variant of Linformer: exact attention in the current block, projections of earlier blocks.

    The sequence is cut into blocks of B tokens, the projections' max_len. Query i attends in one softmax to the keys
    j <= i of its own block, and to the ``rank`` projected tokens of each earlier block. That takes
    O(n (B + rank n / B) d) time. The scores saved for backward, n (B + rank n / B) per head, are a fraction rank / B of
    full attention's n^2 plus n B. It equals full causal attention if all tokens fit in one block, or if the projections
    are the identity.

    Definition: my_transformers/reference.py, block_causal_linformer_attention.

    Args:
        project_keys: maps the B tokens of a block to ``rank``.
        project_values: likewise, with the same rank; None: the same module.
        dropout: probability of dropping an attention weight in training.
        causal: must be True; accepted only to give a clear error.

    Raises:
        ValueError: not causal, or the projections differ in rank or block size.
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
            raise ValueError("block-causal linformer needs causal=True; use LinformerAttention for both directions")
        if project_values is not None and project_values.max_len != project_keys.max_len:
            raise ValueError(f"blocks of {project_keys.max_len} keys, but of {project_values.max_len} values")
        self.dropout = dropout
        self.project_keys = project_keys
        self.project_values = _checked(project_keys, project_values)

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self.project_keys.max_len

    @property
    def has_weights(self) -> bool:
        """See the base class: False if values are projected by a maximum or a convolution."""
        return (self.project_values or self.project_keys).weighs_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map q and k (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real.

        The output at a padded query is finite but meaningless.

        Raises:
            ValueError: the number of keys differs from the number of queries.
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
        """The parallel form over tokens that start at a block boundary, with blocks projected ``earlier``.

        Args:
            q: (b, h, n, d).
            k: (b, h, n, d).
            v: (b, h, n, e).
            mask: (b, n), True where a token is real.
            earlier: projected keys and values (b, h, p, ·) of previous blocks; all queries see them.
            dropout: probability of dropping an attention weight.

        Returns:
            The output (b, h, n, e), and projected keys and values (b, h, blocks * rank, ·) of the given tokens.
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
        weights = drop(weights, dropout)
        near, far = weights.tensor_split((self.block_size,), dim=-1)
        return (near @ v + far @ far_values.unsqueeze(2)).flatten(2, 3)[:, :, :n], (keys, values)

    def _summaries(self, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project blocks of k and v (b, h, blocks, B, ·) to (b, h, blocks, rank, ·); also returns their mask."""
        blocks = k.shape[2]
        block_masks = mask.flatten(0, 1)
        keys, real = self.project_keys(k.transpose(1, 2).flatten(0, 1), block_masks)
        values, _ = (self.project_values or self.project_keys)(v.transpose(1, 2).flatten(0, 1), block_masks)
        if real is None:  # all projected tokens are real, except those of a block without real tokens
            real = block_masks.any(-1, keepdim=True).expand(-1, keys.shape[2])
        keys, values = (x.unflatten(0, (-1, blocks)).transpose(1, 2) for x in (keys, values))
        return keys, values, real.unflatten(0, (-1, blocks))

    def _visible(self, mask: Tensor, real: Tensor, earlier: int) -> Tensor:
        """Visibility of a query's own block, of the ``earlier`` projected tokens, and of those of the given blocks.

        Returns:
            (b, 1, blocks, B, B + earlier + blocks * rank), True where a query sees a key.
        """
        blocks, rank = real.shape[1:]
        size = self.block_size
        near = mask.unsqueeze(-2) & causal_mask(size, mask.device)
        finished = torch.ones(blocks, blocks, dtype=torch.bool, device=mask.device).tril(-1)
        far = F.pad((real.unsqueeze(1) & finished[None, :, :, None]).flatten(2), (earlier, 0), value=True).unsqueeze(2)
        return torch.cat((near, far.expand(-1, -1, size, earlier + blocks * rank)), dim=-1).unsqueeze(1)

    def new_cache(self, like: Tensor, max_len: int) -> "BlockCache":
        """An empty cache for decoding up to ``max_len`` tokens: 2 d (B + rank max_len / B) numbers per head.

        A step reads all of them.

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: the maximum number of tokens.
        """
        sizes = (self.block_size, max_len // self.block_size * self.project_keys.rank)
        block, far = (like.new_zeros(like.shape[0], 2, like.shape[1], size, like.shape[-1]) for size in sizes)
        return BlockCache(block, far, 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "BlockCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
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
    """Keys (index 0) and values (1) of the current block, and the projected ones of all earlier blocks."""

    block: Tensor  # (b, 2, h, B, d), the current block
    far: Tensor  # (b, 2, h, max_len // B * rank, d), the projections of earlier blocks
    length: int
    max_len: int


def _checked(keys: LengthProjection, values: LengthProjection | None) -> LengthProjection | None:
    if values is not None and values.rank != keys.rank:
        raise ValueError(f"keys are projected to rank {keys.rank}, but values to rank {values.rank}")
    return values
