"""The sublayers on (b, n, dim): multi-head attention around any mechanism, and the feed-forward network."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.checks import check_tokens
from my_transformers.dropout import Dropout
from my_transformers.mechanism import Mechanism

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Context(NamedTuple):
    """Keys and values of a context, computed once for many calls."""

    keys: Tensor  # (b, h, m, head_dim), or the result of the mechanism's ``shorten`` or ``summarize``
    values: Tensor  # (b, h, m, head_dim), likewise
    mask: Tensor | None  # (b, m), True where a key is real; None: all are


class MultiHeadAttention(nn.Module):
    """Projects tokens to heads, runs any mechanism on them, and projects back (Vaswani et al. 2017, section 3.2.2).

    A mechanism with ``shared_query_key`` gets a single projection for queries and keys, so a model trained with one
    such mechanism can run with another. Such mechanisms normalise the keys to length 1, whereas the length of separate
    keys grows with sqrt(head_dim). To keep the scale of scores and gradients, the shared projection is multiplied by
    sqrt(head_dim); without it training is slower. (Kitaev et al.'s own implementation also uses q . k / ||k||.)

    Optional methods of a mechanism replace keys and values by something smaller, which ``attend(q, keys, values,
    mask=)`` then takes: ``shorten(x, linear, mask)`` reduces the number of tokens before they are projected (see
    :meth:`~my_transformers.linformer.attention.LinformerAttention.shorten`); ``summarize(k, v, mask)`` pays off where
    one context serves many calls (see :meth:`~my_transformers.performer.attention.PerformerAttention.summarize`).

    Args:
        mechanism: a :class:`~my_transformers.Mechanism`, called on heads (b, h, n, head_dim) with q, k, v and ``mask``,
            or, with ``shared_query_key``, with qk, v and ``mask``.
        dim: width of the activations.
        heads: the number of heads.
        head_dim: size of queries, keys and values in each head; default dim / heads.
        bias: whether the projections have a bias.

    Raises:
        ValueError: head_dim is not given and dim is not divisible by heads.
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
        """Self-attention on x or, with a context, cross-attention from x to the context.

        Args:
            x: (b, n, dim).
            context: (b, m, dim), from which keys and values are computed, or the result of :meth:`keys_and_values`;
                None: self-attention.
            mask: (b, m), True where a token of the context (without one, of x) is real. Not with the result of
                :meth:`keys_and_values`, which includes the mask.

        Returns:
            (b, n, dim).

        Raises:
            ValueError: wrong shapes, a context for a mechanism that cannot attend to one, or a mask together with
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
        """Keys and values of a context (b, m, dim) with mask (b, m), for many calls with the same context.

        Raises:
            ValueError: the mechanism cannot attend to a context, or the context or its mask has the wrong shape.
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
        """Attention weights as the mechanism really computes them, for the inputs of :meth:`forward`.

        A mechanism is linear in its values, so with the identity matrix as values it returns its weights. This takes
        n m numbers per head whatever the mechanism, so use it to inspect single inputs.

        Returns:
            (b, h, n, m), the factor of each value in each query's output.

        Raises:
            ValueError: in training mode, where dropout changes the weights, or the mechanism has no weights.
        """
        if self.training:
            raise ValueError("attention weights can be read in eval mode only: call eval() first")
        if not self.mechanism.has_weights:
            raise ValueError(
                f"{type(self.mechanism).__name__} has no attention weights with this projection: a maximum or a "
                "convolution is not a weighted sum of values; use projection learned or mean"
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
        """Bytes of the mechanism's cache per sequence, in its current mode (training or evaluation).

        Args:
            length: the number of tokens that the cache has room for; a Performer's cache does not depend on it.
            dtype: dtype of the activations; default: that of the weights. Sums are always kept in float32 at least,
                and positions as integers.

        Raises:
            ValueError: the mechanism cannot decode step by step: it is not causal, or its rule does not allow it.
        """
        like = torch.empty(1, self.heads, 0, self.head_dim, dtype=dtype or self.to_out.weight.dtype, device="meta")
        return self.mechanism.new_cache(like, length).n_bytes

    def step(self, x: Tensor, cache: Cache) -> Tensor:
        """Map the next t tokens x (b, t, dim) to (b, t, dim), and add them to the cache."""
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
                f"{type(self.mechanism).__name__} cannot attend to a context: it needs a query for every key"
            )

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        """Attend from x (b, n, dim) to precomputed keys and values."""
        (q,) = self._project(x, 0, 1)
        attend = getattr(self.mechanism, "attend", self.mechanism)
        return self._merge(attend(q, context.keys, context.values, mask=context.mask))

    def _project(self, x: Tensor, first: int, end: int) -> tuple[Tensor, ...]:
        """Apply projections first to end - 1 in one matrix product: (b, n, dim) -> (b, h, n, head_dim) for each."""
        weight, bias = self._rows(first, end)
        heads = F.linear(x, weight, bias).unflatten(-1, (end - first, self.heads, self.head_dim))
        return tuple(one.transpose(1, 2) for one in heads.unbind(2))

    def _linear(self, x: Tensor, number: int, share: Tensor | None = None) -> Tensor:
        """Apply one projection, its bias scaled by ``share`` (b or 1, n, 1); None means 1."""
        weight, bias = self._rows(number, number + 1)
        x = F.linear(x, weight, bias if share is None else None)
        x = x if share is None or bias is None else x + share * bias
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def _rows(self, first: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of projections first to end - 1."""
        width = self.heads * self.head_dim
        rows = slice(first * width, end * width)
        weight: Tensor = self.to_heads.weight[rows]
        bias = cast("Tensor | None", self.to_heads.bias)  # PyTorch declares it as Tensor, but bias=False makes it None
        bias = None if bias is None else bias[rows]
        if first == 0 and self.mechanism.shared_query_key:  # scaling the weights is cheaper than the activations
            weight, bias = self._scaled(weight), None if bias is None else self._scaled(bias)
        return weight, bias

    def _scaled(self, rows: Tensor) -> Tensor:
        """Multiply the rows of the shared query-key projection, which come first, by sqrt(head_dim)."""
        width = self.heads * self.head_dim
        return torch.cat((rows[:width] * self.head_dim**0.5, rows[width:]))

    def _merge(self, heads: Tensor) -> Tensor:
        return self.to_out(heads.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, applied to each position (Vaswani et al. 2017, equation 2).

    Args:
        dim: width of the activations.
        ffn_dim: width of the hidden layer; default 4 * dim.
        activation: "gelu" or "relu".
        dropout: dropout probability after the activation.
        chunk_size: the number of positions computed at a time (Kitaev et al. 2020, section 3, "chunking"); 0: all at
            once. Chunks reduce the hidden layer's peak memory only where it is not saved for backward: in inference
            and in a reversible stack.

    Raises:
        ValueError: an unknown activation, or a negative chunk_size.
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
        self.dropout = Dropout(dropout)
        self.chunk_size = chunk_size

    def forward(self, x: Tensor) -> Tensor:
        """Map x (b, n, dim) to (b, n, dim)."""
        if self.chunk_size == 0 or x.shape[1] <= self.chunk_size:
            return self._transform(x)
        return torch.cat([self._transform(part) for part in x.split(self.chunk_size, dim=1)], dim=1)

    def _transform(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(_ACTIVATIONS[self.activation](self.expand(x))))
