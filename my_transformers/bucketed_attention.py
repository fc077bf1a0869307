"""Attention inside hash buckets, computed a run of sorted blocks at a time, with a backward that keeps no scores.

The rule of who sees whom is carried by integers. In each round every token has a *code*, and a query i may see key j
of that round if ``nearest <= code_i - code_j <= furthest`` (:class:`Reach`); :func:`lsh.place_codes` says how the codes
encode bucket and place. So a mask is one subtraction, in any round, for any pair: a key that an earlier round
already showed to the query is recognised by the same subtraction with that round's codes, and is counted once.

The softmax runs over everything that a query sees in all rounds. With z_r the log-sum-exp of round r and o_r its
output, out = sum_r exp(z_r - z) o_r with z = logsumexp_r z_r (Kitaev et al. 2020, equations 11 to 16). Backward
recomputes the probabilities as exp(score - z) from the saved order and z, as FlashAttention does (Dao et al. 2022).

Letters: N = batch * heads * n rows in all, d head_dim, e value dim, r rounds, G blocks of c queries in work at once,
s = (back + 1 + ahead) * c keys a block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores that exist at one time. On a CPU they and their copies should stay in a core's cache; an accelerator
# wants few and large kernels.
_SCORES_IN_WORK_CPU = 2**19
_SCORES_IN_WORK_DEVICE = 2**26

_OUT_OF_REACH = -(2**30)  # the code of what lies before the first and behind the last sorted token
_SMALLEST_NORM = 1e-6


class Reach(NamedTuple):
    """Which keys a block of sorted queries may see."""

    length: int  # n, a multiple of block
    block: int  # c, queries that are worked on together
    back: int  # blocks before the queries' own that hold their keys
    ahead: int  # blocks behind it
    nearest: int  # a key is in reach where nearest <= code_query - code_key <= furthest
    furthest: int
    causal: int  # 1: a key must also stand before the query; 0: it must be another token

    @property
    def span(self) -> int:
        """Keys that a block of queries is compared with."""
        return (self.back + 1 + self.ahead) * self.block

    def visible(self, gap: Tensor) -> Tensor:
        """Where a difference of codes (query - key) is in reach."""
        return (gap >= self.nearest) & (gap <= self.furthest)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one, k_j = q_j / ||q_j|| (section 2, "shared-QK"); computed in float32 or better."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * _inverse_norm(wide)).to(x.dtype)


def _inverse_norm(x: Tensor) -> Tensor:
    return 1 / x.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)


class _Run(NamedTuple):
    """A run of G consecutive blocks of one round: which rows, and what is known of them."""

    rows: Tensor  # (G * c + halo,) rows of qk and v: the queries' own, with their look-back and look-ahead
    own: slice  # where in ``rows`` the queries are
    real: slice  # where in ``rows`` there are tokens at all: at both ends the halo leaves the sequence
    codes: list[Tensor]  # of this round, then of the earlier rounds if their keys are not to be counted again
    n_blocks: int

    def queries(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G, c, ...): each block's own."""
        return x[self.own].unflatten(0, (self.n_blocks, -1))

    def windows(self, x: Tensor, reach: Reach) -> Tensor:
        """(rows, ...) -> (G, s, ...): all that a block sees; overlapping views, not copies."""
        size = (self.n_blocks, reach.span, *x.shape[1:])
        return x.as_strided(size, (reach.block * x.stride(0), *x.stride()))

    def fold(self, windows: Tensor, reach: Reach) -> Tensor:
        """(G, s, d) -> (rows, d): the adjoint of :meth:`windows`, adding up where they overlap."""
        pieces = windows.unflatten(1, (-1, reach.block))
        total = windows.new_zeros((len(self.rows) // reach.block, reach.block, windows.shape[-1]))
        for p in range(pieces.shape[1]):
            total[p : p + self.n_blocks] += pieces[:, p]
        return total.flatten(0, 1)


def _runs(rows: Tensor, codes: Tensor, reach: Reach, deduplicate: bool) -> Iterator[_Run]:
    """All runs of all rounds. rows (r, N): the sorted rows; codes (r, N): each row's code in each round."""
    n_blocks = rows.shape[1] // reach.block
    halo = (reach.back * reach.block, reach.ahead * reach.block)
    in_work = _SCORES_IN_WORK_CPU if rows.device.type == "cpu" else _SCORES_IN_WORK_DEVICE
    step = max(1, in_work // (reach.block * reach.span))
    for r in range(rows.shape[0]):
        sorted_rows = F.pad(rows[r], halo)
        sorted_codes = F.pad(codes[r].index_select(0, rows[r]), halo, value=_OUT_OF_REACH)
        for first in range(0, n_blocks, step):
            last = min(first + step, n_blocks)
            size = (last - first + reach.back + reach.ahead) * reach.block
            here = slice(first * reach.block, first * reach.block + size)
            own_rows = sorted_rows[here]
            earlier = [codes[e].index_select(0, own_rows) for e in range(r)] if deduplicate else []
            before = max(0, reach.back - first) * reach.block
            behind = max(0, last + reach.ahead - n_blocks) * reach.block
            yield _Run(
                rows=own_rows,
                own=slice(halo[0], size - halo[1]),
                real=slice(before, size - behind),
                codes=[sorted_codes[here], *earlier],
                n_blocks=last - first,
            )


def _hidden(run: _Run, reach: Reach) -> Tensor:
    """(G, c, s): True where the query may not see the key, or has already seen it in an earlier round."""

    def compare(x: Tensor) -> tuple[Tensor, Tensor]:
        return run.queries(x).unsqueeze(-1), run.windows(x, reach).unsqueeze(-2)

    hidden = None
    for codes in run.codes:
        query_code, key_code = compare(codes)
        visible = reach.visible(query_code - key_code)
        hidden = ~visible if hidden is None else hidden.logical_or_(visible)
    if reach.nearest <= 0:  # then codes alone do not tell a token from itself, or from those behind it
        query_position, key_position = compare(run.rows % reach.length)
        barred = key_position >= query_position if reach.causal else key_position == query_position
        hidden.logical_or_(barred)
    return hidden


def _kept(seeds: Tensor, run: _Run, reach: Reach, dropout: float) -> Tensor:
    """(G, c, s): which probabilities dropout keeps, hashed from one random integer a query and one a key.

    seeds (2, N) int32. The same pair meets the same fate in each round, in forward and in backward, with nothing of
    the size of the scores stored and no generator asked.
    """
    query_seed = run.queries(seeds[0].index_select(0, run.rows)).unsqueeze(-1)
    key_seed = run.windows(seeds[1].index_select(0, run.rows), reach).unsqueeze(-2)
    return keep_pairs(query_seed, key_seed, dropout)


def keep_pairs(query_seed: Tensor, key_seed: Tensor, dropout: float) -> Tensor:
    """True with probability 1 - dropout for each pair of int32 seeds, by an integer hash of their sum."""
    mixed = query_seed + key_seed
    for multiplier in (0x7FEB352D, 0x846CA68B - 2**32):  # constants of Wellons' lowbias32
        mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * multiplier
    return (mixed & 0x7FFFFFFF) >= int(dropout * 2**31)


def _scores(x: Tensor, run: _Run, reach: Reach) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries (G, c, d), unit keys (rows, d) and scores (G, c, s) in float32 or better, -inf where hidden."""
    queries = run.queries(x) * x.shape[-1] ** -0.5
    keys = unit(x)
    scores = torch.bmm(queries, run.windows(keys, reach).mT)
    if scores.dtype != torch.float64:
        scores = scores.float()
    return queries, keys, scores.masked_fill_(_hidden(run, reach), -torch.inf)


@torch.library.custom_op("my_transformers::bucketed_attention", mutates_args=())
def _bucketed_attention(
    qk: Tensor,
    v: Tensor,
    rows: Tensor,
    codes: Tensor,
    seeds: Tensor,
    reach: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Output (N, e) and log-sum-exp z (N,) of every row; z is -inf where a row sees nothing but itself."""
    reach = Reach(*reach)
    wide = torch.float64 if v.dtype == torch.float64 else torch.float32
    out = torch.zeros(v.shape, dtype=wide, device=v.device)
    total = torch.full(v.shape[:1], -torch.inf, dtype=wide, device=v.device)
    with torch.autocast(v.device.type, enabled=False):
        for run in _runs(rows, codes, reach, deduplicate):
            x, values = qk.index_select(0, run.rows), v.index_select(0, run.rows)
            scores = _scores(x, run, reach)[2]
            highest = scores.amax(dim=-1, keepdim=True).clamp_min_(torch.finfo(wide).min)  # a row of -inf stays one
            weights = scores.sub_(highest).exp_()
            mass = weights.sum(dim=-1, keepdim=True)
            if dropout > 0:
                weights *= _kept(seeds, run, reach, dropout) / (1 - dropout)
            summed = torch.bmm(weights.to(v.dtype), run.windows(values, reach)).to(wide)
            own_rows = run.rows[run.own]
            _merge_round(out, total, own_rows, summed.flatten(0, 1), mass.flatten(), highest.flatten())
        alone = (total == -torch.inf).unsqueeze(-1)
        return torch.where(alone, v, out.to(v.dtype)), total


def _merge_round(out: Tensor, total: Tensor, rows: Tensor, summed: Tensor, mass: Tensor, highest: Tensor) -> None:
    """Add sum_j exp(s_j - highest) v_j, whose weights sum to mass, to what earlier rounds gave these rows."""
    before = total.index_select(0, rows)
    after = torch.logaddexp(before, highest + mass.log())
    safe = after.clamp_min(torch.finfo(after.dtype).min)  # rows that have seen nothing yet: exp(-inf - safe) = 0
    old_share, new_share = (before - safe).exp(), (highest - safe).exp().masked_fill(mass == 0, 0)
    mixed = out.index_select(0, rows) * old_share.unsqueeze(-1) + summed * new_share.unsqueeze(-1)
    rows = rows.long()
    out.index_copy_(0, rows, mixed)
    total.index_copy_(0, rows, after)


@_bucketed_attention.register_fake
def _(qk, v, rows, codes, seeds, reach, deduplicate, dropout):  # noqa: ANN001, ANN202
    wide = torch.float64 if v.dtype == torch.float64 else torch.float32
    return torch.empty_like(v), v.new_empty(v.shape[:1], dtype=wide)


@torch.library.custom_op("my_transformers::bucketed_attention_backward", mutates_args=())
def _bucketed_attention_backward(
    grad: Tensor,
    qk: Tensor,
    v: Tensor,
    rows: Tensor,
    codes: Tensor,
    seeds: Tensor,
    out: Tensor,
    total: Tensor,
    reach: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qk and v, with the probabilities recomputed as exp(score - z)."""
    reach = Reach(*reach)
    wide = total.dtype
    alone = total == -torch.inf
    total = total.masked_fill(alone, torch.inf)  # such a row gave its own value: no probability has a part in it
    grad_qk = torch.zeros(qk.shape, dtype=wide, device=qk.device)
    grad_v = torch.where(alone.unsqueeze(-1), grad.to(wide), 0)
    mean = (grad.to(wide) * out.to(wide)).sum(-1)  # sum_j p_ij dp_ij, without the p_ij
    for run in _runs(rows, codes, reach, deduplicate):
        x, values = qk.index_select(0, run.rows), v.index_select(0, run.rows)
        queries, keys, scores = _scores(x, run, reach)
        own_rows = run.rows[run.own]
        weights = scores.sub_(_blocks(total, own_rows, reach).unsqueeze(-1)).exp_()
        grad_out = _blocks(grad, own_rows, reach)
        grad_weights = torch.bmm(grad_out, run.windows(values, reach).mT).to(wide)
        applied = weights
        if dropout > 0:
            kept = _kept(seeds, run, reach, dropout) / (1 - dropout)
            applied = weights * kept
            grad_weights *= kept
        grad_values = run.fold(torch.bmm(applied.to(v.dtype).mT, grad_out).to(wide), reach)
        grad_scores = grad_weights.sub_(_blocks(mean, own_rows, reach).unsqueeze(-1)).mul_(weights).to(x.dtype)
        grad_keys = run.fold(torch.bmm(grad_scores.mT, queries).to(wide), reach)
        grad_queries = torch.bmm(grad_scores, run.windows(keys, reach)).to(wide) * x.shape[-1] ** -0.5

        x, keys = x.to(wide), keys.to(wide)
        through_unit = grad_keys - (grad_keys * keys).sum(-1, keepdim=True) * keys
        grad_x = through_unit * _inverse_norm(x)
        grad_x[run.own] += grad_queries.flatten(0, 1)
        real = run.rows[run.real].long()  # each row once, so this is an addition in a fixed order, on any device
        grad_qk[real] += grad_x[run.real]
        grad_v[real] += grad_values[run.real]
    return grad_qk.to(qk.dtype), grad_v.to(v.dtype)


def _blocks(x: Tensor, rows: Tensor, reach: Reach) -> Tensor:
    return x.index_select(0, rows).unflatten(0, (-1, reach.block))


@_bucketed_attention_backward.register_fake
def _(grad, qk, v, rows, codes, seeds, out, total, reach, deduplicate, dropout):  # noqa: ANN001, ANN202
    return torch.empty_like(qk), torch.empty_like(v)


def _setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
    *tensors, ctx.reach, ctx.deduplicate, ctx.dropout = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad: Tensor, _: Tensor):  # noqa: ANN001, ANN202
    gradients = _bucketed_attention_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.reach, ctx.deduplicate, ctx.dropout
    )
    return *gradients, None, None, None, None, None, None


_bucketed_attention.register_autograd(_backward, setup_context=_setup_context)


def bucketed_attention(
    qk: Tensor,
    v: Tensor,
    rows: Tensor,
    codes: Tensor,
    reach: Reach,
    *,
    deduplicate: bool = True,
    dropout: float = 0.0,
    seeds: Tensor | None = None,
) -> Tensor:
    """Shared query-key attention among the tokens that hash rounds put in each other's reach.

    out_i = sum_j p_ij v_j over every key j in i's reach in some round, p_ij proportional to
    exp(q_i . q_j / (||q_j|| sqrt(d))), times the number of rounds that show j to i unless ``deduplicate``. A row
    that no round shows anything gives its own value.

    Args:
        qk: (N, d) queries; the keys are their unit vectors.
        v: (N, e).
        rows: (r, N) int32, each round's order of the rows; the N / length sequences stay one behind the other.
        codes: (r, N) int32, the code of each row (not of each place) in each round; rows of different sequences
            must be out of each other's reach.
        reach: the rule, and the blocks in which it is computed.
        deduplicate: count a key that several rounds show once (the paper's N_ij) instead of once a round.
        dropout: probability with which a pair is dropped.
        seeds: (2, N) random int32, one a query and one a key; needed for dropout.

    Returns:
        (N, e). Saved for backward: the arguments, the output and one log-sum-exp a row.
    """
    if seeds is None:
        seeds = rows.new_empty((2, 0))
    return _bucketed_attention(qk.contiguous(), v.contiguous(), rows, codes, seeds, list(reach), deduplicate, dropout)[
        0
    ]
