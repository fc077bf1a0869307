"""The cache of LSH attention for step-by-step decoding: a step reads n_rounds * window tokens instead of all.

Used by LSHAttention.step in attention.py. :meth:`LSHCache.look_up` implements the bucket rule: in each round a new
token sees the last ``window`` tokens of its own bucket.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache
from my_transformers.lsh.hashing import bucket_of, sort_by_bucket, undo_sort


@dataclass
class LSHCache(Cache):
    """The tokens so far, and the last ``window`` positions of each bucket.

    A token's rank is the number of earlier tokens in its bucket. Its code in a round, rank + bucket * code_unit,
    encodes the bucket rule in one number: a token sees another in that round exactly if its code is larger by 1 to
    ``window``.
    """

    by_token: ClassVar = ("keys", "values", "codes")

    hashed: Callable[[Tensor], Tensor]  # the hash function: (b, h, n, d) -> buckets (b, h, r, n)
    keys: Tensor  # (b, h, max_len, d), unit vectors
    values: Tensor  # (b, h, max_len, e)
    codes: Tensor  # (b, h, max_len, r)
    counts: Tensor  # (b, h, r, n_buckets): the number of tokens in each bucket so far
    recent: Tensor  # (b, h, r, n_buckets, window): ring buffers of positions; the token of rank k is in slot k % window
    length: int
    max_len: int

    @classmethod
    def empty(cls, like: Tensor, max_len: int, rotations: Tensor, n_buckets: int, window: int) -> "LSHCache":
        """A cache without tokens."""
        batch, heads, _, dim = like.shape
        n_rounds = rotations.shape[1]

        def integers(*shape: int) -> Tensor:
            return torch.zeros((batch, heads, *shape), dtype=torch.long, device=like.device)

        rows = like.new_zeros(batch, heads, max_len, dim)
        return cls(
            hashed=partial(bucket_of, rotations=rotations),
            keys=rows,
            values=torch.zeros_like(rows),
            codes=integers(max_len, n_rounds),
            counts=integers(n_rounds, n_buckets),
            recent=integers(n_rounds, n_buckets, window),
            length=0,
            max_len=max_len,
        )

    @property
    def code_unit(self) -> int:
        """Codes per bucket. Ranks are below max_len, so codes of different buckets differ by more than a window."""
        return self.max_len + self.recent.shape[-1]

    def look_up(self, qk: Tensor, deduplicate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find the tokens that one new token qk (b, h, 1, d) sees.

        Returns:
            Their positions (b, h, r * window); of the same shape, True where a slot is used and its token not already
            seen in an earlier round; the new token's rank and its bucket in each round, (b, h, r, 1) both.
        """
        window = self.recent.shape[-1]
        bucket = self.hashed(qk).long()
        rank = self.counts.gather(-1, bucket)
        tokens = rows_of_table(self.recent, bucket).squeeze(3)  # (b, h, r, window)
        seen = torch.arange(window, device=qk.device) < rank
        if deduplicate:
            seen = seen & ~self._seen_in_earlier_round(tokens, rank + bucket * self.code_unit, window)
        return tokens.flatten(2), seen.flatten(2), rank, bucket

    def _seen_in_earlier_round(self, tokens: Tensor, code: Tensor, window: int) -> Tensor:
        """(b, h, r, window), True where the new token, of code ``code``, sees a round's token in an earlier round too.

        A token is then counted in the first round in which it is seen and in no other.
        """
        n_rounds = tokens.shape[2]
        codes = rows_of_table(self.codes, tokens.flatten(2)).view(*tokens.shape, n_rounds)  # codes in every round
        gap = code.transpose(2, 3).unsqueeze(2) - codes  # (b, h, r, window, r), the last axis being the other round
        earlier = torch.ones(n_rounds, n_rounds, dtype=torch.bool, device=gap.device).tril(-1).unsqueeze(1)
        return ((gap >= 1) & (gap <= window) & earlier).any(dim=-1)

    def append(self, key: Tensor, value: Tensor, bucket: Tensor, rank: Tensor) -> None:
        """Add t tokens: key and value (b, h, t, ·), bucket and rank in it (b, h, r, t)."""
        window, end = self.recent.shape[-1], self.length + key.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = key, value
        self.codes[:, :, self.length : end] = (rank + bucket * self.code_unit).mT
        self.counts.scatter_add_(-1, bucket, torch.ones_like(bucket))
        positions = torch.arange(self.length, end, device=key.device).expand_as(bucket)
        self._write_recent(bucket * window + rank % window, positions, rank)
        self.length = end

    def _write_recent(self, slots: Tensor, positions: Tensor, rank: Tensor) -> None:
        """Write the positions of t new tokens to their slots in ``recent``; all arguments are (b, h, r, t)."""
        recent = self.recent.flatten(3)
        if slots.shape[-1] == 1:
            recent.scatter_(-1, slots, positions)
            return
        # If several tokens share a slot, the latest (of highest rank) must win, but a scatter with duplicate indices
        # writes any of them. So sort by (slot, rank), and send all but the last of each slot to a spare slot at the
        # end.
        order = torch.sort(slots * (self.max_len + 1) + rank, dim=-1).indices
        slots, positions = slots.gather(-1, order), positions.gather(-1, order)
        last = F.pad(slots[..., 1:] != slots[..., :-1], (0, 1), value=True)
        spare = recent.shape[-1]
        recent = F.pad(recent, (0, 1)).scatter_(-1, torch.where(last, slots, spare), positions)
        self.recent.copy_(recent[..., :spare].view_as(self.recent))


def earlier_in_bucket(bucket: Tensor) -> Tensor:
    """For each token of (..., t), the number of earlier tokens in the same bucket."""
    order = sort_by_bucket(bucket)
    in_order = bucket.gather(-1, order)
    return undo_sort(order) - torch.searchsorted(in_order, bucket.contiguous())


def rows_of_table(table: Tensor, index: Tensor) -> Tensor:
    """Rows (..., k, x) of a table (..., n, x) at an index (..., k); copies whole rows, unlike torch.gather."""
    n, width = table.shape[-2:]
    start = n * torch.arange(math.prod(table.shape[:-2]), device=table.device).view(*table.shape[:-2], 1)
    return table.flatten(0, -2).index_select(0, (index + start).flatten()).view(*index.shape, width)
