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
"""Shortest sequence for FlexAttention, which runs another kernel for fewer queries."""

_FUSED_DIM = 128
"""Largest size of queries, keys and values for FlexAttention."""


class LocalAttention(Mechanism, settings=LocalSettings):
    """softmax(q k^T / sqrt(d)) v over nearby keys, in O(n span d) time with span = (back + 1 + ahead) * chunk_size.

    The sequence is split into chunks. A query sees its own chunk, the ``back`` chunks before it and the ``ahead``
    chunks after it (as in the layers that alternate with LSH layers in Kitaev et al.'s models; Parmar et al. 2018,
    section 3.2.1). A sequence of a single chunk gets full attention.

    Saved for backward: q, k, v, the output, and one copy of the keys and values for each chunk that sees them. On a GPU
    FlexAttention can replace the chunked form (see :mod:`~my_transformers.kernels`); it needs no such copies.

    Definition: my_transformers/reference.py, local_attention.

    Args:
        chunk_size: tokens per chunk.
        back: the number of earlier chunks that a query sees.
        ahead: the number of later chunks that it sees; default: ``back``, or 0 if causal.
        causal: a token attends only to itself and earlier tokens.
        dropout: probability of dropping an attention weight in training.
        circle: wrap around: pad a sequence of more than one chunk to a multiple of this many tokens, itself a multiple
            of chunk_size, and let the first chunk follow the last. With two chunks, each is both before and after the
            other, and its keys count twice.

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
        self.in_one_chunk = FullAttention(causal=causal, dropout=dropout)  # for sequences of a single chunk
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
            raise ValueError(f"ahead is {self.ahead}, must be 0 with causal=True, which hides later tokens")
        if self.circle is not None:
            check_circle(self.circle, self.chunk_size)
            if self.causal:
                raise ValueError("circle needs causal=False: the first chunk would attend to the last, which is later")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"chunk_size={self.chunk_size}, back={self.back}, ahead={self.ahead}, causal={self.causal}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map q and k (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real.

        The output at a padded query is finite but meaningless.

        Raises:
            ValueError: the number of keys differs from the number of queries.
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
            from my_transformers.local_flex import flex_local_attention  # imports much of torch.compile, which is slow

            return flex_local_attention(
                q, k, v, mask, chunk_size=c, back=self.back, ahead=self.ahead, causal=self.causal
            )
        return self._in_chunks(q, k, v, mask, dropout)

    def _fused(self, *qkv: Tensor) -> bool:
        """Whether to use FlexAttention for these inputs; it has no backward on a CPU."""
        if self.circle is not None or exporting() or transformed() or not qkv[0].is_cuda:
            return False
        return use_triton(*qkv, largest_dim=_FUSED_DIM)

    def _as_defined(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The O(n^2) definition, for torch.export with a dynamic length: a graph cannot depend on the chunk count."""
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
        # one fused call for all chunks: each becomes a sample of its own, (b * chunks, h, c or span, ·)
        q = q.unflatten(1, (-1, c)).flatten(0, 1).transpose(1, 2)
        k, v = (self._near(x, back, ahead).mT.flatten(0, 1) for x in (k, v))
        visible = fused_mask(self._visible(real, back * c), q)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return out.transpose(1, 2).unflatten(0, (-1, chunks)).flatten(1, 2)[:, :n].transpose(1, 2)

    def _near(self, x: Tensor, back: int, ahead: int) -> Tensor:
        """The rows of x (b, L, ...) that each chunk sees: (b, chunks, ..., span).

        Every chunk takes the same number of rows, so x is extended at both ends: in a circle by the rows of its other
        end, otherwise by zeros. Zeros also extend the mask, which hides the added keys.
        """
        c = self.chunk_size
        before, after = x[:, x.shape[1] - back * c :], x[:, : ahead * c]
        if self.circle is None:
            before, after = torch.zeros_like(before), torch.zeros_like(after)
        return torch.cat((before, x, after), dim=1).unfold(1, (back + 1 + ahead) * c, c)

    def _visible(self, real: Tensor, own: int) -> Tensor:
        """Real keys (b * chunks, span) -> (b * chunks, 1, c, span), True where a query sees a key.

        ``own`` is the index in the span at which the queries' own chunk begins, so query i is key own + i. Every query
        sees itself, even a padded one: no row of the softmax is empty.
        """
        not_later = torch.ones(self.chunk_size, real.shape[-1], dtype=torch.bool, device=real.device).tril(own)
        visible = real.unsqueeze(1) & not_later if self.causal else real.unsqueeze(1)
        return (visible | not_later.triu(own)).unsqueeze(1)  # tril and triu at ``own`` leave the diagonal: itself

    def new_cache(self, like: Tensor, max_len: int) -> "NearCache":
        """An empty cache for decoding up to ``max_len`` tokens.

        2 d (back + 1) chunk_size numbers per head, or 2 d max_len if that is less; a step does as many multiplications.

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
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        widths = cache.keys.shape[-1], cache.keys.shape[-1], cache.values.shape[-1]
        cache.check(q, k, v, batch=cache.keys.shape[0], heads=cache.keys.shape[1], widths=widths)
        if q.shape[2] != 1:
            return self._several_steps(q, k, v, cache)
        cache.append(k, v)
        size, slot = cache.keys.shape[2], (cache.length - 1) % cache.keys.shape[2]
        if cache.length < size:
            return F.scaled_dot_product_attention(q, cache.keys[:, :, : slot + 1], cache.values[:, :, : slot + 1])
        # the cache is a ring of back + 1 chunks: the slots of the newest token's chunk that are not yet overwritten
        # hold tokens of the chunk back + 1 before it, which is out of reach
        end = (slot // self.chunk_size + 1) * self.chunk_size
        slots = torch.arange(size, device=q.device)
        visible = ((slots <= slot) | (slots >= end)).expand(1, 1, 1, -1)
        return F.scaled_dot_product_attention(q, cache.keys, cache.values, attn_mask=fused_mask(visible, q))

    def _several_steps(self, q: Tensor, k: Tensor, v: Tensor, cache: "NearCache") -> Tensor:
        """The parallel form over the new tokens and the cached ones that they see, from the start of a chunk on."""
        first = max(0, cache.length // self.chunk_size - self.back) * self.chunk_size
        cached = cache.length - first
        keys, values = (torch.cat((old, new), dim=2) for old, new in zip(cache.since(first), (k, v), strict=True))
        cache.append(k, v)
        return self._in_chunks(F.pad(q, (0, 0, cached, 0)), keys, values, None, 0.0)[:, :, cached:]


@dataclass
class NearCache(Cache):
    """Ring buffer of the keys and values that later tokens can still see; token i is in slot i mod the slot count."""

    keys: Tensor  # (b, h, slots, d)
    values: Tensor  # (b, h, slots, e)
    length: int
    max_len: int

    def append(self, key: Tensor, value: Tensor) -> None:
        """Add t tokens, (b, h, t, ·) each; if there are fewer than t slots, only the last tokens are kept."""
        slots = self._slots(max(self.length, self.length + key.shape[2] - self.keys.shape[2]), key.shape[2])
        kept = len(slots)
        for memory, new in ((self.keys, key), (self.values, value)):
            memory[:, :, slots] = new[:, :, -kept:].to(memory.dtype)  # under autocast the dtypes differ
        self.length += key.shape[2]

    def since(self, first: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens from position ``first`` on, in order."""
        slots = self._slots(first, 0)
        return self.keys[:, :, slots], self.values[:, :, slots]

    def _slots(self, first: int, new: int) -> Tensor:
        """Slots of the tokens from position ``first`` to length + new - 1."""
        return torch.arange(first, self.length + new, device=self.keys.device) % self.keys.shape[2]


def check_circle(circle: int, chunk_size: int) -> None:
    """Raise ValueError unless ``circle`` is a positive multiple of ``chunk_size``."""
    if circle < 1 or circle % chunk_size:
        raise ValueError(f"circle is {circle}, must be a positive multiple of chunk_size {chunk_size}")
