"""Encoder and decoder layers and stacks of them. With a causal mechanism, encoder layers make a decoder-only model."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from my_transformers.cache import Cache, rows_of
from my_transformers.checks import check_tokens
from my_transformers.sublayers import Context, FeedForward, MultiHeadAttention

Branch = Callable[[Tensor], Tensor]
"""What a sublayer adds to the residual: (b, n, dim) -> (b, n, dim)."""


CacheT = TypeVar("CacheT")
"""What a layer keeps of the tokens so far."""


class Layer(nn.Module, abc.ABC, Generic[CacheT]):
    """What both kinds of layers have: self-attention and feed-forward, and how a sublayer joins the residual."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward,
        *,
        dim: int,
        norm: Literal["pre", "post"] = "pre",
        norm_epsilon: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm is {norm!r}, must be 'pre' or 'post'")
        self.attention = attention
        self.feed_forward = feed_forward
        self.norm_attention = nn.LayerNorm(dim, norm_epsilon)
        self.norm_feed_forward = nn.LayerNorm(dim, norm_epsilon)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """What the self-attention adds to the residual x."""
        return self.dropout(self.attention(self._before(x, self.norm_attention), mask=mask))

    def attend_step(self, x: Tensor, cache: Cache) -> Tensor:
        """:meth:`attend` for the next t tokens."""
        return self.dropout(self.attention.step(self._before(x, self.norm_attention), cache))

    def transform(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds."""
        return self.dropout(self.feed_forward(self._before(x, self.norm_feed_forward)))

    def _before(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        check_tokens(x, norm.normalized_shape[0])
        return norm(x) if self.norm == "pre" else x

    def _through(self, x: Tensor, branches: list[Branch]) -> Tensor:
        for branch, norm in zip(branches, self._norms(), strict=True):
            x = x + branch(x)
            x = norm(x) if self.norm == "post" else x
        return x

    def step(self, x: Tensor, cache: CacheT) -> Tensor:
        """The next t tokens x (b, t, dim) -> (b, t, dim), added to the cache."""
        return self._through(x, self.step_branches(cache))

    @abc.abstractmethod
    def step_branches(self, cache: CacheT) -> list[Branch]:
        """What each sublayer adds for the next t tokens, in order."""

    @abc.abstractmethod
    def _norms(self) -> list[nn.LayerNorm]:
        """Each sublayer's, in order."""


class EncoderLayer(Layer[Cache]):
    """Attention and feed-forward, each with a residual connection and layer normalisation.

    ``norm="pre"`` is x + f(norm(x)), ``norm="post"`` is norm(x + f(x)) (Vaswani et al. 2017, section 3.1).

    Args:
        attention: from (b, n, dim) to the same.
        feed_forward: likewise.
        dim: of the activations.
        norm: "pre" or "post".
        norm_epsilon: added to the variance in layer normalisation.
        dropout: on each sublayer's output.
    """

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """X (b, n, dim), mask (b, n) True where a token is real -> (b, n, dim)."""
        return self._through(x, self.branches(mask=mask))

    def branches(self, *, mask: Tensor | None = None) -> list[Branch]:
        """What each sublayer adds, in order, for a stack with another residual than this layer's own."""
        return [partial(self.attend, mask=mask), self.transform]

    def new_cache(self, batch: int, max_len: int) -> Cache:
        """The attention's empty cache for decoding up to ``max_len`` tokens."""
        return self.attention.new_cache(batch, max_len)

    def step_branches(self, cache: Cache) -> list[Branch]:
        """:meth:`branches` for the next t tokens."""
        return [partial(self.attend_step, cache=cache), self.transform]

    def _norms(self) -> list[nn.LayerNorm]:
        return [self.norm_attention, self.norm_feed_forward]


@dataclass
class DecoderCache:
    """What decoding knows: the targets' tokens so far, and the contexts, projected once.

    Targets of one context follow each other, equally many of each.
    """

    tokens: Cache  # the self-attention's
    context: Context  # keys and values

    def select_rows(self, rows: Tensor, contexts: Tensor | None = None) -> None:
        """Go on with other targets, see :meth:`Cache.select_rows`; of the contexts with these alone, None: all."""
        self.tokens.select_rows(rows)
        if contexts is not None:
            self.context = rows_of(self.context, contexts)


class DecoderLayer(Layer[DecoderCache]):
    """Causal self-attention, attention to a context and feed-forward (Vaswani et al. 2017, section 3.1, figure 1).

    Each has its residual connection and layer normalisation as in :class:`EncoderLayer`.

    Args:
        attention: from (b, n, dim) to the same, with a causal mechanism.
        cross_attention: from (b, n, dim) to a context (b, m, dim), with a mechanism whose class has ``cross``.
        feed_forward: from (b, n, dim) to the same.
        dim: of the activations.
        norm: "pre" or "post".
        norm_epsilon: added to the variance in layer normalisation.
        dropout: on each sublayer's output.

    Raises:
        ValueError: self-attention that is not causal, or cross-attention that is, or whose mechanism has no ``cross``.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        feed_forward: FeedForward,
        *,
        dim: int,
        norm: Literal["pre", "post"] = "pre",
        norm_epsilon: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(attention, feed_forward, dim=dim, norm=norm, norm_epsilon=norm_epsilon, dropout=dropout)
        own, cross = attention.mechanism, cross_attention.mechanism
        if not own.causal:
            raise ValueError(
                f"{type(own).__name__} lets a token of the target see those to come; use a mechanism with causal=True"
            )
        if not cross.cross or cross.causal:
            why = (
                "shares queries and keys" if cross.shared_query_key else "is causal" if cross.causal else "has no cross"
            )
            raise ValueError(
                f"{type(cross).__name__} {why}, so it cannot attend to a context; use FullAttention, "
                "LinformerAttention, PerformerAttention or another mechanism with cross, with causal=False"
            )
        self.cross_attention = cross_attention
        self.norm_cross_attention = nn.LayerNorm(dim, norm_epsilon)

    def forward(
        self, x: Tensor, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """One layer of the decoder.

        Args:
            x: (b, n, dim).
            context: (b, m, dim), the encoder's output.
            mask: (b, n), True where a token of x is real.
            context_mask: (b, m), True where a token of the context is real.

        Returns:
            (b, n, dim).
        """
        return self._through(x, self.branches(context, mask=mask, context_mask=context_mask))

    def branches(
        self, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> list[Branch]:
        """As :meth:`EncoderLayer.branches`."""
        return [
            partial(self.attend, mask=mask),
            partial(self.attend_across, context=context, context_mask=context_mask),
            self.transform,
        ]

    def attend_across(self, x: Tensor, *, context: Tensor | Context, context_mask: Tensor | None = None) -> Tensor:
        """What the cross-attention adds to the residual x; the context, or its keys and values."""
        x = self._before(x, self.norm_cross_attention)
        return self.dropout(self.cross_attention(x, context=context, mask=context_mask))

    def new_cache(self, batch: int, max_len: int, context: Tensor, context_mask: Tensor | None = None) -> DecoderCache:
        """The self-attention's empty cache for up to ``max_len`` tokens, and the context's keys and values.

        Args:
            batch: targets; those of one context, as the hypotheses of a beam search, follow each other.
            max_len: tokens of a target.
            context: (b, m, dim); batch is b or a multiple of it, and nothing is copied for each target.
            context_mask: (b, m), True where a token of the context is real.

        Raises:
            ValueError: not equally many targets of each context.
        """
        if not batch or batch % len(context):
            raise ValueError(f"{batch} targets, but {len(context)} contexts: need equally many targets of each")
        projected = self.cross_attention.keys_and_values(context, context_mask)
        return DecoderCache(self.attention.new_cache(batch, max_len), projected)

    def step_branches(self, cache: DecoderCache) -> list[Branch]:
        """:meth:`branches` for the next t tokens."""
        return [
            partial(self.attend_step, cache=cache.tokens),
            partial(self._attend_across_together, context=cache.context),
            self.transform,
        ]

    def _attend_across_together(self, x: Tensor, *, context: Context) -> Tensor:
        """:meth:`attend_across` for t tokens x (b * k, t, dim) of k targets that share a context."""
        of_context = x.view(len(context.keys), -1, x.shape[-1])
        return self.attend_across(of_context, context=context).view_as(x)

    def _norms(self) -> list[nn.LayerNorm]:
        return [self.norm_attention, self.norm_cross_attention, self.norm_feed_forward]


class _Stack(nn.Module, Generic[CacheT]):
    """Layers one after the other; a pre-norm stack ends with the normalisation that its last residual lacks."""

    def __init__(self, layers: Sequence[Layer[CacheT]], *, dim: int, norm_epsilon: float = 1e-5) -> None:
        super().__init__()
        self.layers = cast("Sequence[Layer[CacheT]]", nn.ModuleList(layers))  # for torch they would be of any class
        self.out_dim = dim  # of what comes out
        self.final_norm = nn.LayerNorm(dim, norm_epsilon) if layers[-1].norm == "pre" else nn.Identity()

    def step(self, x: Tensor, caches: list[CacheT]) -> Tensor:
        """The next t tokens x (b, t, dim) -> (b, t, dim), added to the caches."""
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.step(x, cache)
        return self.final_norm(x)


class EncoderStack(_Stack[Cache]):
    """Layers one after the other; a pre-norm stack ends with the normalisation that its last residual lacks.

    Args:
        layers: one or more EncoderLayer, all with the same ``norm``.
        dim: of the activations.
        norm_epsilon: of the last normalisation.
    """

    layers: Sequence[EncoderLayer]

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """X (b, n, dim), mask (b, n) True where a token is real -> (b, n, dim)."""
        for layer in self.layers:
            x = layer(x, mask=mask)
        return self.final_norm(x)

    def new_cache(self, batch: int, max_len: int) -> list[Cache]:
        """A cache for each layer."""
        return [layer.new_cache(batch, max_len) for layer in self.layers]

    def state_size(self, length: int, dtype: torch.dtype | None = None) -> int:
        """Bytes that decoding keeps of a sequence, in all layers; see :meth:`MultiHeadAttention.state_size`."""
        return sum(layer.attention.state_size(length, dtype) for layer in self.layers)


class DecoderStack(_Stack[DecoderCache]):
    """As :class:`EncoderStack`, of decoder layers that all attend to one context.

    Args:
        layers: one or more DecoderLayer, all with the same ``norm``.
        dim: of the activations.
        norm_epsilon: of the last normalisation.
    """

    layers: Sequence[DecoderLayer]

    def forward(
        self, x: Tensor, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """As :meth:`DecoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, context, mask=mask, context_mask=context_mask)
        return self.final_norm(x)

    def new_cache(
        self, batch: int, max_len: int, context: Tensor, context_mask: Tensor | None = None
    ) -> list[DecoderCache]:
        """A cache for each layer; see :meth:`DecoderLayer.new_cache`."""
        return [layer.new_cache(batch, max_len, context, context_mask) for layer in self.layers]
