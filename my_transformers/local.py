"""Local attention: softmax over a query's own chunk of the sequence and its neighbours."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache, check_causal
from my_transformers.checks import check_heads
from my_transformers.derivatives import exporting, transformed
from my_transformers.full import FullAttention
from my_transformers.kernels import use_triton
from my_transformers.local_settings import LocalSettings
from my_transformers.masks import boolean_mask, fused_mask
from my_transformers.mechanism import Mechanism
from my_transformers.reference import local_attention, visible_keys

_FUSED_FROM = 128
"""Tokens: FlexAttention has another kernel for fewer queries."""

_FUSED_DIM = 128
"""Numbers per head, of queries, keys and values, up to which FlexAttention is taken."""


class LocalAttention(Mechanism, settings=LocalSettings):
    """softmax(q k^T / sqrt(d)) v over near keys, in O(n span d) time with span = (back + 1 + ahead) * chunk_size.

    The sequence is cut into chunks; a query sees its own one, the ``back`` before it and the ``ahead`` after it (the
    layers that Kitaev et al.'s models have between LSH layers; Parmar et al. 2018, section 3.2.1). A sequence of one
    chunk gets full attention.

    Saved for backward: q, k, v, the output, and the keys and values once for each chunk that sees them. On a GPU
    FlexAttention can take the place of chunks (see :mod:`~my_transformers.kernels`) and needs no such copies.

    Definition: my_transformers/reference.py, local_attention.

    Args:
        chunk_size: tokens per chunk.
        back: chunks before its own that a query sees.
        ahead: chunks after it; default as many as ``back``, or none if causal.
        causal: a query sees keys up to its own.
        dropout: probability of dropping an attention weight in training.
        circle: a sequence of more than one chunk is padded to a multiple of so many tokens, itself a multiple of
            chunk_size, and its ends meet: the first chunk follows the last. Of two chunks, each is before and after
            the other, and counts twice.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    def __init__(
        self,
        *,
        chunk_size: int = 64,
        back: int = 1,
        ahead: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        circle: int | None = None,
    ) -> None:
        super().__init__()
        self.in_one_chunk = FullAttention(causal=causal, dropout=dropout)
        self.chunk_size = chunk_size
        self.back = back
        self.ahead = (0 if causal else back) if ahead is None else ahead
        self.causal = causal
        self.dropout = dropout
        self.circle = circle
        self._check()

    def _check(self) -> None:
        for name, least in (("chunk_size", 1), ("back", 0), ("ahead", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.causal and self.ahead:
            raise ValueError(f"ahead is {self.ahead}, must be 0 with causal=True: those tokens are still to come")
        if self.circle is not None:
            check_circle(self.circle, self.chunk_size)
            if self.causal:
                raise ValueError("circle needs causal=False: what the first chunk follows on is still to come")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"chunk_size={self.chunk_size}, back={self.back}, ahead={self.ahead}, causal={self.causal}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Q and k (b, h, n, d), v (b, h, n, e), mask (b, n) True where a token is real -> (b, h, n, e).

        A padded query's output is finite and of no meaning.

        Raises:
            ValueError: not as many keys as queries.
        """
        check_heads(q, k, v)
        mask, n, c = boolean_mask(mask, k), q.shape[2], self.chunk_size
        if n != k.shape[2]:
            raise ValueError(
                f"local attention needs as many keys as queries, got {n} queries and {k.shape[2]} keys; for a context "
                "use FullAttention, LinformerAttention or PerformerAttention"
            )
        if exporting() and isinstance(n, torch.SymInt) and self.circle is None:
            return self._as_defined(q, k, v, mask)
        if n <= c:
            return self.in_one_chunk(q, k, v, mask=mask)
        dropout = self.dropout if self.training else 0.0
        if n >= _FUSED_FROM and dropout == 0 and self._fused(q, k, v):
            from my_transformers.local_flex import flex_local_attention  # imports half of torch.compile

            return flex_local_attention(
                q, k, v, mask, chunk_size=c, back=self.back, ahead=self.ahead, causal=self.causal
            )
        return self._in_chunks(q, k, v, mask, dropout)

    def _fused(self, *qkv: Tensor) -> bool:
        """Whether FlexAttention takes these; it has no backward on a CPU."""
        if self.circle is not None or exporting() or transformed() or not qkv[0].is_cuda:
            return False
        return use_triton(*qkv, largest_dim=_FUSED_DIM)

    def _as_defined(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """For torch.export with any length, whose number of chunks a graph cannot know; O(n^2)."""
        mask = torch.ones_like(q[:, 0, :, 0], dtype=torch.bool) if mask is None else mask
        visible = visible_keys(q.shape[2], mask, causal=self.causal)
        return local_attention(q, k, v, visible, chunk_size=self.chunk_size, back=self.back, ahead=self.ahead)

    def _in_chunks(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        n, c = q.shape[2], self.chunk_size
        missing = -n % (self.circle or c)
        chunks = (n + missing) // c
        back, ahead = min(self.back, chunks - 1), min(self.ahead, chunks - 1)
        q, k, v = (F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, missing)) for x in (q, k, v))  # (b, L, h, ·)
        mask = torch.ones(1, n, dtype=torch.bool, device=q.device).expand(q.shape[0], -1) if mask is None else mask
        real = self._near(F.pad(mask, (0, missing)), back, ahead).flatten(0, 1)
        # each chunk is a sample of its own: (b * chunks, h, c or span, ·)
        q = q.unflatten(1, (-1, c)).flatten(0, 1).transpose(1, 2)
        k, v = (self._near(x, back, ahead).mT.flatten(0, 1) for x in (k, v))
        visible = fused_mask(self._visible(real, back * c), q)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return out.transpose(1, 2).unflatten(0, (-1, chunks)).flatten(1, 2)[:, :n].transpose(1, 2)

    def _near(self, x: Tensor, back: int, ahead: int) -> Tensor:
        """What each chunk sees of x (b, L, ...): (b, chunks, ..., span)."""
        c = self.chunk_size
        before, after = x[:, x.shape[1] - back * c :], x[:, : ahead * c]
        if self.circle is None:  # there is nothing
            before, after = torch.zeros_like(before), torch.zeros_like(after)
        return torch.cat((before, x, after), dim=1).unfold(1, (back + 1 + ahead) * c, c)

    def _visible(self, real: Tensor, own: int) -> Tensor:
        """Real keys (b * chunks, span) -> (b * chunks, 1, c, span), True where a query sees a key.

        A padded token sees itself, so that no row of the softmax is empty; its chunk begins at key number ``own``.
        """
        up_to = torch.ones(self.chunk_size, real.shape[-1], dtype=torch.bool, device=real.device).tril(own)
        visible = real.unsqueeze(1) & up_to if self.causal else real.unsqueeze(1)
        return (visible | up_to.triu(own)).unsqueeze(1)

    def new_cache(self, like: Tensor, max_len: int) -> "NearCache":
        """An empty cache for decoding up to ``max_len`` tokens.

        2 d (back + 1) chunk_size numbers per head, or 2 d max_len if that is less; as many multiplications per step.

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: tokens.

        Raises:
            ValueError: not causal.
        """
        check_causal(self.causal)
        size = min((self.back + 1) * self.chunk_size, max_len)
        keys = like.new_zeros(*like.shape[:2], size, like.shape[-1])
        return NearCache(keys, torch.zeros_like(keys), 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "NearCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the cache is of another shape, or has no room for t more tokens.
        """
        widths = cache.keys.shape[-1], cache.keys.shape[-1], cache.values.shape[-1]
        cache.check(q, k, v, batch=cache.keys.shape[0], heads=cache.keys.shape[1], widths=widths)
        if q.shape[2] != 1:
            return self._several_steps(q, k, v, cache)
        cache.append(k, v)
        size, slot = cache.keys.shape[2], (cache.length - 1) % cache.keys.shape[2]
        if cache.length < size:
            return F.scaled_dot_product_attention(q, cache.keys[:, :, : slot + 1], cache.values[:, :, : slot + 1])
        # beyond the newest token, the rest of its chunk's slots hold what can no longer be seen
        end = (slot // self.chunk_size + 1) * self.chunk_size
        slots = torch.arange(size, device=q.device)
        visible = ((slots <= slot) | (slots >= end)).expand(1, 1, 1, -1)
        return F.scaled_dot_product_attention(q, cache.keys, cache.values, attn_mask=fused_mask(visible, q))

    def _several_steps(self, q: Tensor, k: Tensor, v: Tensor, cache: "NearCache") -> Tensor:
        """The parallel form over the new tokens and the cached ones that they see, which begin with a whole chunk."""
        first = max(0, cache.length // self.chunk_size - self.back) * self.chunk_size
        cached = cache.length - first
        keys, values = (torch.cat((old, new), dim=2) for old, new in zip(cache.since(first), (k, v), strict=True))
        cache.append(k, v)
        return self._in_chunks(F.pad(q, (0, 0, cached, 0)), keys, values, None, 0.0)[:, :, cached:]


@dataclass
class NearCache(Cache):
    """Keys and values of the chunks that can still be seen; token i is in slot i modulo the number of slots."""

    keys: Tensor  # (b, h, slots, d)
    values: Tensor  # (b, h, slots, e)
    length: int
    max_len: int

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add t tokens, (b, h, t, ·) each; of more than there are slots the last ones stay."""
        slots = self._slots(max(self.length, self.length + key.shape[2] - self.keys.shape[2]), key.shape[2])
        kept = len(slots)
        for memory, new in ((self.keys, key), (self.values, value)):
            memory[:, :, slots] = new[:, :, -kept:].to(memory.dtype)  # autocast's differs from the weights'
        self.length += key.shape[2]

    def since(self, first: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens from number ``first`` on, in their order."""
        slots = self._slots(first, 0)
        return self.keys[:, :, slots], self.values[:, :, slots]

    def _slots(self, first: int, new: int) -> Tensor:
        """Slots of the tokens from number ``first`` to the end of ``new`` more than there are."""
        return torch.arange(first, self.length + new, device=self.keys.device) % self.keys.shape[2]


def check_circle(circle: int, chunk_size: int) -> None:
    """Raise ValueError for a circle that chunks cannot fill."""
    if circle < 1 or circle % chunk_size:
        raise ValueError(f"circle is {circle}, must be a multiple of the {chunk_size} tokens of a chunk")
