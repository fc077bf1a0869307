"""Scores of sorted blocks of queries and keys, the mask added to them, and dropout; used by forward and backward.

Forward keeps nothing from here for backward. Backward recomputes the same scores and mask from the same places, and the
same dropout from a hash of two integers per pair. Scores are in base 2, because exp2 is several times as fast as exp on
CPUs.

Read next: forward.py. Letters as in layout.py.
"""

import math

import torch
from torch import Tensor

from my_transformers.lsh.layout import BlockRange, RowTable, SequenceGroup

# What the mask subtracts from a score per place outside the visible interval. One place already makes the weight
# 2^(score - 2^90) = 0 for any score. Since it is a power of two, multiples of it by places below 2^24 are exact in
# float32, and the largest, 2^114, is far from overflow at 2^128.
PLACE = 2.0**90
_LOG2_E = math.log2(math.e)


def masked_scores(
    group: SequenceGroup, blocks: BlockRange, qk: RowTable, inverse_norm: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores q_i . k_j / sqrt(d) in base 2 plus the mask, computed in the mask's memory.

    Returns:
        Queries (rows, d) and unit keys (rows, d), both including the padding; scores (G, c, s).
    """
    queries = qk.gather(blocks.rows, group.scratch, "queries")
    keys = group.scratch("keys", *queries.shape, dtype=queries.dtype)
    torch.mul(queries, inverse_norm.index_select(0, blocks.rows).unsqueeze(-1), out=keys)
    products = batched_product(group, blocks.queries(queries), blocks.keys(keys).mT, "scores")
    return queries, keys, mask.add_(products, alpha=queries.shape[-1] ** -0.5 * _LOG2_E)


def batched_product(group: SequenceGroup, a: Tensor, b: Tensor, name: str = "product") -> Tensor:
    """Matrix product a @ b for each block, in scratch memory of this name."""
    return torch.bmm(a, b, out=group.scratch(name, len(a), a.shape[1], b.shape[2], dtype=a.dtype))


def additive_mask(group: SequenceGroup, blocks: BlockRange, r: int, *, deduplicate: bool, dtype: torch.dtype) -> Tensor:
    """The mask (G, c, s) to add to scores: 0 where a query sees a key in round r, otherwise at most -PLACE.

    With ``deduplicate``, a key counts only in the first round in which the query sees it: it is also hidden in round r
    if an earlier round makes it visible.

    No booleans are involved. With x the signed distance of a key, in places, to the nearer end of the query's interval
    (>= 0 inside, < 0 outside), the mask is min(x, 0) * PLACE. That takes two subtractions, a minimum and a clamp, each
    several times as fast as a comparison and a fill with -inf.
    """
    padding = group.layout.padding
    start = blocks.first * group.layout.block_size - padding
    places = torch.arange(start, start + len(blocks.rows), device=blocks.rows.device)
    mask = _places_inside(group, blocks, places, r, "mask", dtype).clamp_max_(0)
    itself = mask.diagonal(group.layout.blocks_before * group.layout.block_size, dim1=-2, dim2=-1)
    itself.fill_(-PLACE)
    if group.layout.earlier_positions_only:
        positions = (blocks.rows % group.layout.length).to(dtype) * PLACE
        query_minus_key = blocks.queries(positions).unsqueeze(-1) - blocks.keys(positions).unsqueeze(1)
        torch.minimum(mask, query_minus_key.sub_(PLACE), out=mask)  # negative unless the key is at least 1 earlier
    for earlier in range(r if deduplicate else 0):
        places = group.place[earlier].index_select(0, blocks.rows)
        inside = _places_inside(group, blocks, places, earlier, "inside earlier", dtype)
        # inside is x * PLACE for an integer x, so max(x + 1, 0) * PLACE is at least PLACE if the earlier round makes
        # the key visible (x >= 0), and 0 otherwise (x <= -1)
        mask.sub_(inside.add_(PLACE).clamp_min_(0))
    return mask


def _places_inside(
    group: SequenceGroup, blocks: BlockRange, places: Tensor, r: int, name: str, dtype: torch.dtype
) -> Tensor:
    """(G, c, s): PLACE times the signed distance of a key to the nearer end of the query's interval in round r.

    It is 0 or more inside the interval, -PLACE or less outside. ``places`` are the places of all rows of the range in
    round r, which for an earlier round than that of the range are not consecutive.
    """
    key = blocks.keys(places.to(dtype) * PLACE).unsqueeze(1)
    first, last = (
        (blocks.queries(ends[r].index_select(0, blocks.rows)).to(dtype) * PLACE).unsqueeze(-1)
        for ends in (group.first, group.last)
    )
    after_first = torch.sub(key, first, out=group.scratch(name, *blocks.scores_shape, dtype=dtype))
    before_last = torch.sub(last, key, out=group.scratch("before last", *blocks.scores_shape, dtype=dtype))
    return torch.minimum(after_first, before_last, out=after_first)


def dropout_factors(group: SequenceGroup, blocks: BlockRange) -> Tensor:
    """(G, c, s): 0 where dropout drops a weight, otherwise 1 / (1 - dropout).

    Each pair's fate is a hash of one random integer per query and one per key. So a pair is dropped in every round or
    in none, and backward repeats forward, without a stored mask of the scores' size and without a generator.
    """
    assert group.dropout_seeds is not None  # dropout > 0
    query_seeds, key_seeds = (seeds.index_select(0, blocks.rows) for seeds in group.dropout_seeds)
    kept = is_kept(blocks.queries(query_seeds).unsqueeze(-1), blocks.keys(key_seeds).unsqueeze(1), group.dropout)
    return kept / (1 - group.dropout)


def is_kept(query_seed: Tensor, key_seed: Tensor, dropout: float) -> Tensor:
    """For each pair of int32 seeds, True with probability 1 - dropout: an integer hash of their sum is large enough."""
    mixed = query_seed + key_seed
    for multiplier in (0x7FEB352D, 0x846CA68B - 2**32):  # constants of Wellons' lowbias32
        mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * multiplier
    return (mixed & 0x7FFFFFFF) >= int(dropout * 2**31)
