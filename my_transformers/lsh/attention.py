"""LSH attention: shared query-key attention within hash buckets (Kitaev et al. 2020, section 2).

Read its definition first: lsh_attention in my_transformers/reference.py. This file has the module, its step-by-step
decoding (with cache.py), and :func:`attend_in_buckets`: sort by bucket, find the interval of the sorted order that each
token sees, and attend in blocks of sorted tokens.

A token's *position* is its index in the sequence; its *place* is its index in a round's sorted order.

Read next: hashing.py, then bucketed.py, the entry point of the fast forward and backward.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.checks import check_heads
from my_transformers.derivatives import exporting, transformed
from my_transformers.lsh.bucketed import bucketed_attention, unit
from my_transformers.lsh.cache import LSHCache, earlier_in_bucket, rows_of_table
from my_transformers.lsh.hashing import (
    bucket_of,
    choose_n_buckets,
    draw_rotations,
    seeded_rotations,
    sort_by_bucket,
    undo_sort,
)
from my_transformers.lsh.layout import BlockLayout, VisiblePlaces
from my_transformers.lsh.settings import LSHSettings
from my_transformers.masks import boolean_mask
from my_transformers.mechanism import Mechanism
from my_transformers.reference import attention_over_rounds, bucket_rule, chunk_rule, visible_keys
from my_transformers.replay import decide


class LSHAttention(Mechanism, settings=LSHSettings):
    """Shared query-key attention within hash buckets, O(n_rounds * n * window * d) instead of O(n^2 d).

    Each round hashes the queries into buckets and sorts the tokens by (bucket, position). A rule then selects the
    tokens that a query sees. A token sees itself only if it sees no other token in any round.

    * ``rule="bucket"``: the ``window`` tokens of its own bucket before it in sorted order and, unless ``causal``, the
      ``window`` tokens after it. Inside a bucket the sorted order is the order of positions, so no later token changes
      this selection: causal attention is strictly causal, and can be decoded step by step.
    * ``rule="chunk"``: the paper's rule (equation 16). The sorted tokens are cut into chunks of ``window`` tokens. A
      query sees the tokens of its own bucket (of any bucket with ``attend_across_buckets``) in its own chunk and the
      previous one. Causal masking is by position, but chunk boundaries depend on all tokens: where a bucket does not
      fit in its chunks, *later* tokens decide which earlier ones a query sees. Use it to reproduce the paper, not to
      decode.

    Rounds are combined by their log-sum-exp; a key seen in several rounds counts once (the paper's N_ij). With one
    bucket and a window of at least the length, the output equals that of :class:`~my_transformers.SharedQKAttention`.

    Saved for backward: qk, v, the output, and per token and head 3 * n_rounds integers, a log-sum-exp and a flag; no
    scores.

    Definition: my_transformers/reference.py, lsh_attention, lsh_chunk_attention.

    Args:
        bucket_size: expected number of tokens per bucket, which determines the number of buckets.
        n_rounds: independent hash rounds per forward.
        n_buckets: number of buckets, 1 or even; default: from ``bucket_size``.
        max_len: the length in tokens from which the number of buckets is computed; inputs may be longer. None: 2048 if
            causal, since later tokens must not change the number of buckets; otherwise each sample's own number of
            real tokens, so that padding changes nothing. If causal, set it to your usual length.
        window: the window or chunk of the rules above, in tokens; default 2 * bucket_size, the paper's chunk length.
        causal: a token attends only to itself and earlier tokens.
        rule: "bucket" or "chunk".
        attend_across_buckets: chunk rule only: also see the chunks' tokens of other buckets.
        deduplicate: False counts a key once for every round in which the query sees it.
        dropout: probability of dropping an attention weight in training; a pair is dropped in all rounds or in none.
        eval_rounds: rounds in eval mode; default n_rounds.
        fresh_rotations: draw new rotations in each training forward from the global generator (as in the paper).
            Otherwise, and always in eval mode, rotations are derived from ``seed`` and stay the same.
        seed: seed of the fixed rotations; give each layer its own.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

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
            raise ValueError(f"n_buckets is {self.n_buckets}, must be 1 or even: each direction makes two buckets")
        if self.rule not in ("bucket", "chunk"):
            raise ValueError(f"rule is {self.rule!r}, must be 'bucket' or 'chunk'")
        if self.attend_across_buckets and self.rule != "chunk":
            raise ValueError("attend_across_buckets needs rule='chunk': rule='bucket' never leaves the query's bucket")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, must be in [0, 1)")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"rule={self.rule}, window={self.window}, n_rounds={self.n_rounds}, causal={self.causal}"

    def forward(self, qk: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map qk (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real."""
        check_heads(qk, qk, v)
        mask = boolean_mask(mask, qk)
        if qk.shape[2] == 0:
            return v
        buckets, n_buckets = self._hash(qk, mask)
        return self._attend(qk, v, buckets, n_buckets, self.dropout if self.training else 0.0)

    def _hash(self, qk: Tensor, mask: Tensor | None) -> tuple[Tensor, int]:
        """Buckets (b, h, r, n), and their number; padding goes to an extra bucket that sorts after all others."""
        n_buckets, n_directions = self._fixed_n_buckets, None
        if n_buckets is None:
            n_buckets = choose_n_buckets(qk.shape[2], self.bucket_size)
            if mask is not None:
                n_directions = choose_n_directions(mask.sum(-1), self.bucket_size)
        rotations = self._rotations(qk, n_buckets)
        buckets = decide(lambda: bucket_of(qk, rotations, n_directions))
        return buckets if mask is None else buckets.masked_fill(~mask[:, None, None, :], n_buckets), n_buckets

    def _attend(self, qk: Tensor, v: Tensor, buckets: Tensor, n_buckets: int, dropout: float) -> Tensor:
        attend = attend_as_defined if exporting() or transformed() else attend_in_buckets
        return attend(
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
        """The number of buckets, or None if it depends on the number of real tokens."""
        if self.n_buckets is None and self.max_len is not None:
            return choose_n_buckets(self.max_len, self.bucket_size)
        return self.n_buckets

    def _rotations(self, qk: Tensor, n_buckets: int) -> Tensor:
        heads, head_dim = qk.shape[1], qk.shape[3]
        if self.training and self.fresh_rotations:
            return draw_rotations(heads, self.n_rounds, head_dim, n_buckets, like=qk)
        n_rounds = self.n_rounds if self.training else self.eval_rounds
        nested = self._fixed_n_buckets is None
        return seeded_rotations(qk.detach(), heads, n_rounds, head_dim, n_buckets, self.seed, nested)

    def new_cache(self, like: Tensor, max_len: int) -> LSHCache:
        """An empty cache for decoding up to ``max_len`` tokens.

        Memory per head: max_len * (2 d + n_rounds) for keys, values and codes, and n_rounds * n_buckets * window
        token positions. A step costs O(n_rounds * window * d), independent of the length.

        Args:
            like: (b, h, any, d), for sizes, dtype and device.
            max_len: the maximum number of tokens.

        Raises:
            ValueError: not causal, or rule="chunk", whose chunks depend on later tokens.
        """
        if not self.causal or self.rule != "bucket":
            raise ValueError(
                f"step-by-step decoding needs causal=True and rule='bucket', got causal={self.causal} and "
                f"rule={self.rule!r}"
            )
        n_buckets = self._fixed_n_buckets
        assert n_buckets is not None  # causal=True sets max_len
        return LSHCache.empty(like, max_len, self._rotations(like, n_buckets), n_buckets, min(self.window, max_len))

    def step(self, qk: Tensor, v: Tensor, cache: LSHCache) -> Tensor:
        """Attend with the next t tokens, qk (b, h, t, d) and v (b, h, t, e) -> (b, h, t, e), and add them to the cache.

        One token costs O(n_rounds * window * d). Several tokens run the parallel form over all tokens so far.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        widths = cache.keys.shape[-1], cache.values.shape[-1]
        cache.check(qk, v, batch=cache.keys.shape[0], heads=cache.keys.shape[1], widths=widths)
        if qk.shape[2] != 1:
            return self._several_steps(qk, v, cache)
        tokens, seen, ranks, bucket = cache.look_up(qk, self.deduplicate)
        keys, values = rows_of_table(cache.keys, tokens), rows_of_table(cache.values, tokens)
        scores = (qk * qk.shape[-1] ** -0.5 @ keys.mT).masked_fill(~seen.unsqueeze(2), -torch.inf)
        alone = ~seen.any(-1)[..., None, None]
        weights = scores.masked_fill(alone, 0).softmax(dim=-1)
        cache.append(unit(qk), v, bucket, ranks)
        return torch.where(alone, v, weights @ values)

    def _several_steps(self, qk: Tensor, v: Tensor, cache: LSHCache) -> Tensor:
        """The parallel form over all tokens so far; returns the outputs of the new ones.

        The cache keeps keys but no queries, so the unit keys of earlier tokens stand in for their queries. Normalising
        them again leaves them unchanged, so the keys are right; the earlier tokens' outputs are wrong, and discarded.
        """
        n_earlier, n_buckets = cache.length, cache.counts.shape[-1]
        bucket = cache.hashed(qk).long()
        cache.append(unit(qk), v, bucket, cache.counts.gather(-1, bucket) + earlier_in_bucket(bucket))
        buckets = cache.codes[:, :, : cache.length].mT // cache.code_unit
        keys_and_new = torch.cat((cache.keys[:, :, :n_earlier].to(qk.dtype), qk), dim=2)
        values = cache.values[:, :, : cache.length].to(v.dtype)
        return self._attend(keys_and_new, values, buckets, n_buckets, 0.0)[:, :, n_earlier:]


_CAUSAL_MAX_LEN = 2048


def choose_n_directions(lengths: Tensor, bucket_size: int) -> Tensor:
    """The number of directions for each of ``lengths`` (b,): half of :func:`choose_n_buckets`, or 0 for one bucket."""
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
    """LSH attention for given buckets: sort, attend in blocks of sorted tokens, restore the order.

    Args:
        qk: (b, h, n, d).
        v: (b, h, n, e).
        buckets: (b, h, r, n), each in [0, n_buckets), or n_buckets for padding.
        n_buckets: the number of buckets.
        window: as in :class:`LSHAttention`.
        causal: a token attends only to itself and earlier tokens.
        rule: "bucket" or "chunk".
        attend_across_buckets: chunk rule only: see tokens of other buckets too.
        deduplicate: count a key once that a query sees in several rounds.
        dropout: probability of dropping a weight.

    Returns:
        (b, h, n, e).
    """
    n = qk.shape[2]
    real = buckets[:, :, 0] < n_buckets
    layout = _block_layout(n, window, causal, rule=rule, sorted_by_position=not attend_across_buckets)
    buckets = F.pad(buckets, (0, layout.length - n), value=n_buckets).permute(2, 0, 1, 3)  # (r, b, h, L), whole blocks
    order = sort_by_bucket(buckets, n_buckets + 1)
    if attend_across_buckets:  # buckets only determine the order: 0 for all real tokens, 1 for padding
        buckets = buckets // n_buckets
    causal_by_place = causal and not layout.earlier_positions_only
    return bucketed_attention(
        qk,
        v,
        _visible_places(buckets, order, min(window, n), causal_by_place, rule),
        layout,
        deduplicate=deduplicate,
        dropout=dropout,
        dropout_seeds=_draw_seeds(order.shape[1:], qk.device) if dropout > 0 else None,
        real=real,
        causal=causal,
    )


def attend_as_defined(
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
    """:func:`attend_in_buckets` by its definition, in plain PyTorch operators, for torch.export and torch.func.

    O(n^2) time and memory: in an exported graph the number of pieces of work cannot depend on the input.

    Raises:
        ValueError: dropout is not 0.
    """
    if dropout > 0:
        raise ValueError(
            f"dropout is {dropout}, must be 0 under torch.export and torch.func, which do not support it here; call "
            "eval() first"
        )
    mask = buckets[:, 0, 0] < n_buckets
    keys = buckets.long() * qk.shape[2] + torch.arange(qk.shape[2], device=qk.device)  # (bucket, position)
    places = keys.argsort(dim=-1).argsort(dim=-1)
    hashes = buckets // n_buckets if attend_across_buckets else buckets
    shown = (chunk_rule if rule == "chunk" else bucket_rule)(hashes, places, window)
    visible = visible_keys(qk.shape[2], mask, causal=causal)
    return attention_over_rounds(qk, v, shown, visible, once=deduplicate)


def _draw_seeds(shape: torch.Size, device: torch.device) -> Tensor:
    limits = torch.iinfo(torch.int32)
    return torch.randint(limits.min, limits.max, (2, *shape), dtype=torch.int32, device=device)


def _block_layout(length: int, window: int, causal: bool, *, rule: str, sorted_by_position: bool) -> BlockLayout:
    """The smallest blocks that contain everything a query may see.

    ``sorted_by_position``: the tokens that a query may see are in order of position, so that the earlier tokens are
    those at smaller places. Otherwise (attention across buckets) positions must be compared pair by pair.
    """
    window = min(window, length)
    if rule == "chunk":
        by_position = int(causal and not sorted_by_position)
        return BlockLayout(_round_up(length, window), window, 1, 0, earlier_positions_only=by_position)
    # The window before any query lies in its own block and the two blocks of half a window before it, so 2/3 of the
    # computed scores are used. With one earlier block of a whole window, only 1/2 would be.
    block_size = -(-window // 2)
    blocks_after = 0 if causal else 2
    return BlockLayout(_round_up(length, block_size), block_size, 2, blocks_after, earlier_positions_only=0)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


@torch.no_grad()
def _visible_places(buckets: Tensor, order: Tensor, window: int, causal: bool, rule: str) -> VisiblePlaces:
    """The interval of places that each token sees; buckets and order are (r, b, h, L).

    Bucket rule: ``window`` places to each side; chunk rule: its own chunk and the previous one. The interval is cut to
    the token's own bucket and, if causal, ends before its own place: inside a bucket, places are in order of position.
    """
    in_order, buckets = buckets.gather(-1, order), buckets.contiguous()
    place = undo_sort(order)
    if rule == "chunk":
        first = place // window * window - window
        last = first + 2 * window - 1
    else:
        first, last = place - window, place + window
    first = torch.maximum(first, torch.searchsorted(in_order, buckets))
    last = place - 1 if causal else torch.minimum(last, torch.searchsorted(in_order, buckets, right=True) - 1)
    return VisiblePlaces(order.int(), first.int(), last.int())
