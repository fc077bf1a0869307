"""The sublayers on (b, n, dim): multi-head attention around any mechanism, and the feed-forward network."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.checks import check_tokens
from my_transformers.mechanism import Mechanism

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Context(NamedTuple):
    """What queries of other tokens, or of later steps, attend to."""

    keys: Tensor  # (b, h, m, head_dim), or what the mechanism makes of keys and values
    values: Tensor  # (b, h, m, head_dim), likewise
    mask: Tensor | None  # (b, m), True where a key is real; None: all


class MultiHeadAttention(nn.Module):
    """Projections into heads around any mechanism, and back (Vaswani et al. 2017, section 3.2.2).

    A mechanism with ``shared_query_key`` gets one projection for queries and keys, so a model trained with one such
    mechanism can run with another. Its keys have length 1, where separate ones grow with the root of head_dim; so the
    projection is multiplied by sqrt(head_dim), without which the scores, and their gradients, would be that much
    smaller and training slower (q . k / ||k|| is also what Kitaev et al.'s own implementation takes).

    A mechanism that makes something else of keys and values has a method for that, and ``attend(q, keys, values,
    mask=)`` for what comes out: ``shorten(x, linear, mask)`` if it makes fewer of the tokens (see
    :meth:`~my_transformers.linformer.attention.LinformerAttention.shorten`), ``summarize(k, v, mask)`` if that is worth
    it for a context that is used again (see :meth:`~my_transformers.performer.attention.PerformerAttention.summarize`).

    Args:
        mechanism: a :class:`~my_transformers.Mechanism`, called with heads (b, h, n, head_dim) and ``mask``: q, k, v
            or, sharing, qk, v.
        dim: of the activations.
        heads: number of heads.
        head_dim: of queries, keys and values in each head; default dim / heads.
        bias: of the projections.

    Raises:
        ValueError: no head_dim given and dim is not divisible by heads.
    """

    def __init__(
        self, mechanism: Mechanism, *, dim: int, heads: int, head_dim: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        if head_dim is None:
            if dim % heads:
                raise ValueError(f"dim {dim} is not divisible by heads {heads}; give head_dim, or change one of them")
            head_dim = dim // heads
        self.mechanism = mechanism
        self.heads = heads
        self.head_dim = head_dim
        self.n_projections = 2 if mechanism.shared_query_key else 3
        self.to_heads = nn.Linear(dim, self.n_projections * heads * head_dim, bias=bias)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=bias)

    def forward(self, x: Tensor, *, context: Tensor | Context | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend among the tokens of x or, with a context, from x to the context's (cross-attention).

        Args:
            x: (b, n, dim).
            context: (b, m, dim), from which keys and values come, or these, of :meth:`keys_and_values`; None: x.
            mask: (b, m), True where a token of the context, or of x, is real; keys and values have their own.

        Returns:
            (b, n, dim).

        Raises:
            ValueError: inputs of other shapes, a context for a mechanism that cannot attend to one, or a mask beside
                keys and values.
        """
        self._check(x)
        if isinstance(context, Context):
            if mask is not None:
                raise ValueError("keys and values have a mask of their own: give it to keys_and_values")
            return self._attend(x, context)
        if self._shortens:
            return self._attend(x, self.keys_and_values(x if context is None else context, mask))
        if context is None:
            return self._merge(self.mechanism(*self._project(x, 0, self.n_projections), mask=mask))
        self._check_can_cross()
        self._check(context)
        return self._merge(self.mechanism(*self._project(x, 0, 1), *self._project(context, 1, 3), mask=mask))

    def keys_and_values(self, context: Tensor, mask: Tensor | None = None) -> Context:
        """Those of a context (b, m, dim), its mask (b, m): once for many calls with the same context.

        Raises:
            ValueError: the mechanism cannot attend to a context, or this or its mask is of another shape.
        """
        self._check_can_cross()
        self._check(context)
        if self._shortens:
            return Context(*self.mechanism.shorten(context, self._linear, mask))
        keys, values = self._project(context, 1, 3)
        if hasattr(self.mechanism, "summarize"):
            return Context(*self.mechanism.summarize(keys, values, mask), None)
        return Context(keys, values, mask)

    @torch.no_grad()
    def weights(self, x: Tensor, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """What each query multiplies each value by, as the mechanism really computes it; for :meth:`forward`'s inputs.

        A mechanism is linear in its values, so for values that are the identity matrix it returns its weights. This
        takes n m numbers per head whatever the mechanism: to look at some inputs.

        Returns:
            (b, h, n, m).

        Raises:
            ValueError: in training, where dropout is part of the weights, or the mechanism has none.
        """
        if self.training:
            raise ValueError("attention weights are looked at in eval mode: call eval() first")
        if not self.mechanism.has_weights:
            raise ValueError(
                f"{type(self.mechanism).__name__} has no weights with this projection of values: a maximum or a "
                "convolution is no sum of tokens; use projection learned or mean"
            )
        if context is None:
            heads = self._project(x, 0, self.n_projections)[:-1]
        else:
            self._check_can_cross()
            heads = (*self._project(x, 0, 1), *self._project(context, 1, 2))
        n_keys = heads[-1].shape[2]
        identity = torch.eye(n_keys, dtype=x.dtype, device=x.device).expand(x.shape[0], self.heads, -1, -1)
        return self.mechanism(*heads, identity, mask=mask)

    def new_cache(self, batch: int, max_len: int) -> Cache:
        """The mechanism's empty cache for decoding up to ``max_len`` tokens."""
        return self.mechanism.new_cache(self.to_out.weight.new_empty(batch, self.heads, 0, self.head_dim), max_len)

    def state_size(self, length: int, dtype: torch.dtype | None = None) -> int:
        """Bytes that decoding keeps of a sequence: those of the mechanism's cache, in the mode that it is in.

        Args:
            length: tokens that the cache has room for; of some mechanisms, such as a Performer, it changes nothing.
            dtype: of the activations; default the weights'. Sums are kept in float32 at least, positions as integers.

        Raises:
            ValueError: it keeps no state, as it cannot decode step by step: it is not causal, or its rule forbids it.
        """
        like = torch.empty(1, self.heads, 0, self.head_dim, dtype=dtype or self.to_out.weight.dtype, device="meta")
        return self.mechanism.new_cache(like, length).n_bytes

    def step(self, x: Tensor, cache: Cache) -> Tensor:
        """The next t tokens x (b, t, dim) -> (b, t, dim); added to the cache."""
        return self._merge(self.mechanism.step(*self._project(x, 0, self.n_projections), cache))

    @property
    def _shortens(self) -> bool:
        return hasattr(self.mechanism, "shorten")

    def _check(self, x: Tensor) -> None:
        check_tokens(x, self.to_heads.in_features)

    def _check_can_cross(self) -> None:
        if self.mechanism.shared_query_key:
            raise ValueError("shared queries and keys cannot attend to a context: its tokens have no queries")
        if not self.mechanism.cross:
            raise ValueError(
                f"{type(self.mechanism).__name__} cannot attend to a context: it needs a query of each token"
            )

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        """From x (b, n, dim) to keys and values."""
        (q,) = self._project(x, 0, 1)
        attend = getattr(self.mechanism, "attend", self.mechanism)
        return self._merge(attend(q, context.keys, context.values, mask=context.mask))

    def _project(self, x: Tensor, first: int, end: int) -> tuple[Tensor, ...]:
        """(b, n, dim) -> (b, h, n, head_dim) by each of some neighbouring projections, in one product."""
        weight, bias = self._rows(first, end)
        heads = F.linear(x, weight, bias).unflatten(-1, (end - first, self.heads, self.head_dim))
        return tuple(one.transpose(1, 2) for one in heads.unbind(2))

    def _linear(self, x: Tensor, number: int, share: Tensor | None = None) -> Tensor:
        """One projection, its bias scaled by ``share`` (b or 1, n, 1); None means 1."""
        weight, bias = self._rows(number, number + 1)
        x = F.linear(x, weight, bias if share is None else None)
        x = x if share is None or bias is None else x + share * bias
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def _rows(self, first: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of projections first to end - 1."""
        width = self.heads * self.head_dim
        rows = slice(first * width, end * width)
        weight: Tensor = self.to_heads.weight[rows]
        bias = cast("Tensor | None", self.to_heads.bias)  # torch's type leaves out the None of bias=False
        bias = None if bias is None else bias[rows]
        if first == 0 and self.mechanism.shared_query_key:  # here it costs less than on the activations
            weight, bias = self._scaled(weight), None if bias is None else self._scaled(bias)
        return weight, bias

    def _scaled(self, rows: Tensor) -> Tensor:
        """Shared queries and keys, which are the first of some projections, times sqrt(head_dim)."""
        width = self.heads * self.head_dim
        return torch.cat((rows[:width] * self.head_dim**0.5, rows[width:]))

    def _merge(self, heads: Tensor) -> Tensor:
        return self.to_out(heads.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with an activation between, at each position by itself (Vaswani et al. 2017, equation 2).

    Args:
        dim: of the activations.
        ffn_dim: of the hidden layer; default 4 * dim.
        activation: "gelu" or "relu".
        dropout: after the activation.
        chunk_size: positions that are worked on together (Kitaev et al. 2020, section 3, "chunking"); 0 takes all.
            It saves the hidden layer's memory where nothing is kept for backward: in inference and in a reversible
            stack.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int | None = None,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        chunk_size: int = 0,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, must be one of {', '.join(_ACTIVATIONS)}")
        if chunk_size < 0:
            raise ValueError(f"chunk_size is {chunk_size}, must be positive, or 0 for all positions at once")
        self.expand = nn.Linear(dim, ffn_dim or 4 * dim)
        self.contract = nn.Linear(ffn_dim or 4 * dim, dim)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.chunk_size = chunk_size

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, dim) -> (b, n, dim)."""
        if self.chunk_size == 0 or x.shape[1] <= self.chunk_size:
            return self._positions(x)
        return torch.cat([self._positions(part) for part in x.split(self.chunk_size, dim=1)], dim=1)

    def _positions(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(_ACTIVATIONS[self.activation](self.expand(x))))
