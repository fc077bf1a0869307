"""LSH attention: shared query-key attention among tokens that hash alike (Kitaev et al. 2020, section 2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache
from my_transformers.lsh.bucketed import Reach, Sight, bucketed_attention, unit
from my_transformers.lsh.hashing import (
    bucket_of,
    choose_n_buckets,
    draw_rotations,
    seeded_rotations,
    sort_by_bucket,
    undo_sort,
)
from my_transformers.mechanism import Mechanism
from my_transformers.replay import decide


class LSHAttention(Mechanism):
    """Shared query-key attention restricted to hash buckets, O(n_rounds * n * window) instead of O(n^2).

    Each round hashes the queries into buckets and sorts the tokens by (bucket, position). Two rules say whom a query
    then sees; it never sees itself, except where it sees nobody else in any round.

    * ``rule="bucket"``: the ``window`` tokens before it in sorted order that share its bucket; without ``causal``
      also those behind it. Who that is depends on no later token, so causal attention is strictly causal, and it can
      be decoded step by step.
    * ``rule="chunk"``: the paper's (equation 16). The sorted tokens are cut into chunks of ``window`` tokens; a query
      sees its own chunk and the one before it, of these its own bucket's tokens (all of them with
      ``attend_across_buckets``). Causal masking is by position, but where chunks are cut depends on every token: when
      a bucket overflows its chunks, *later* tokens decide which earlier ones a query sees. Use it to reproduce the
      paper, not to decode.

    Rounds are combined by their log-sum-exp; a key seen in several rounds counts once (the paper's N_ij). One bucket
    and a window of at least the length make it equal to :class:`~my_transformers.SharedQKAttention`.

    Saved for backward: qk, v, the output, and per token (3 * n_rounds + 1) integers and sums and a flag; no scores.

    Definition: my_transformers/reference.py, lsh_attention, lsh_chunk_attention.

    Args:
        bucket_size: expected tokens per bucket, from which the number of buckets follows.
        n_rounds: independent hashings a forward.
        n_buckets: number of buckets (1, or even), instead.
        max_len: tokens of the sequences that the number of buckets is meant for, whatever the length of an input. None:
            if causal 2048, since tokens still to come must not change it; else each sample's own number of real tokens,
            so that padding is invisible. State it for causal sequences of another length.
        window: see the rules; default 2 * bucket_size, which is the paper's chunk.
        causal: a token sees none behind it.
        rule: "bucket" or "chunk".
        attend_across_buckets: chunk rule only.
        deduplicate: False counts a key once for every round that shows it.
        dropout: probability of dropping an attention weight in training; a pair meets the same fate in all rounds.
        eval_rounds: rounds in eval mode; default n_rounds.
        fresh_rotations: draw new rotations in each training forward from the global generator (as the paper does).
            Otherwise, and always in eval mode, they come from ``seed`` and stay the same.
        seed: of the fixed rotations; give each layer its own.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    shared_query_key = True

    def __init__(
        self,
        *,
        bucket_size: int = 64,
        n_rounds: int = 4,
        n_buckets: int | None = None,
        max_len: int | None = None,
        window: int | None = None,
        causal: bool = False,
        rule: Literal["bucket", "chunk"] = "bucket",
        attend_across_buckets: bool = False,
        deduplicate: bool = True,
        dropout: float = 0.0,
        eval_rounds: int | None = None,
        fresh_rotations: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.bucket_size = bucket_size
        self.n_rounds = n_rounds
        self.n_buckets = n_buckets
        self.max_len = _CAUSAL_MAX_LEN if max_len is None and causal else max_len
        self.window = 2 * bucket_size if window is None else window
        self.causal = causal
        self.rule = rule
        self.attend_across_buckets = attend_across_buckets
        self.deduplicate = deduplicate
        self.dropout = dropout
        self.eval_rounds = n_rounds if eval_rounds is None else eval_rounds
        self.fresh_rotations = fresh_rotations
        self.seed = seed
        self._check()

    def _check(self) -> None:
        for name in ("bucket_size", "n_rounds", "window", "eval_rounds", "max_len"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.n_buckets is not None and self.n_buckets != 1 and (self.n_buckets < 1 or self.n_buckets % 2):
            raise ValueError(f"n_buckets is {self.n_buckets}, must be 1 or even: a rotation gives two buckets")
        if self.rule not in ("bucket", "chunk"):
            raise ValueError(f"rule is {self.rule!r}, must be 'bucket' or 'chunk'")
        if self.attend_across_buckets and self.rule != "chunk":
            raise ValueError("attend_across_buckets needs rule='chunk': rule='bucket' sees its own bucket only")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, must be in [0, 1)")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"rule={self.rule}, window={self.window}, n_rounds={self.n_rounds}, causal={self.causal}"

    def forward(self, qk: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Qk (b, h, n, d), v (b, h, n, e), mask (b, n) True where a token is real -> (b, h, n, e)."""
        buckets, n_buckets = self._hash(qk, mask)
        return self._attend(qk, v, buckets, n_buckets, self.dropout if self.training else 0.0)

    def _hash(self, qk: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
        """Buckets (b, h, r, n), and how many there are; padding goes to a bucket of its own, after all others."""
        n_buckets, n_directions = self._fixed_n_buckets, None
        if n_buckets is None:
            n_buckets = choose_n_buckets(qk.shape[2], self.bucket_size)
            if mask is not None:
                n_directions = choose_n_directions(mask.sum(-1), self.bucket_size)
        rotations = self._rotations(qk, n_buckets)
        buckets = decide(lambda: bucket_of(qk, rotations, n_directions))
        return buckets if mask is None else buckets.masked_fill(~mask[:, None, None, :], n_buckets), n_buckets

    def _attend(self, qk: Tensor, v: Tensor, buckets: Tensor, n_buckets: int, dropout: float) -> Tensor:
        return attend_in_buckets(
            qk,
            v,
            buckets,
            n_buckets=n_buckets,
            window=self.window,
            causal=self.causal,
            rule=self.rule,
            attend_across_buckets=self.attend_across_buckets,
            deduplicate=self.deduplicate and buckets.shape[2] > 1,
            dropout=dropout,
        )

    @property
    def _fixed_n_buckets(self) -> int | None:
        """None: it follows from the number of real tokens."""
        if self.n_buckets is None and self.max_len is not None:
            return choose_n_buckets(self.max_len, self.bucket_size)
        return self.n_buckets

    def _rotations(self, qk: Tensor, n_buckets: int) -> Tensor:
        heads, head_dim = qk.shape[1], qk.shape[3]
        if self.training and self.fresh_rotations:
            return draw_rotations(heads, self.n_rounds, head_dim, n_buckets, like=qk)
        n_rounds = self.n_rounds if self.training else self.eval_rounds
        nested = self._fixed_n_buckets is None
        return seeded_rotations(qk, heads, n_rounds, head_dim, n_buckets, self.seed, nested)

    def new_cache(self, like: Tensor, max_len: int) -> "LSHCache":
        """An empty cache for decoding up to ``max_len`` tokens.

        Memory a head: max_len * (2 d + n_rounds) for keys, values and codes, and n_rounds * n_buckets * window
        token numbers. A step costs O(n_rounds * window * d), whatever the length.

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: tokens.

        Raises:
            ValueError: not causal, or rule="chunk", whose chunks cannot be known before all tokens are.
        """
        if not self.causal or self.rule != "bucket":
            raise ValueError(
                f"step-by-step decoding needs causal=True and rule='bucket', this has causal={self.causal} and "
                f"rule={self.rule!r}"
            )
        n_buckets = self._fixed_n_buckets
        return LSHCache.empty(like, max_len, self._rotations(like, n_buckets), n_buckets, min(self.window, max_len))

    def step(self, qk: Tensor, v: Tensor, cache: "LSHCache") -> Tensor:
        """Attend with the next t tokens, qk (b, h, t, d) and v (b, h, t, e) -> (b, h, t, e), and add them to the cache.

        One token costs O(n_rounds * window * d). Several are sorted among all tokens so far, as the parallel form does.

        Raises:
            ValueError: the cache is of another shape, or has no room for t more tokens.
        """
        cache.check(qk, v, batch=cache.keys.shape[0], heads=cache.keys.shape[1])
        if qk.shape[2] != 1:
            return self._several_steps(qk, v, cache)
        tokens, seen, ranks, bucket = cache.look_up(qk, self.deduplicate)
        keys, values = _rows(cache.keys, tokens), _rows(cache.values, tokens)
        scores = (qk * qk.shape[-1] ** -0.5 @ keys.mT).masked_fill(~seen.unsqueeze(2), -torch.inf)
        alone = ~seen.any(-1)[..., None, None]
        weights = scores.masked_fill(alone, 0).softmax(dim=-1)
        cache.append(unit(qk), v, bucket, ranks)
        return torch.where(alone, v, weights @ values)

    def _several_steps(self, qk: Tensor, v: Tensor, cache: "LSHCache") -> Tensor:
        """The parallel form over the tokens so far, of which keys are enough, and the new ones."""
        before, n_buckets = cache.length, cache.counts.shape[-1]
        bucket = cache.hashed(qk).long()
        cache.append(unit(qk), v, bucket, cache.counts.gather(-1, bucket) + earlier_in_bucket(bucket))
        buckets = cache.codes[:, :, : cache.length].mT // cache.code_unit
        keys_and_new = torch.cat((cache.keys[:, :, :before].to(qk.dtype), qk), dim=2)
        values = cache.values[:, :, : cache.length].to(v.dtype)
        return self._attend(keys_and_new, values, buckets, n_buckets, 0.0)[:, :, before:]


_CAUSAL_MAX_LEN = 2048


def choose_n_directions(lengths: Tensor, bucket_size: int) -> Tensor:
    """:func:`choose_n_buckets` / 2 of each of some lengths; 0 where one bucket is enough."""
    enough = -(-lengths // (2 * bucket_size))
    return torch.where(lengths <= bucket_size, 0, enough)


def attend_in_buckets(
    qk: Tensor,
    v: Tensor,
    buckets: Tensor,
    *,
    n_buckets: int,
    window: int,
    causal: bool,
    rule: str = "bucket",
    attend_across_buckets: bool = False,
    deduplicate: bool = True,
    dropout: float = 0.0,
) -> Tensor:
    """LSH attention for given buckets: sort, attend a run of blocks at a time, put back in order.

    Args:
        qk: (b, h, n, d).
        v: (b, h, n, e).
        buckets: (b, h, r, n), each in [0, n_buckets), or n_buckets for padding.
        n_buckets: how many there are.
        window: see :class:`LSHAttention`, as the rest.
        causal: a token sees none behind it.
        rule: "bucket" or "chunk".
        attend_across_buckets: chunk rule: real tokens see each other across buckets.
        deduplicate: count a key that several rounds show once.
        dropout: probability of dropping a weight.

    Returns:
        (b, h, n, e).
    """
    n = qk.shape[2]
    real = buckets[:, :, 0] < n_buckets
    reach = _reach(n, window, causal, by_position=causal and attend_across_buckets, rule=rule)
    buckets = F.pad(buckets, (0, reach.length - n), value=n_buckets)  # to whole blocks, behind all others
    buckets = buckets.permute(2, 0, 1, 3)  # (r, b, h, L)
    order = sort_by_bucket(buckets)
    if attend_across_buckets:  # chunks alone decide: one bucket of all real tokens, padding stays apart
        buckets = buckets // n_buckets
    first, last = _seen_places(buckets, order, min(window, n), causal and not reach.by_position, rule)
    sight = Sight(order.int(), first.int(), last.int())
    seeds = _draw_seeds(order.shape[1:], qk.device) if dropout > 0 else None
    weighing = {"deduplicate": deduplicate, "dropout": dropout, "seeds": seeds}
    return bucketed_attention(qk, v, sight, reach, **weighing, real=real, causal=causal)


def _draw_seeds(shape: torch.Size, device: torch.device) -> Tensor:
    limits = torch.iinfo(torch.int32)
    return torch.randint(limits.min, limits.max, (2, *shape), dtype=torch.int32, device=device)


def _reach(length: int, window: int, causal: bool, *, by_position: bool, rule: str) -> Reach:
    """Blocks that hold all that a query may see."""
    window = min(window, length)
    if rule == "chunk":
        return Reach(_round_up(length, window), window, back=1, ahead=0, by_position=int(by_position))
    block = -(-window // 2)  # two blocks back hold a window: 2/3 of the scores are used, 1/2 would be with one
    return Reach(_round_up(length, block), block, back=2, ahead=0 if causal else 2, by_position=0)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


@torch.no_grad()
def _seen_places(buckets: Tensor, order: Tensor, window: int, causal: bool, rule: str) -> tuple[Tensor, Tensor]:
    """The first and the last place in sorted order that each token sees, of buckets' shape (r, b, h, L).

    Bucket rule: ``window`` places around it; chunk rule: its chunk and the one before. Of these its own bucket's, and
    if causal those before it (where the sort keeps the order inside a bucket).
    """
    in_order, buckets = buckets.gather(-1, order), buckets.contiguous()
    place = undo_sort(order)
    if rule == "chunk":
        first = place // window * window - window
        last = first + 2 * window - 1
    else:
        first, last = place - window, place + window
    first = torch.maximum(first, torch.searchsorted(in_order, buckets))
    if causal:
        return first, place - 1
    return first, torch.minimum(last, torch.searchsorted(in_order, buckets, right=True) - 1)


@dataclass
class LSHCache(Cache):
    """What decoding knows of the tokens so far; ``recent`` is the per-bucket part."""

    by_token: ClassVar = ("keys", "values", "codes")

    hashed: Callable[[Tensor], Tensor]  # (b, h, n, d) -> buckets (b, h, r, n)
    keys: Tensor  # (b, h, max_len, d), unit vectors
    values: Tensor  # (b, h, max_len, e)
    codes: Tensor  # (b, h, max_len, r): rank in the bucket, plus :attr:`code_unit` times the bucket
    counts: Tensor  # (b, h, r, n_buckets): tokens in each bucket so far
    recent: Tensor  # (b, h, r, n_buckets, window): numbers of each bucket's last tokens, written round and round
    length: int
    max_len: int

    @classmethod
    def empty(cls, like: Tensor, max_len: int, rotations: Tensor, n_buckets: int, window: int) -> "LSHCache":
        """No token yet."""
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
        """What a code counts for each bucket: more than any two ranks in a bucket and a window are apart."""
        return self.max_len + self.recent.shape[-1]

    def look_up(self, qk: Tensor, deduplicate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a new token: the tokens within its reach (b, h, r * window), which count, its ranks and its buckets."""
        window = self.recent.shape[-1]
        bucket = self.hashed(qk).long()  # (b, h, r, 1)
        rank = self.counts.gather(-1, bucket)
        tokens = _rows(self.recent, bucket).squeeze(3)  # (b, h, r, window)
        seen = torch.arange(window, device=qk.device) < rank
        if deduplicate:
            seen = seen & ~self._seen_before(tokens, rank + bucket * self.code_unit, window)
        return tokens.flatten(2), seen.flatten(2), rank, bucket

    def _seen_before(self, tokens: Tensor, code: Tensor, window: int) -> Tensor:
        """(b, h, r, window): which of a round's tokens an earlier round shows too, by the rule of the parallel form."""
        n_rounds = tokens.shape[2]
        codes = _rows(self.codes, tokens.flatten(2)).view(*tokens.shape, n_rounds)  # of the tokens in every round
        gap = code.transpose(2, 3).unsqueeze(2) - codes  # (b, h, r, window, earlier r)
        earlier = torch.ones(n_rounds, n_rounds, dtype=torch.bool, device=gap.device).tril(-1).unsqueeze(1)
        return ((gap >= 1) & (gap <= window) & earlier).any(dim=-1)

    def append(self, key: Tensor, value: Tensor, bucket: Tensor, rank: Tensor) -> None:
        """Add t tokens: key and value (b, h, t, ·), bucket and rank in it (b, h, r, t)."""
        window, end = self.recent.shape[-1], self.length + key.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = key, value
        self.codes[:, :, self.length : end] = (rank + bucket * self.code_unit).mT
        self.counts.scatter_add_(-1, bucket, torch.ones_like(bucket))
        numbers = torch.arange(self.length, end, device=key.device).expand_as(bucket)
        self._remember(bucket * window + rank % window, numbers, rank)
        self.length = end

    def _remember(self, slots: Tensor, numbers: Tensor, rank: Tensor) -> None:
        """Write the numbers of t new tokens to their slots of ``recent``, (b, h, r, t) each."""
        recent = self.recent.flatten(3)
        if slots.shape[-1] == 1:
            recent.scatter_(-1, slots, numbers)
            return
        # of several tokens with one slot the one of the highest rank stays: it is sorted to the end of its slot's run
        order = torch.sort(slots * (self.max_len + 1) + rank, dim=-1).indices
        slots, numbers = slots.gather(-1, order), numbers.gather(-1, order)
        last = F.pad(slots[..., 1:] != slots[..., :-1], (0, 1), value=True)
        spare = recent.shape[-1]  # a slot more, for those that do not stay
        recent = F.pad(recent, (0, 1)).scatter_(-1, torch.where(last, slots, spare), numbers)
        self.recent.copy_(recent[..., :spare].view_as(self.recent))


def earlier_in_bucket(bucket: Tensor) -> Tensor:
    """How many earlier tokens of (..., t) are in the same bucket as each."""
    order = sort_by_bucket(bucket)
    in_order = bucket.gather(-1, order)
    return undo_sort(order) - torch.searchsorted(in_order, bucket.contiguous())


def _rows(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (..., k, x) of a table (..., n, x) by their numbers (..., k); one copy a row, unlike gather."""
    n, width = table.shape[-2:]
    start = n * torch.arange(math.prod(table.shape[:-2]), device=table.device).view(*table.shape[:-2], 1)
    return table.flatten(0, -2).index_select(0, (numbers + start).flatten()).view(*numbers.shape, width)
