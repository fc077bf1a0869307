"""Backward of attention in buckets: the probabilities are computed again, block by block, and never stored.

With the log-sum-exp z_i over all rounds that forward kept, p_ij = exp(s_ij - z_i) in whichever round shows j to i, so
rounds need no weights here (as in FlashAttention, Dao et al. 2022, algorithm 4). With dx the gradient of the loss with
respect to x, and o the output:

    dv_j = sum_i p_ij do_i                     ds_ij = p_ij (do_i . v_j - do_i . o_i)
    dq_i = sum_j ds_ij k_j / sqrt(d)           dk_j  = sum_i ds_ij q_i / sqrt(d)
    and, since k = q / ||q||,                  dq_i += (dk_i - (dk_i . k_i) k_i) / ||q_i||

dq sums over the keys of a query, dv and dk over the queries of a key. But p and ds are computed by query: c rows of s
for each block of queries. A block of keys meets several blocks of queries, so its sums run over rows of several blocks.

One memory, read by query and by key
------------------------------------
:func:`_band` stores them so that both sums are one batched product each. It leaves c numbers unused after every block.
Then query i and key j, each counted from the first in the range, meet at

    address(i, j) = s i + j

in all blocks: as in a whole matrix of queries x keys with rows only s apart, which is enough since a row holds s
numbers. With c = 2 queries per block, compared with s = 4 keys, digits "ij":

             j  0  1  2  3  4  5  6  7
    block 0  i=0 00 01 02 03
             i=1 10 11 12 13
    block 1  i=2       22 23 24 25
             i=3       32 33 34 35
    block 2  i=4             44 45 46 47
             i=5             54 55 56 57

    address  0  1  2  3 | 4  5  6  7 | 8  9 |10 11 12 13 |14 15 16 17 |18 19 |20 21 22 23 |24 ...
    pair    00 01 02 03 |10 11 12 13 | -  - |22 23 24 25 |32 33 34 35 | -  - |44 45 46 47 |54 ...

    by query: block 1 is        two rows of s, from address 10         22 23 24 25
                                                                       32 33 34 35
    by key:   keys 2 and 3 are  s rows of two, from address 2,         02 03
                                s apart: one for each query            12 13
                                that meets them                        22 23
                                                                       32 33

So ``by_key[block].mT @ queries`` sums over all queries of these keys at once, and no block's gradient has to be added
to another's. Keys at the ends of a range meet queries outside it: the padding holds zeros there.

Read next: cache.py, for decoding. Letters as in layout.py.
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
from my_transformers.lsh.scores import additive_mask, batched_product, dropout_factors, masked_scores
from my_transformers.memory import Scratch, empty_heads


@torch.library.custom_op("my_transformers::bucketed_attention_backward", mutates_args=())
def attend_backward(
    grad: Tensor,
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    dropout_seeds: Tensor,
    is_finite: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
    layout: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qk and v, given that of the output (b, h, n, e).

    The other arguments are those and the results of :func:`~my_transformers.lsh.forward.attend_forward`.
    """
    block_layout = BlockLayout(*layout)
    grad_qk, grad_v = empty_heads(qk), empty_heads(v)
    for group in groups(VisiblePlaces(order, first, last), dropout_seeds, block_layout, dropout):
        rows = _Rows.of(group, qk, v, grad, is_finite, out, log_sum_exp)
        found = _sums_over_rounds(group, rows, deduplicate, at_least_float32(v))
        own = group.index
        grad_qk[own] = group.unflatten(found.keys, qk[own])
        alone = log_sum_exp[own][..., : v.shape[2], None] == -torch.inf  # whose output is its own value
        grad_own_value = torch.where(alone, grad[own], grad.new_zeros(()), out=grad_v[own])
        grad_own_value.add_(group.unflatten(found.values, v[own]))
        spoiled = ~group.unflatten(rows.grad_is_finite, v[own]).all(-1)[..., None, None]  # whole sequences
        for gradient in (grad_qk[own], grad_v[own]):
            gradient.masked_fill_(spoiled, torch.nan)
    return grad_qk, grad_v


@attend_backward.register_fake
def _(grad: Tensor, qk: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_heads(qk), empty_heads(v)


class _Rows(NamedTuple):
    """What backward needs of a group's rows."""

    qk: RowTable
    inverse_norm: Tensor  # (M,)
    values: RowTable
    grad: RowTable  # of the output
    grad_dot_out: Tensor  # (M,), do_i . o_i, which is sum_j p_ij (do_i . v_j)
    log_sum_exp: Tensor  # (M,), base 2; +inf where a row's output is its own value: all its p_ij are 0
    grad_is_finite: Tensor  # (M,), False where the output's gradient, or the output, is not

    @classmethod
    def of(
        cls,
        group: SequenceGroup,
        qk: Tensor,
        v: Tensor,
        grad: Tensor,
        is_finite: Tensor,
        out: Tensor,
        log_sum_exp: Tensor,
    ) -> "_Rows":
        log_sum_exp, is_finite = log_sum_exp[group.index].flatten(), group.flags(is_finite)
        grad_dot_out = group.dot(grad, out)
        grad_is_finite = grad_dot_out.isfinite()
        return cls(
            group.row_table(qk, is_finite),
            group.inverse_norm(qk),
            group.row_table(v, is_finite),
            group.row_table(grad, grad_is_finite),
            grad_dot_out.nan_to_num_(0, 0, 0),
            log_sum_exp.masked_fill(log_sum_exp == -torch.inf, torch.inf),
            grad_is_finite,
        )


class _Gradients(NamedTuple):
    """Gradients from one round, in sorted order and padded at both ends, or summed over rounds in the group's order."""

    queries: Tensor  # (M, d), without the factor 1 / sqrt(d)
    keys: Tensor  # (M, d), likewise
    values: Tensor  # (M, e)

    @classmethod
    def zeros(cls, rows: _Rows, padding: int, scratch: Scratch) -> "_Gradients":
        """With ``padding`` more rows at both ends."""
        n_rows, dtype = len(rows.log_sum_exp) + 2 * padding, rows.log_sum_exp.dtype
        widths = (table.memory.shape[1] for table in (rows.qk, rows.qk, rows.values))
        names = (f"gradients of {name}, padding {padding}" for name in cls._fields)
        return cls(*(scratch(n, n_rows, w, dtype=dtype).zero_() for n, w in zip(names, widths, strict=True)))

    def add_round(self, of_round: "_Gradients", place: Tensor, scratch: Scratch) -> None:
        """Gather a round's gradients back in order: each row once, so the order of additions is fixed on any device."""
        for total, ordered in zip(self, of_round, strict=True):
            in_order = scratch("in order", *total.shape, dtype=ordered.dtype)
            total.add_(torch.index_select(ordered, 0, place, out=in_order))

    def through_normalisation(self, rows: _Rows, spare: "_Gradients", scratch: Scratch) -> None:
        """Turn ``keys`` into the gradient of qk, the queries that, as q / ||q||, are also the keys.

        ``spare`` is memory to work in.
        """
        all_rows = torch.arange(len(rows.inverse_norm), device=rows.inverse_norm.device)
        inverse_norm = rows.inverse_norm.unsqueeze(-1)
        queries = rows.qk.gather(all_rows, scratch, "in order")
        keys = torch.mul(queries, inverse_norm, out=spare.queries[: len(all_rows)])
        along = torch.mul(self.keys, keys, out=spare.keys[: len(all_rows)]).sum(-1, keepdim=True)
        self.keys.addcmul_(along, keys, value=-1).mul_(inverse_norm)
        self.keys.add_(self.queries).mul_(keys.shape[-1] ** -0.5)


def _sums_over_rounds(group: SequenceGroup, rows: _Rows, deduplicate: bool, dtype: torch.dtype) -> _Gradients:
    """In the group's order; ``keys`` is the gradient of qk."""
    padding = group.layout.padding
    total = _Gradients.zeros(rows, 0, group.scratch)
    for r in range(len(group.order)):
        of_round = _Gradients.zeros(rows, padding, group.scratch)
        for blocks in group.block_ranges(r):
            mask = additive_mask(group, blocks, r, deduplicate=deduplicate, dtype=dtype)
            _add_gradients_of_blocks(group, blocks, mask, rows, of_round)
        total.add_round(of_round, group.place[r] + padding, group.scratch)
    total.through_normalisation(rows, of_round, group.scratch)
    return total


def _add_gradients_of_blocks(
    group: SequenceGroup, blocks: BlockRange, mask: Tensor, rows: _Rows, into: _Gradients
) -> None:
    """Add the gradients that come through the range's queries, in sorted order with padding."""
    queries, keys, scores = masked_scores(group, blocks, rows.qk, rows.inverse_norm, mask)
    values = rows.values.gather(blocks.rows, group.scratch, "values")
    grad = rows.grad.gather(blocks.rows, group.scratch, "grad")
    grad_dot_out, log_sum_exp = (
        blocks.queries(x.index_select(0, blocks.rows)).unsqueeze(-1) for x in (rows.grad_dot_out, rows.log_sum_exp)
    )
    weights = scores.sub_(log_sum_exp).exp2_()
    grad_weights = batched_product(group, blocks.queries(grad), blocks.keys(values).mT, "scores").to(weights.dtype)
    by_query, by_key = _band(blocks, queries.dtype, group.scratch)
    of_queries = blocks.rows_of_blocks(group.layout.neighbours, blocks.n_blocks)
    of_keys = blocks.rows_of_blocks(group.layout.blocks_after, blocks.n_blocks + group.layout.neighbours)
    if group.dropout > 0:
        factors = dropout_factors(group, blocks)
        grad_weights *= factors
        torch.mul(weights, factors, out=by_query)
    else:
        by_query.copy_(weights)
    into.values[of_keys] += batched_product(group, by_key.mT, blocks.queries_by_key(grad)).flatten(0, 1)
    torch.mul(grad_weights.sub_(grad_dot_out), weights, out=by_query)  # gradients of the scores, in the same memory
    into.keys[of_keys] += batched_product(group, by_key.mT, blocks.queries_by_key(queries)).flatten(0, 1)
    into.queries[of_queries] = batched_product(group, by_query, blocks.keys(keys)).flatten(0, 1)


def _band(blocks: BlockRange, dtype: torch.dtype, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Two views of one memory, in which query i and key j lie at s i + j: see the figure at the top.

    Returns:
        (G, c, s) by query, to be written; (G + neighbours, s, c) by key, 0 where a key meets no query of the range.
    """
    c, s, neighbours = blocks.layout.block_size, blocks.layout.keys_per_query, blocks.layout.neighbours
    block = c * s + c  # numbers from block to block: c rows, and c unused
    memory = scratch("band", (blocks.n_blocks + 2 * neighbours) * block, dtype=dtype)
    memory[: neighbours * block] = 0
    memory[(blocks.n_blocks + neighbours) * block :] = 0
    by_query = memory.as_strided((blocks.n_blocks, c, s), (block, s, 1), neighbours * block)
    by_key = memory.as_strided((blocks.n_blocks + neighbours, s, c), (block, s, 1), neighbours * c)
    return by_query, by_key
