"""Encoder and decoder layers, and stacks of them. Encoder layers with a causal mechanism form a decoder-only model."""

import abc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from my_transformers.cache import Cache, rows_of
from my_transformers.checks import check_tokens
from my_transformers.derivatives import exporting, transformed
from my_transformers.dropout import Dropout
from my_transformers.replay import Recording
from my_transformers.sublayers import Context, FeedForward, MultiHeadAttention

Branch = Callable[[Tensor], Tensor]
"""A residual branch, x -> what a sublayer adds to x: (b, n, dim) -> (b, n, dim)."""


CacheT = TypeVar("CacheT")
"""The layer's cache for step-by-step decoding."""


class Layer(nn.Module, abc.ABC, Generic[CacheT]):
    """Base of both layers: self-attention, feed-forward, and residual connections with layer normalisation."""

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
        self.dropout = Dropout(dropout)

    def attend(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The self-attention branch: (b, n, dim) -> what it adds to x, of the same shape."""
        return self.dropout(self.attention(self._normalised_input(x, self.norm_attention), mask=mask))

    def attend_step(self, x: Tensor, cache: Cache) -> Tensor:
        """:meth:`attend` for the next t tokens."""
        return self.dropout(self.attention.step(self._normalised_input(x, self.norm_attention), cache))

    def transform(self, x: Tensor) -> Tensor:
        """The feed-forward branch: (b, n, dim) -> what it adds to x, of the same shape."""
        return self.dropout(self.feed_forward(self._normalised_input(x, self.norm_feed_forward)))

    def _normalised_input(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Input of a sublayer: normalised in a pre-norm layer, x itself in a post-norm layer."""
        check_tokens(x, norm.normalized_shape[0])
        return norm(x) if self.norm == "pre" else x

    def _add_branches(self, x: Tensor, branches: list[Branch]) -> Tensor:
        for branch, norm in zip(branches, self._norms(), strict=True):
            x = x + branch(x)
            x = norm(x) if self.norm == "post" else x
        return x

    def step(self, x: Tensor, cache: CacheT) -> Tensor:
        """Map the next t tokens x (b, t, dim) to (b, t, dim), and add them to the cache."""
        return self._add_branches(x, self.step_branches(cache))

    @abc.abstractmethod
    def step_branches(self, cache: CacheT) -> list[Branch]:
        """The residual branches for the next t tokens, in order."""

    @abc.abstractmethod
    def _norms(self) -> list[nn.LayerNorm]:
        """The layer normalisation of each sublayer, in order."""


class EncoderLayer(Layer[Cache]):
    """Attention and feed-forward, each with a residual connection and layer normalisation.

    ``norm="pre"`` is x + f(norm(x)), ``norm="post"`` is norm(x + f(x)) (Vaswani et al. 2017, section 3.1).

    Args:
        attention: self-attention on (b, n, dim).
        feed_forward: feed-forward network on (b, n, dim).
        dim: width of the activations.
        norm: "pre" or "post".
        norm_epsilon: added to the variance in layer normalisation.
        dropout: dropout probability for each sublayer's output.
    """

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map x (b, n, dim) to (b, n, dim); mask (b, n) is True where a token is real."""
        return self._add_branches(x, self.branches(mask=mask))

    def branches(self, *, mask: Tensor | None = None) -> list[Branch]:
        """The residual branches, in order, for stacks that add them in another way (rev_layers.py)."""
        return [partial(self.attend, mask=mask), self.transform]

    def new_cache(self, batch: int, max_len: int) -> Cache:
        """The self-attention's empty cache for decoding up to ``max_len`` tokens."""
        return self.attention.new_cache(batch, max_len)

    def step_branches(self, cache: Cache) -> list[Branch]:
        """:meth:`branches` for the next t tokens."""
        return [partial(self.attend_step, cache=cache), self.transform]

    def _norms(self) -> list[nn.LayerNorm]:
        return [self.norm_attention, self.norm_feed_forward]


@dataclass
class DecoderCache:
    """A decoder layer's cache: the target tokens so far, and the contexts' keys and values.

    A context may have several targets (hypotheses of a beam search): the same number for each, and they are adjacent
    rows of the batch.
    """

    tokens: Cache  # of the self-attention, one row per target
    context: Context  # keys and values of the cross-attention, one row per context

    def select_rows(self, rows: Tensor, contexts: Tensor | None = None) -> None:
        """Reorder targets by ``rows`` (see :meth:`Cache.select_rows`), contexts by ``contexts`` if given."""
        self.tokens.select_rows(rows)
        if contexts is not None:
            self.context = rows_of(self.context, contexts)


class DecoderLayer(Layer[DecoderCache]):
    """Causal self-attention, attention to a context and feed-forward (Vaswani et al. 2017, section 3.1, figure 1).

    Each sublayer has a residual connection and layer normalisation as in :class:`EncoderLayer`.

    Args:
        attention: self-attention on (b, n, dim), with a causal mechanism.
        cross_attention: attention from (b, n, dim) to a context (b, m, dim), with a mechanism that has ``cross``.
        feed_forward: feed-forward network on (b, n, dim).
        dim: width of the activations.
        norm: "pre" or "post".
        norm_epsilon: added to the variance in layer normalisation.
        dropout: dropout probability for each sublayer's output.

    Raises:
        ValueError: the self-attention is not causal, or the cross-attention is causal or its mechanism lacks ``cross``.
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
                f"{type(own).__name__} lets a target token attend to later ones; use a mechanism with causal=True"
            )
        if not cross.cross or cross.causal:
            why = (
                "shares queries and keys"
                if cross.shared_query_key
                else "is causal"
                if cross.causal
                else "lacks cross-attention"
            )
            raise ValueError(
                f"{type(cross).__name__} {why}, so it cannot attend to a context; use FullAttention, "
                "LinformerAttention, PerformerAttention or another mechanism with cross=True, with causal=False"
            )
        self.cross_attention = cross_attention
        self.norm_cross_attention = nn.LayerNorm(dim, norm_epsilon)

    def forward(
        self, x: Tensor, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """Map x to (b, n, dim).

        Args:
            x: (b, n, dim), the target.
            context: (b, m, dim), the encoder's output.
            mask: (b, n), True where a token of x is real.
            context_mask: (b, m), True where a token of the context is real.

        Returns:
            (b, n, dim).
        """
        return self._add_branches(x, self.branches(context, mask=mask, context_mask=context_mask))

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
        """The cross-attention branch; ``context`` is (b, m, dim), or its precomputed keys and values."""
        x = self._normalised_input(x, self.norm_cross_attention)
        return self.dropout(self.cross_attention(x, context=context, mask=context_mask))

    def new_cache(self, batch: int, max_len: int, context: Tensor, context_mask: Tensor | None = None) -> DecoderCache:
        """The self-attention's empty cache for up to ``max_len`` tokens, and the context's keys and values.

        Args:
            batch: the number of targets, a multiple of b. Targets of one context, such as the hypotheses of a beam
                search, are adjacent rows; they share its keys and values without a copy.
            max_len: maximum number of target tokens.
            context: (b, m, dim).
            context_mask: (b, m), True where a token of the context is real.

        Raises:
            ValueError: the number of targets is not a positive multiple of the number of contexts.
        """
        if not batch or batch % len(context):
            raise ValueError(f"{batch} targets, but {len(context)} contexts: need the same number of targets for each")
        projected = self.cross_attention.keys_and_values(context, context_mask)
        return DecoderCache(self.attention.new_cache(batch, max_len), projected)

    def step_branches(self, cache: DecoderCache) -> list[Branch]:
        """:meth:`branches` for the next t tokens."""
        return [
            partial(self.attend_step, cache=cache.tokens),
            partial(self._attend_across_step, context=cache.context),
            self.transform,
        ]

    def _attend_across_step(self, x: Tensor, *, context: Context) -> Tensor:
        """:meth:`attend_across` for t tokens x (b * k, t, dim) of k targets per context.

        The queries of all k targets form one sequence (b, k * t, dim), so the context is not repeated k times.
        """
        by_context = x.view(len(context.keys), -1, x.shape[-1])
        return self.attend_across(by_context, context=context).view_as(x)

    def _norms(self) -> list[nn.LayerNorm]:
        return [self.norm_attention, self.norm_cross_attention, self.norm_feed_forward]


class _Stack(nn.Module, Generic[CacheT]):
    """Base of both stacks: layers in sequence, with a final normalisation if they are pre-norm."""

    def __init__(
        self, layers: Sequence[Layer[CacheT]], *, dim: int, norm_epsilon: float = 1e-5, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.layers = cast("Sequence[Layer[CacheT]]", nn.ModuleList(layers))  # nn.ModuleList loses the element type
        self.out_dim = dim  # width of the output
        self.final_norm = nn.LayerNorm(dim, norm_epsilon) if layers[-1].norm == "pre" else nn.Identity()

    def _run(self, layer: Layer[CacheT], x: Tensor, *inputs: Tensor, **masks: Tensor | None) -> Tensor:
        """Call a layer; with ``recompute``, backward calls it again, on the same input."""

        def call(x: Tensor) -> Tensor:
            return cast("Tensor", layer(x, *inputs, **masks))

        def recorded() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            recording = Recording(like=x)
            return recording.record(), recording.replay()

        if not self.recompute or not torch.is_grad_enabled() or exporting():
            return call(x)
        if torch.compiler.is_compiling():  # under which nothing can be recorded; the compiler repeats random numbers
            return checkpoint(call, x, use_reentrant=False)
        if transformed():
            return call(x)
        return checkpoint(call, x, use_reentrant=False, preserve_rng_state=False, context_fn=recorded)

    def step(self, x: Tensor, caches: list[CacheT]) -> Tensor:
        """Map the next t tokens x (b, t, dim) to (b, t, dim), and add them to the caches."""
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.step(x, cache)
        return self.final_norm(x)


class EncoderStack(_Stack[Cache]):
    """Encoder layers in sequence; a pre-norm stack ends with one more normalisation, of its residual stream.

    Args:
        layers: at least one EncoderLayer, all with the same ``norm``.
        dim: width of the activations.
        norm_epsilon: epsilon of the final normalisation.
        recompute: whether training keeps only each layer's input, and backward runs the layer again (activation
            checkpointing). Memory then grows by one (b, n, dim) per layer, and time by one more forward pass. This
            suits all layers, including norm="post"; :class:`~my_transformers.ReversibleStack` needs less memory.
    """

    layers: Sequence[EncoderLayer]

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map x (b, n, dim) to (b, n, dim); mask (b, n) is True where a token is real."""
        for layer in self.layers:
            x = self._run(layer, x, mask=mask)
        return self.final_norm(x)

    def new_cache(self, batch: int, max_len: int) -> list[Cache]:
        """A cache for each layer."""
        return [layer.new_cache(batch, max_len) for layer in self.layers]

    def state_size(self, length: int, dtype: torch.dtype | None = None) -> int:
        """Bytes that decoding keeps per sequence, over all layers; see :meth:`MultiHeadAttention.state_size`."""
        return sum(layer.attention.state_size(length, dtype) for layer in self.layers)


class DecoderStack(_Stack[DecoderCache]):
    """:class:`EncoderStack` of decoder layers, which all attend to the same context.

    Args:
        layers: at least one DecoderLayer, all with the same ``norm``.
        dim: width of the activations.
        norm_epsilon: epsilon of the final normalisation.
        recompute: see :class:`EncoderStack`.
    """

    layers: Sequence[DecoderLayer]

    def forward(
        self, x: Tensor, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """As :meth:`DecoderLayer.forward`."""
        for layer in self.layers:
            x = self._run(layer, x, context, mask=mask, context_mask=context_mask)
        return self.final_norm(x)

    def new_cache(
        self, batch: int, max_len: int, context: Tensor, context_mask: Tensor | None = None
    ) -> list[DecoderCache]:
        """A cache for each layer; see :meth:`DecoderLayer.new_cache`."""
        return [layer.new_cache(batch, max_len, context, context_mask) for layer in self.layers]
