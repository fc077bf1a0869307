"""Full attention: the exact softmax over all keys (Vaswani et al. 2017, equation 1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache, check_causal
from my_transformers.checks import check_heads
from my_transformers.dropout import check_dropout
from my_transformers.full_settings import FullSettings, SharedQKSettings
from my_transformers.lsh.bucketed import unit
from my_transformers.masks import boolean_mask, causal_mask, causal_mask_of_newest, fused_mask
from my_transformers.mechanism import Mechanism


class FullAttention(Mechanism, settings=FullSettings):
    """softmax(q k^T / sqrt(d)) v in O(n m d) time, on PyTorch's fused kernels.

    Definition: my_transformers/reference.py, full_attention.

    Args:
        causal: query i attends only to keys 0 to i; the number of keys must then equal the number of queries.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout)
        self.causal = causal
        self.dropout = dropout

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"causal={self.causal}, dropout={self.dropout}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend from q (b, h, n, d) to k (b, h, m, d) and v (b, h, m, e) -> (b, h, n, e).

        ``mask`` (b, m) is True where a key is real. The output at a padded query is finite but meaningless.

        Raises:
            ValueError: inputs do not fit each other, or causal and the number of keys is not that of queries.
        """
        check_heads(q, k, v)
        mask = boolean_mask(mask, k)
        if self.causal and q.shape[2] != k.shape[2]:
            raise ValueError(
                f"causal attention needs as many keys as queries, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=dropout)
        visible = mask[:, None, None, :]
        if self.causal:  # every token sees itself, even if padded, so that no row of the softmax is empty
            itself = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
            visible = (visible & causal_mask(q.shape[2], q.device)) | itself
        else:
            visible = visible | ~visible.any(dim=-1, keepdim=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=fused_mask(visible, q), dropout_p=dropout)

    def new_cache(self, like: Tensor, max_len: int) -> "KeyValueCache":
        """An empty cache for decoding up to ``max_len`` tokens: 2 * max_len * d numbers per head; a step costs O(n d).

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: the maximum number of tokens.

        Raises:
            ValueError: not causal.
        """
        check_causal(self.causal)
        return KeyValueCache.empty(like, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "KeyValueCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        new = q.shape[2]
        cache.append(q, k, v)
        if cache.length == new:  # no mask needed
            return F.scaled_dot_product_attention(q, *cache.so_far(), is_causal=new > 1)
        if new == 1:
            return F.scaled_dot_product_attention(q, *cache.so_far())
        visible = causal_mask_of_newest(new, cache.length, q.device)
        return F.scaled_dot_product_attention(q, *cache.so_far(), attn_mask=fused_mask(visible, q))


class SharedQKAttention(Mechanism, settings=SharedQKSettings):
    """Full attention whose keys are the unit-length queries, k_j = q_j / ||q_j|| (Kitaev et al. 2020, section 2).

    A token attends to itself only if it sees no other token: its own key is parallel to its query and would always
    score highest. LSH attention approximates this mechanism, so a model trained with one can be evaluated with the
    other. O(n^2 d) time.

    Definition: my_transformers/reference.py, shared_qk_attention.

    Args:
        causal: a token attends only to itself and earlier tokens.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout)
        self.causal = causal
        self.dropout = dropout

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"causal={self.causal}, dropout={self.dropout}"

    def forward(self, qk: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map qk (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real."""
        check_heads(qk, qk, v)
        mask, n = boolean_mask(mask, qk), qk.shape[2]
        itself = torch.eye(n, dtype=torch.bool, device=qk.device)
        visible = ~itself if not self.causal else causal_mask(n, qk.device) & ~itself
        if mask is not None:
            visible = visible & mask[:, None, None, :]
        visible = visible | (itself & ~visible.any(dim=-1, keepdim=True))
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(qk, unit(qk), v, attn_mask=fused_mask(visible, qk), dropout_p=dropout)

    def new_cache(self, like: Tensor, max_len: int) -> "KeyValueCache":
        """As :meth:`FullAttention.new_cache`."""
        check_causal(self.causal)
        return KeyValueCache.empty(like, max_len)

    def step(self, qk: Tensor, v: Tensor, cache: "KeyValueCache") -> Tensor:
        """Attend with the next t tokens, qk (b, h, t, d) and v (b, h, t, e) -> (b, h, t, e), and add them to the cache.

        Raises:
            ValueError: as in :meth:`FullAttention.step`.
        """
        new, first = qk.shape[2], cache.length == 0
        cache.append(qk, unit(qk), v)
        keys, values = cache.so_far()
        if new == 1:
            return v if first else F.scaled_dot_product_attention(qk, keys[:, :, :-1], values[:, :, :-1])
        visible = causal_mask_of_newest(new, cache.length, qk.device, itself=False)
        visible[0, 0] |= first  # the very first token has nothing else to attend to
        return F.scaled_dot_product_attention(qk, keys, values, attn_mask=fused_mask(visible, qk))


@dataclass
class KeyValueCache(Cache):
    """The keys and values of all tokens so far."""

    by_token: ClassVar = ("keys", "values")

    keys: Tensor  # (b, h, max_len, d)
    values: Tensor  # (b, h, max_len, e)
    length: int
    max_len: int

    @classmethod
    def empty(cls, like: Tensor, max_len: int) -> "KeyValueCache":
        """A cache without tokens."""
        keys = like.new_zeros(*like.shape[:2], max_len, like.shape[-1])
        return cls(keys, torch.zeros_like(keys), 0, max_len)

    def append(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Check queries, keys and values of t tokens, (b, h, t, ·) each, then add the keys and values."""
        widths = self.keys.shape[-1], self.keys.shape[-1], self.values.shape[-1]
        self.check(query, key, value, batch=self.keys.shape[0], heads=self.keys.shape[1], widths=widths)
        end = self.length + key.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = key, value
        self.length = end

    def so_far(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens so far, (b, h, length, ·)."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]
