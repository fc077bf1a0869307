"""Backward of bucketed attention: probabilities are recomputed block by block, and never stored.

Forward kept the log-sum-exp z_i over all rounds, so p_ij = exp(s_ij - z_i) in any round in which i sees j, and rounds
need no weights here (as in FlashAttention, Dao et al. 2022, algorithm 4). With dx the gradient of the loss with respect
to x, and o the output:

    dv_j = sum_i p_ij do_i                     ds_ij = p_ij (do_i . v_j - do_i . o_i)
    dq_i = sum_j ds_ij k_j / sqrt(d)           dk_j  = sum_i ds_ij q_i / sqrt(d)
    and, since k = q / ||q||,                  dq_i += (dk_i - (dk_i . k_i) k_i) / ||q_i||

dq sums over the keys of a query, dv and dk over the queries of a key. But p and ds are computed by query: c rows of s
numbers for each block of queries. A block of keys belongs to the windows of several blocks of queries, so dv and dk sum
over rows of several blocks.

One buffer, read by query and by key
------------------------------------
:func:`_band` lays out the rows so that each of these sums is a single batched product. It leaves c numbers unused after
every block. The number of query i and key j, both counted from the first of the range, is then at

    address(i, j) = s i + j

in all blocks. It is a banded matrix of queries x keys whose row stride is s instead of the number of keys; rows do not
overlap because each uses only s numbers. With c = 2 queries per block, s = 4 keys, and entries "ij":

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
                                s apart: one row for each query        12 13
                                that is compared with them             22 23
                                                                       32 33

So ``by_key[block].mT @ queries`` sums over all queries of these keys at once, instead of adding up contributions of
several blocks of queries. For keys at the ends of a range, some of these queries lie outside the range: there the
buffer is padded with zeros.

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

    The other arguments are the arguments and results of :func:`~my_transformers.lsh.forward.attend_forward`.
    """
    block_layout = BlockLayout(*layout)
    grad_qk, grad_v = empty_heads(qk), empty_heads(v)
    for group in groups(VisiblePlaces(order, first, last), dropout_seeds, block_layout, dropout):
        rows = _Rows.of(group, qk, v, grad, is_finite, out, log_sum_exp)
        found = _sums_over_rounds(group, rows, deduplicate, at_least_float32(v))
        own = group.index
        grad_qk[own] = group.unflatten(found.keys, qk[own])
        alone = log_sum_exp[own][..., : v.shape[2], None] == -torch.inf  # the output of such a token is its own value
        grad_own_value = torch.where(alone, grad[own], grad.new_zeros(()), out=grad_v[own])
        grad_own_value.add_(group.unflatten(found.values, v[own]))
        # rows that are not finite were replaced above; now their whole sequences get NaN gradients
        is_nan = ~group.unflatten(rows.grad_is_finite, v[own]).all(-1)[..., None, None]
        for gradient in (grad_qk[own], grad_v[own]):
            gradient.masked_fill_(is_nan, torch.nan)
    return grad_qk, grad_v


@attend_backward.register_fake
def _(grad: Tensor, qk: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_heads(qk), empty_heads(v)


class _Rows(NamedTuple):
    """The rows of a group that backward reads."""

    qk: RowTable
    inverse_norm: Tensor  # (M,)
    values: RowTable
    grad: RowTable  # gradient of the output
    grad_dot_out: Tensor  # (M,), do_i . o_i, which equals sum_j p_ij (do_i . v_j)
    log_sum_exp: Tensor  # (M,), base 2; +inf for a row that sees no other, which makes all its p_ij 0
    grad_is_finite: Tensor  # (M,), False where the output or its gradient has an infinity or NaN

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
    """Gradients of one round, in sorted order with padding at both ends, or of all rounds, in the group's order."""

    queries: Tensor  # (M, d), without the factor 1 / sqrt(d)
    keys: Tensor  # (M, d), without it too
    values: Tensor  # (M, e)

    @classmethod
    def zeros(cls, rows: _Rows, padding: int, scratch: Scratch) -> "_Gradients":
        """Zeros with ``padding`` additional rows at each end."""
        n_rows, dtype = len(rows.log_sum_exp) + 2 * padding, rows.log_sum_exp.dtype
        widths = (table.memory.shape[1] for table in (rows.qk, rows.qk, rows.values))
        names = (f"gradients of {name}, padding {padding}" for name in cls._fields)
        return cls(*(scratch(n, n_rows, w, dtype=dtype).zero_() for n, w in zip(names, widths, strict=True)))

    def add_round(self, of_round: "_Gradients", place: Tensor, scratch: Scratch) -> None:
        """Add a round's gradients, gathered into the group's order.

        Unlike a scatter, a gather adds to each row once, so the order of additions is the same on every device.
        """
        for total, ordered in zip(self, of_round, strict=True):
            in_order = scratch("in order", *total.shape, dtype=ordered.dtype)
            total.add_(torch.index_select(ordered, 0, place, out=in_order))

    def through_normalisation(self, rows: _Rows, spare: "_Gradients", scratch: Scratch) -> None:
        """Turn ``keys`` in place into the gradient of qk: dq plus dk taken through k = q / ||q||.

        ``spare`` is scratch memory.
        """
        all_rows = torch.arange(len(rows.inverse_norm), device=rows.inverse_norm.device)
        inverse_norm = rows.inverse_norm.unsqueeze(-1)
        queries = rows.qk.gather(all_rows, scratch, "in order")
        keys = torch.mul(queries, inverse_norm, out=spare.queries[: len(all_rows)])
        dk_dot_k = torch.mul(self.keys, keys, out=spare.keys[: len(all_rows)]).sum(-1, keepdim=True)
        self.keys.addcmul_(dk_dot_k, keys, value=-1).mul_(inverse_norm)
        self.keys.add_(self.queries).mul_(keys.shape[-1] ** -0.5)


def _sums_over_rounds(group: SequenceGroup, rows: _Rows, deduplicate: bool, dtype: torch.dtype) -> _Gradients:
    """Gradients in the group's order; ``keys`` is the gradient of qk."""
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
    """Add the contributions of the range's queries to ``into``, in sorted order with padding."""
    queries, keys, scores = masked_scores(group, blocks, rows.qk, rows.inverse_norm, mask)
    values = rows.values.gather(blocks.rows, group.scratch, "values")
    grad = rows.grad.gather(blocks.rows, group.scratch, "grad")
    grad_dot_out, log_sum_exp = (
        blocks.queries(x.index_select(0, blocks.rows)).unsqueeze(-1) for x in (rows.grad_dot_out, rows.log_sum_exp)
    )
    weights = scores.sub_(log_sum_exp).exp2_()
    grad_weights = batched_product(group, blocks.queries(grad), blocks.keys(values).mT, "scores").to(weights.dtype)
    by_query, by_key = _band(blocks, queries.dtype, group.scratch)
    query_rows = blocks.rows_of_blocks(group.layout.neighbours, blocks.n_blocks)
    key_rows = blocks.rows_of_blocks(group.layout.blocks_after, blocks.n_blocks + group.layout.neighbours)
    if group.dropout > 0:
        factors = dropout_factors(group, blocks)
        grad_weights *= factors
        torch.mul(weights, factors, out=by_query)
    else:
        by_query.copy_(weights)
    into.values[key_rows] += batched_product(group, by_key.mT, blocks.queries_by_key(grad)).flatten(0, 1)
    torch.mul(grad_weights.sub_(grad_dot_out), weights, out=by_query)  # ds overwrites p in the same buffer
    into.keys[key_rows] += batched_product(group, by_key.mT, blocks.queries_by_key(queries)).flatten(0, 1)
    into.queries[query_rows] = batched_product(group, by_query, blocks.keys(keys)).flatten(0, 1)


def _band(blocks: BlockRange, dtype: torch.dtype, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Two views of one buffer in which the number of query i and key j is at s i + j: see the figure at the top.

    Returns:
        (G, c, s) by query, to be written; (G + neighbours, s, c) by key, 0 for queries outside the range.
    """
    c, s, neighbours = blocks.layout.block_size, blocks.layout.keys_per_query, blocks.layout.neighbours
    block = c * s + c  # stride between blocks: c rows of s numbers, and c unused numbers
    memory = scratch("band", (blocks.n_blocks + 2 * neighbours) * block, dtype=dtype)
    memory[: neighbours * block] = 0
    memory[(blocks.n_blocks + neighbours) * block :] = 0
    by_query = memory.as_strided((blocks.n_blocks, c, s), (block, s, 1), neighbours * block)
    by_key = memory.as_strided((blocks.n_blocks + neighbours, s, c), (block, s, 1), neighbours * c)
    return by_query, by_key
