"""Scores of sorted blocks of queries and keys, what hides them, and dropout: alike in forward and backward.

Nothing here is kept between the two. Backward computes the same scores again from the same places, and dropout is a
hash of two integers, not a draw. Scores are base-2 logarithms of weights: exp2 is several times as fast as exp on CPUs.

Read next: forward.py. Letters as in layout.py.
"""

import math

import torch
from torch import Tensor

from my_transformers.lsh.layout import BlockRange, RowTable, SequenceGroup

# The unit of places in distances that are added to scores. One place outside the visible interval lowers the score by
# it, so the weight is 2^(-2^90 + score) = 0 whatever the score is. A power of two keeps places exact in float32, and
# 2^24 places are still far from its largest number, 2^128.
PLACE = 2.0**90
_LOG2_E = math.log2(math.e)


def masked_scores(
    group: SequenceGroup, blocks: BlockRange, qk: RowTable, inverse_norm: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q_i . k_j / sqrt(d) in base 2, with the mask added: it takes the mask's memory.

    Returns:
        queries (rows, d), their keys (rows, d), both with padding; scores (G, c, s).
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
    """(G, c, s) to add to scores: 0 where a query sees a key in round r, else -PLACE or less.

    With ``deduplicate`` only where no earlier round shows it the same key.

    There is no boolean in it. A key's distance to the ends of the query's interval, in units of PLACE, is clamped to 0
    inside; outside it is added as it is. That is two subtractions, a minimum and a clamp, each several times as fast as
    comparing and filling with -inf.
    """
    padding = group.layout.padding
    start = blocks.first * group.layout.block_size - padding
    places = torch.arange(start, start + len(blocks.rows), device=blocks.rows.device)
    mask = _places_inside(group, blocks, places, r, "mask", dtype).clamp_max_(0)
    itself = mask.diagonal(group.layout.blocks_before * group.layout.block_size, dim1=-2, dim2=-1)
    itself.fill_(-PLACE)
    if group.layout.earlier_positions_only:
        positions = (blocks.rows % group.layout.length).to(dtype) * PLACE
        ahead_of_key = blocks.queries(positions).unsqueeze(-1) - blocks.keys(positions).unsqueeze(1)
        torch.minimum(mask, ahead_of_key.sub_(PLACE), out=mask)  # 0 or more from one position ahead
    for earlier in range(r if deduplicate else 0):
        places = group.place[earlier].index_select(0, blocks.rows)
        inside = _places_inside(group, blocks, places, earlier, "inside earlier", dtype)
        mask.sub_(inside.add_(PLACE).clamp_min_(0))  # PLACE or more if it shows the key, 0 if not
    return mask


def _places_inside(
    group: SequenceGroup, blocks: BlockRange, places: Tensor, r: int, name: str, dtype: torch.dtype
) -> Tensor:
    """(G, c, s): how many places, times PLACE, a key lies inside what a query sees in round r; negative outside.

    ``places`` are those of all rows of the range in round r's order.
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
    """(G, c, s): 0 where dropout drops a weight, else 1 / (1 - dropout).

    Hashed from one random integer per query and one per key: the same pair is dropped or kept in every round, in
    forward and in backward, without storing anything of the scores' size or asking a generator.
    """
    assert group.dropout_seeds is not None  # as long as dropout is not 0
    query_seeds, key_seeds = (seeds.index_select(0, blocks.rows) for seeds in group.dropout_seeds)
    kept = is_kept(blocks.queries(query_seeds).unsqueeze(-1), blocks.keys(key_seeds).unsqueeze(1), group.dropout)
    return kept / (1 - group.dropout)


def is_kept(query_seed: Tensor, key_seed: Tensor, dropout: float) -> Tensor:
    """True with probability 1 - dropout for each pair of int32 seeds, by an integer hash of their sum."""
    mixed = query_seed + key_seed
    for multiplier in (0x7FEB352D, 0x846CA68B - 2**32):  # constants of Wellons' lowbias32
        mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * multiplier
    return (mixed & 0x7FFFFFFF) >= int(dropout * 2**31)
