"""Forward of bucketed attention: softmax sums over sorted blocks for each round, merged into one softmax over rounds.

A round computes for each row sum_j 2^(s_j - max) v_j, sum_j 2^(s_j - max) and the maximum. Rounds are merged like the
blocks of FlashAttention (Dao et al. 2022, section 3.1): rescaled to a common maximum, and added. With one division at
the end, this equals the paper's sum over rounds with weights exp(z_r - z), where z_r is the log-sum-exp of round r and
z that of all rounds (Kitaev et al. 2020, equations 12 to 16).

Read next: backward.py. Letters as in layout.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from my_transformers.lsh.layout import (
    BlockLayout,
    BlockRange,
    RowTable,
    SequenceGroup,
    VisiblePlaces,
    at_least_float32,
    groups,
)
from my_transformers.lsh.scores import PLACE, additive_mask, batched_product, dropout_factors, masked_scores
from my_transformers.memory import Scratch, empty_heads


@torch.library.custom_op("my_transformers::bucketed_attention", mutates_args=())
def attend_forward(
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    dropout_seeds: Tensor,
    is_finite: Tensor,
    is_nan: Tensor,
    layout: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """:func:`~my_transformers.lsh.bucketed.bucketed_attention` as a custom operator, which takes tensors and numbers.

    Args:
        qk: (b, h, n, d).
        v: (b, h, n, e).
        order: int32 (r, b, h, L); this and the next two are the fields of a VisiblePlaces.
        first: int32 (r, b, h, L).
        last: int32 (r, b, h, L).
        dropout_seeds: (2, b, h, L), or empty without dropout.
        is_finite: (b, h, n), False where the row of qk or v has an infinity or NaN.
        is_nan: (b, h, n), True where the output must be NaN.
        layout: the fields of a BlockLayout.
        deduplicate: count a key once.
        dropout: probability of dropping a pair's weight.

    Returns:
        The output (b, h, n, e), and the base-2 log-sum-exp (b, h, L), -inf for a token that sees no other.
    """
    out, log_sum_exp = empty_heads(v), v.new_empty(first.shape[1:], dtype=at_least_float32(v))
    with torch.autocast(v.device.type, enabled=False):
        for group in groups(VisiblePlaces(order, first, last), dropout_seeds, BlockLayout(*layout), dropout):
            sums = _sums_over_rounds(group, qk, v, is_finite, deduplicate)
            total, own = sums.log_sum_exp(), v[group.index]
            alone = group.unflatten(total == -torch.inf, own).unsqueeze(-1)
            result = torch.where(alone, own, group.unflatten(sums.mean(), own).to(v.dtype))
            # A padded token that sees no other returns its own value. If that is NaN, backward would take it for a NaN
            # output and make the gradient of the whole sequence NaN.
            result.masked_fill_(~is_finite[group.index].unsqueeze(-1), 0)
            out[group.index] = result.masked_fill_(is_nan[group.index].unsqueeze(-1), torch.nan)
            log_sum_exp[group.index] = total.view(*log_sum_exp[group.index].shape)
    return out, log_sum_exp


@attend_forward.register_fake
def _(qk: Tensor, v: Tensor, order: Tensor, first: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_heads(v), v.new_empty(first.shape[1:], dtype=at_least_float32(v))


class _SoftmaxSums(NamedTuple):
    """Softmax sums over the keys j that each row sees, relative to the row's largest score."""

    weighted_values: Tensor  # (M, e), sum_j 2^(s_j - max_score) v_j
    weights: Tensor  # (M,), sum_j 2^(s_j - max_score)
    max_score: Tensor  # (M,), -inf if the row sees no key

    @classmethod
    def empty(cls, n_rows: int, v: Tensor) -> "_SoftmaxSums":
        """Sums over no keys."""
        weights = v.new_zeros(n_rows, dtype=at_least_float32(v))
        weighted_values = v.new_zeros((n_rows, v.shape[-1]), dtype=at_least_float32(v))
        return cls(weighted_values, weights, torch.full_like(weights, -torch.inf))

    @classmethod
    def unwritten(cls, n_rows: int, v: Tensor, scratch: Scratch) -> "_SoftmaxSums":
        """Uninitialised scratch memory for the sums of one round, whose blocks write every row."""
        shapes = {"weighted values": (n_rows, v.shape[-1]), "weights": (n_rows,), "max score": (n_rows,)}
        return cls(*(scratch(name, *shape, dtype=at_least_float32(v)) for name, shape in shapes.items()))

    def add_round(self, of_round: "_SoftmaxSums", place: Tensor, scratch: Scratch) -> None:
        """Merge in another round's sums, which are in that round's sorted order; ``place`` (M,) is each row's place.

        Restoring the order by a gather is several times as fast as by a scatter.
        """
        weights, max_score = (x.index_select(0, place) for x in (of_round.weights, of_round.max_score))
        max_score = max_score.masked_fill_(max_score < -PLACE / 2, -torch.inf)  # rows that see no key in this round
        larger = torch.maximum(self.max_score, max_score)
        safe = larger.clamp_min(torch.finfo(larger.dtype).min)  # -inf - -inf would be NaN; 2^(-inf - safe) is 0
        old_scale, new_scale = (self.max_score - safe).exp2_(), (max_score - safe).exp2_()
        in_order = scratch("in order", *self.weighted_values.shape, dtype=weights.dtype)
        weighted_values = torch.index_select(of_round.weighted_values, 0, place, out=in_order)
        self.weighted_values.mul_(old_scale.unsqueeze(-1)).addcmul_(weighted_values, new_scale.unsqueeze(-1))
        self.weights.mul_(old_scale).addcmul_(weights, new_scale)
        self.max_score.copy_(larger)

    def log_sum_exp(self) -> Tensor:
        """(M,), log2 sum_j 2^s_j."""
        return self.max_score + self.weights.log2()

    def mean(self) -> Tensor:
        """(M, e), sum_j p_j v_j with p the softmax of s."""
        return self.weighted_values / self.weights.unsqueeze(-1)


def _sums_over_rounds(
    group: SequenceGroup, qk: Tensor, v: Tensor, is_finite: Tensor, deduplicate: bool
) -> _SoftmaxSums:
    is_finite, inverse_norm = group.flags(is_finite), group.inverse_norm(qk)
    queries, values = group.row_table(qk, is_finite), group.row_table(v, is_finite)
    sums = _SoftmaxSums.empty(len(inverse_norm), v)
    for r in range(len(group.order)):
        of_round = _SoftmaxSums.unwritten(len(inverse_norm), v, group.scratch)
        for blocks in group.block_ranges(r):
            mask = additive_mask(group, blocks, r, deduplicate=deduplicate, dtype=at_least_float32(v))
            _, _, scores = masked_scores(group, blocks, queries, inverse_norm, mask)
            _attend_in_blocks(group, blocks, scores, values, of_round)
        sums.add_round(of_round, group.place[r], group.scratch)
    return sums


def _attend_in_blocks(
    group: SequenceGroup, blocks: BlockRange, scores: Tensor, values: RowTable, into: _SoftmaxSums
) -> None:
    """Write the sums of the range's queries to ``into``, in sorted order; scores (G, c, s) are overwritten."""
    max_score = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(max_score).exp2_()
    own = blocks.rows_of_blocks(0, blocks.n_blocks)
    into.max_score[own], into.weights[own] = max_score.flatten(), weights.sum(dim=-1).flatten()
    if group.dropout > 0:  # after the sum of weights: dropout follows the softmax, and its weights are not renormalised
        weights *= dropout_factors(group, blocks)
    rows = values.gather(blocks.rows, group.scratch, "values")
    into.weighted_values[own] = batched_product(group, weights.to(rows.dtype), blocks.keys(rows)).flatten(0, 1)
