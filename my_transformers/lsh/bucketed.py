"""Attention inside hash buckets, computed a run of sorted blocks at a time, with a backward that keeps no scores.

In each round the tokens are sorted, and a query sees the keys of one interval of places in that order
(:class:`Sight`). So a mask is two comparisons with the ends of an interval, in any round, for any pair: a key that
an earlier round already showed to the query is recognised by that round's places, and is counted once.

The softmax runs over everything that a query sees in all rounds. With z_r the log-sum-exp of round r and o_r its
output, out = sum_r exp(z_r - z) o_r with z = logsumexp_r z_r (Kitaev et al. 2020, equations 11 to 16). Backward
recomputes the probabilities as exp(score - z) from the saved order and z, as FlashAttention does (Dao et al. 2022).
docs/performance.md says why it is written as it is.

Letters: b batch, h heads, n length, L the length in whole blocks, d head_dim, e value dim, r rounds; M rows of a part;
G blocks of c queries in work at once, w blocks of keys that such a block sees, s = w c.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.derivatives import first_derivatives_only
from my_transformers.memory import Scratch, at_once, empty_heads

_ROWS_IN_WORK, _SCORES_IN_WORK = 2**12, 2**19  # on a CPU
# On a GPU, so much that starting a kernel takes less time than its work, at 0.5 GiB of scratch memory for heads of 64.
# 2^24 rows is the bound: places must be exact in float32.
_ROWS_ON_DEVICE, _SCORES_ON_DEVICE = 2**20, 2**24

# Places are counted in this unit, so that how far a key lies outside a query's interval can be added to the score:
# any distance makes the weight 2^(-unit) = 0. A power of two keeps places exact.
_FAR = 2.0**90
_SMALLEST_NORM = 1e-6
_LOG2_E = math.log2(math.e)  # weights are powers of two: exp2 is several times as fast as exp on a CPU


class Reach(NamedTuple):
    """Which keys a block of sorted queries is compared with."""

    length: int  # L, a multiple of block
    block: int  # c, queries that are worked on together
    back: int  # blocks before the queries' own that hold their keys
    ahead: int  # blocks behind it
    by_position: int  # 1: a key must also stand before the query in the sequence, whose order the sort did not keep

    @property
    def halo(self) -> int:
        """Blocks beside a block of queries that hold its keys; as many blocks' queries see a block of keys."""
        return self.back + self.ahead

    @property
    def span(self) -> int:
        """s, keys that a block of queries is compared with."""
        return (self.halo + 1) * self.block


class Sight(NamedTuple):
    """Who sees whom: int32 (r, b, h, L) each."""

    order: Tensor  # the position of the token at each place of the sorted order
    first: Tensor  # the first place that the token at each position sees
    last: Tensor  # and the last one; its own place may lie between, and is never seen


def unit(x: Tensor) -> Tensor:
    """Vectors of length one, k_j = q_j / ||q_j|| (section 2, "shared-QK"); computed in float32 or better."""
    wide = x.to(_wide(x))
    return (wide * _inverse_norm(wide)).to(x.dtype)


def _inverse_norm(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).clamp_min(_SMALLEST_NORM**2).rsqrt()


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Run(NamedTuple):
    """G consecutive blocks of a part's sorted rows, with a halo of ``reach.halo`` more blocks at both ends."""

    rows: Tensor  # ((G + 2 halo) c,) rows of the part; where the sequences have none, any
    first: int  # number of the first block, not counting the halo
    n_blocks: int  # G
    reach: Reach

    def queries(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G, c, ...)."""
        beside = self.reach.halo * self.reach.block
        return x[beside : len(x) - beside].unflatten(0, (self.n_blocks, -1))

    def keys(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G, s, ...): all that each block of queries is compared with; overlapping views."""
        return _windows(x[self.reach.ahead * self.reach.block :], self.n_blocks, self.reach)

    def lookers(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G + halo, s, ...): all queries that are compared with each block of keys."""
        return _windows(x, self.n_blocks + self.reach.halo, self.reach)

    def at(self, block: int, n_blocks: int) -> slice:
        """Rows of so many blocks, the first of them ``block`` blocks from this run's first."""
        start = (self.first + block) * self.reach.block
        return slice(start, start + n_blocks * self.reach.block)


def _windows(x: Tensor, n: int, reach: Reach) -> Tensor:
    """``n`` overlapping pieces of s rows that begin a block apart, as views: (rows, ...) -> (n, s, ...)."""
    return x.as_strided((n, reach.span, *x.shape[1:]), (reach.block * x.stride(0), *x.stride()))


class _Part:
    """Some whole sequences that are worked on together: those of b' samples and h' heads, M = b' h' L rows."""

    def __init__(
        self, where: tuple[slice, slice], sight: Sight, seeds: Tensor, reach: Reach, dropout: float, scratch: Scratch
    ) -> None:
        self.where, self.reach, self.dropout, self.scratch = where, reach, dropout, scratch
        order, first, last = (x[:, *where].flatten(1, 2) for x in sight)
        start = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).unsqueeze(-1) * reach.length
        self.order, self.first, self.last = ((x + start).flatten(1) for x in (order, first, last))  # (r, M) each
        steps = torch.arange(self.order.shape[1], device=order.device, dtype=torch.int32).expand_as(self.order)
        self.place = torch.empty_like(self.order).scatter_(1, self.order.long(), steps)
        self.seeds = seeds[:, *where].flatten(1) if dropout > 0 else None

    def table(self, x: Tensor, finite: Tensor) -> "_Table":
        """The part's rows of x (b, h, n, d), with a finite row in the place of each that is not; ``finite`` is (M,)."""
        own = x[self.where]
        if x.shape[2] < self.reach.length:
            own = F.pad(own, (0, 0, 0, self.reach.length - x.shape[2]))
        return _Table.of(own, finite)

    def flags(self, of_token: Tensor) -> Tensor:
        """The part's rows of flags (b, h, n): (M,), True where the sequences have no token."""
        own = of_token[self.where]
        return F.pad(own, (0, self.reach.length - own.shape[2]), value=True).flatten()

    def inverse_norm(self, x: Tensor) -> Tensor:
        """1 / ||x|| of (b, h, n, d), 0 for a row that is not finite: (M,), in float32 or better."""
        return self.dot(x, x).clamp_min_(_SMALLEST_NORM**2).rsqrt_().nan_to_num_(0)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Products x . y of each row, (b, h, n, d) both: (M,), in float32 or better."""
        x, y = x[self.where].to(_wide(x)), y[self.where]
        products = torch.mul(x, y, out=self.scratch.like("in order", x))
        return F.pad(products.sum(-1), (0, self.reach.length - x.shape[2])).flatten()

    def unfold(self, rows: Tensor, like: Tensor) -> Tensor:
        """(M, ...) -> (b', h', n, ...) as in ``like``."""
        return rows.view(*like.shape[:2], self.reach.length, *rows.shape[1:])[:, :, : like.shape[2]]

    def runs(self, r: int) -> Iterator[_Run]:
        """All of round r."""
        n_blocks = self.order.shape[1] // self.reach.block
        in_work = at_once(self.order.device, _SCORES_IN_WORK, _SCORES_ON_DEVICE)
        n_runs = max(1, round(n_blocks * self.reach.block * self.reach.span / in_work))
        step = -(-n_blocks // n_runs)
        beside = self.reach.halo * self.reach.block
        order = F.pad(self.order[r], (beside, beside))
        for first in range(0, n_blocks, step):
            count = min(step, n_blocks - first)
            here = slice(first * self.reach.block, (first + count + 2 * self.reach.halo) * self.reach.block)
            yield _Run(order[here], first, count, self.reach)

    def hidden(self, run: _Run, r: int, earlier: range, wide: torch.dtype) -> Tensor:
        """(G, c, s), to add to the scores: 0 where a query sees a key in round r, and in no earlier one, else -_FAR.

        Or less: how far a key lies outside the interval is left in it.
        """
        beside = self.reach.halo * self.reach.block
        start = run.first * self.reach.block - beside
        places = torch.arange(start, start + len(run.rows), device=run.rows.device)
        hidden = self._margin(run, places, r, "hidden", wide).clamp_max_(0)
        itself = hidden.diagonal(self.reach.back * self.reach.block, dim1=-2, dim2=-1)
        itself.fill_(-_FAR)
        if self.reach.by_position:
            positions = (run.rows % self.reach.length).to(wide) * _FAR
            before = run.queries(positions).unsqueeze(-1) - run.keys(positions).unsqueeze(1)
            torch.minimum(hidden, before.sub_(_FAR), out=hidden)
        for e in earlier:
            shown = self._margin(run, self.place[e].index_select(0, run.rows), e, "shown", wide)
            hidden.sub_(shown.add_(_FAR).clamp_min_(0))
        return hidden

    def _margin(self, run: _Run, places: Tensor, r: int, name: str, wide: torch.dtype) -> Tensor:
        """(G, c, s): how far a key lies inside the interval that a query sees in round r; negative outside."""
        key = run.keys(places.to(wide) * _FAR).unsqueeze(1)
        first, last = (
            (run.queries(ends[r].index_select(0, run.rows)).to(wide) * _FAR).unsqueeze(-1)
            for ends in (self.first, self.last)
        )
        shape = (run.n_blocks, self.reach.block, self.reach.span)
        from_first = torch.sub(key, first, out=self.scratch(name, *shape, dtype=wide))
        to_last = torch.sub(last, key, out=self.scratch("to_last", *shape, dtype=wide))
        return torch.minimum(from_first, to_last, out=from_first)

    def kept(self, run: _Run) -> Tensor:
        """(G, c, s): 0 where dropout drops a probability, else 1 / (1 - dropout).

        Hashed from one random integer a query and one a key: the same pair meets the same fate in each round, in
        forward and in backward, with nothing of the size of the scores stored and no generator asked.
        """
        query_seed, key_seed = (seeds.index_select(0, run.rows) for seeds in self.seeds)
        kept = keep_pairs(run.queries(query_seed).unsqueeze(-1), run.keys(key_seed).unsqueeze(1), self.dropout)
        return kept / (1 - self.dropout)

    def product(self, a: Tensor, b: Tensor, name: str = "product") -> Tensor:
        """Batched matrix product."""
        return torch.bmm(a, b, out=self.scratch(name, len(a), a.shape[1], b.shape[2], dtype=a.dtype))

    def compare(self, run: _Run, x: "_Table", inverse_norm: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The run's rows of x, their keys, and, in hidden's place, (G, c, s) base-2 logarithms of the weights."""
        queries = x.take(run.rows, self.scratch, "queries")
        keys = self.scratch("keys", *queries.shape, dtype=queries.dtype)
        torch.mul(queries, inverse_norm.index_select(0, run.rows).unsqueeze(-1), out=keys)
        raw = self.product(run.queries(queries), run.keys(keys).mT, "scores")
        return queries, keys, hidden.add_(raw, alpha=queries.shape[-1] ** -0.5 * _LOG2_E)


class _Table(NamedTuple):
    """Rows as they lie in memory, which need no copy to be gathered."""

    memory: Tensor  # (any, d), contiguous
    number: Tensor  # (M,) int32, where in it each of the part's rows is

    @classmethod
    def of(cls, x: Tensor, finite: Tensor) -> "_Table":
        """From (b', h', L, d) in any layout, copied if it has to be; rows that are not finite, (M,), are replaced.

        Blocks of keys reach across the ends of sequences. What lies there is hidden by weights of zero, but zero times
        NaN is NaN. So such a row's number becomes that of a finite row, if there is any.
        """
        width = x.shape[-1]
        if x.stride(3) != 1 or any(stride % width for stride in x.stride()[:3]):
            x = x.contiguous()
        number = torch.zeros((), dtype=torch.int32, device=x.device)
        for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True):
            steps = torch.arange(size, dtype=torch.int32, device=x.device) * (stride // width)
            number = number.unsqueeze(-1) + steps
        last = sum((size - 1) * (stride // width) for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True))
        number = number.flatten()
        any_finite = finite.to(torch.uint8).argmax(keepdim=True)
        number = torch.where(finite, number, number.index_select(0, any_finite))
        return cls(x.as_strided((last + 1, width), (width, 1)), number)

    def take(self, rows: Tensor, scratch: Scratch, name: str) -> Tensor:
        """(k,) numbers of the part's rows -> (k, d)."""
        into = scratch(name, len(rows), self.memory.shape[1], dtype=self.memory.dtype)
        return torch.index_select(self.memory, 0, self.number.index_select(0, rows), out=into)


def _parts(sight: Sight, seeds: Tensor, reach: Reach, dropout: float) -> Iterator[_Part]:
    """All sequences, a part at a time."""
    _, batch, heads, length = sight.order.shape
    device = sight.order.device
    sequences = max(1, at_once(device, _ROWS_IN_WORK, _ROWS_ON_DEVICE) // length)
    n_heads, n_samples = min(heads, sequences), max(1, sequences // heads)
    scratch = Scratch(device)
    for i in range(0, batch, n_samples):
        for j in range(0, heads, n_heads):
            where = slice(i, i + n_samples), slice(j, j + n_heads)
            yield _Part(where, sight, seeds, reach, dropout, scratch)


def keep_pairs(query_seed: Tensor, key_seed: Tensor, dropout: float) -> Tensor:
    """True with probability 1 - dropout for each pair of int32 seeds, by an integer hash of their sum."""
    mixed = query_seed + key_seed
    for multiplier in (0x7FEB352D, 0x846CA68B - 2**32):  # constants of Wellons' lowbias32
        mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * multiplier
    return (mixed & 0x7FFFFFFF) >= int(dropout * 2**31)


def _earlier(r: int, deduplicate: bool) -> range:
    """Rounds before r that count when r shows a key once more."""
    return range(r if deduplicate else 0)


@torch.library.custom_op("my_transformers::bucketed_attention", mutates_args=())
def _bucketed_attention(
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    seeds: Tensor,
    finite: Tensor,
    spoiled: Tensor,
    reach: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Output (b, h, n, e) and base-2 log-sum-exp (b, h, L), which is -inf where a token sees nothing but itself."""
    out, totals = empty_heads(v), v.new_empty(first.shape[1:], dtype=_wide(v))
    with torch.autocast(v.device.type, enabled=False):
        for part in _parts(Sight(order, first, last), seeds, Reach(*reach), dropout):
            is_finite, inverse_norm = part.flags(finite), part.inverse_norm(qk)
            x, values = part.table(qk, is_finite), part.table(v, is_finite)
            so_far = _Sums.nothing(len(inverse_norm), v)
            for r in range(len(order)):
                of_round = _Sums.scratch(len(inverse_norm), v, part.scratch)
                for run in part.runs(r):
                    hidden = part.hidden(run, r, _earlier(r, deduplicate), _wide(v))
                    _attend(part, run, part.compare(run, x, inverse_norm, hidden)[2], values, of_round)
                so_far.add(of_round, part.place[r], part.scratch)
            total, own = so_far.total(), v[part.where]
            alone = part.unfold(total == -torch.inf, own).unsqueeze(-1)
            found = torch.where(alone, own, part.unfold(so_far.mean(), own).to(v.dtype))
            # a padded token that is alone gives its own value, which must not make the gradient of its sequence NaN
            found.masked_fill_(~finite[part.where].unsqueeze(-1), 0)
            out[part.where] = found.masked_fill_(spoiled[part.where].unsqueeze(-1), torch.nan)
            totals[part.where] = total.view(*totals[part.where].shape)
    return out, totals


class _Sums(NamedTuple):
    """Of each row: sum_j 2^(s_j - highest) v_j, sum_j 2^(s_j - highest), and highest, -inf if there is no j."""

    values: Tensor  # (M, e)
    mass: Tensor  # (M,)
    highest: Tensor  # (M,)

    @classmethod
    def nothing(cls, n_rows: int, v: Tensor) -> "_Sums":
        """No j."""
        mass = v.new_zeros(n_rows, dtype=_wide(v))
        return cls(v.new_zeros((n_rows, v.shape[-1]), dtype=_wide(v)), mass, torch.full_like(mass, -torch.inf))

    @classmethod
    def scratch(cls, n_rows: int, v: Tensor, scratch: Scratch) -> "_Sums":
        """To be written."""
        shapes = {"summed": (n_rows, v.shape[-1]), "mass": (n_rows,), "highest": (n_rows,)}
        return cls(*(scratch(name, *shape, dtype=_wide(v)) for name, shape in shapes.items()))

    def add(self, of_round: "_Sums", place: Tensor, scratch: Scratch) -> None:
        """Those of another round, in its sorted order."""
        mass, highest = (x.index_select(0, place) for x in of_round[1:])
        highest = highest.masked_fill_(highest < -_FAR / 2, -torch.inf)
        after = torch.maximum(self.highest, highest)
        safe = after.clamp_min(torch.finfo(after.dtype).min)  # 2^(-inf - safe) = 0 where both are nothing
        old, new = (self.highest - safe).exp2_(), (highest - safe).exp2_()
        values = torch.index_select(
            of_round.values, 0, place, out=scratch("in order", *self.values.shape, dtype=mass.dtype)
        )
        self.values.mul_(old.unsqueeze(-1)).addcmul_(values, new.unsqueeze(-1))
        self.mass.mul_(old).addcmul_(mass, new)
        self.highest.copy_(after)

    def total(self) -> Tensor:
        """(M,): log2 sum_j 2^s_j."""
        return self.highest + self.mass.log2()

    def mean(self) -> Tensor:
        """(M, e): the values' weighted mean."""
        return self.values / self.mass.unsqueeze(-1)


def _attend(part: _Part, run: _Run, scores: Tensor, values: _Table, into: _Sums) -> None:
    """The sums of a run's queries, to their places in sorted order."""
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp2_()
    own = run.at(0, run.n_blocks)
    into.highest[own], into.mass[own] = highest.flatten(), weights.sum(dim=-1).flatten()
    if part.dropout > 0:
        weights *= part.kept(run)
    shown = values.take(run.rows, part.scratch, "values")
    into.values[own] = part.product(weights.to(shown.dtype), run.keys(shown)).flatten(0, 1)


@_bucketed_attention.register_fake
def _(qk, v, order, first, last, seeds, finite, spoiled, reach, deduplicate, dropout):  # noqa: ANN001, ANN202
    return empty_heads(v), v.new_empty(first.shape[1:], dtype=_wide(v))


@torch.library.custom_op("my_transformers::bucketed_attention_backward", mutates_args=())
def _bucketed_attention_backward(
    grad: Tensor,
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    seeds: Tensor,
    finite: Tensor,
    out: Tensor,
    totals: Tensor,
    reach: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qk and v, with the probabilities recomputed as exp(score - z)."""
    reach = Reach(*reach)
    halo = reach.halo * reach.block
    grad_qk, grad_v = empty_heads(qk), empty_heads(v)
    for part in _parts(Sight(order, first, last), seeds, reach, dropout):
        inputs = _Inputs.of(part, qk, v, grad, finite, out, totals)
        found = _Gradients.zeros(inputs, 0, part.scratch)
        for r in range(len(order)):
            of_round = _Gradients.zeros(inputs, halo, part.scratch)
            for run in part.runs(r):
                hidden = part.hidden(run, r, _earlier(r, deduplicate), _wide(v))
                _attend_backward(part, run, hidden, inputs, of_round)
            found.add(of_round, part.place[r] + halo, part.scratch)
        own = part.where
        found.through_unit(inputs.x, inputs.inverse_norm, of_round, part.scratch)
        grad_qk[own] = part.unfold(found.keys, qk[own])
        alone = totals[own][..., : v.shape[2], None] == -torch.inf  # these gave their own value
        torch.where(alone, grad[own], grad.new_zeros(()), out=grad_v[own]).add_(part.unfold(found.values, v[own]))
        ruined = ~part.unfold(inputs.grad_is_finite, v[own]).all(-1)[..., None, None]  # sequences, as wholes
        for gradient in (grad_qk[own], grad_v[own]):
            gradient.masked_fill_(ruined, torch.nan)
    return grad_qk, grad_v


class _Inputs(NamedTuple):
    """What backward needs of a part's rows."""

    x: _Table
    inverse_norm: Tensor  # (M,)
    values: _Table
    grad: _Table  # of the output
    mean: Tensor  # (M,), sum_j p_ij dp_ij, which is dout_i . out_i
    total: Tensor  # (M,), the base-2 log-sum-exp; inf where a row gave its own value: no probability has a part in it
    grad_is_finite: Tensor  # (M,), False where the output's gradient, or the output, is not

    @classmethod
    def of(
        cls, part: _Part, qk: Tensor, v: Tensor, grad: Tensor, finite: Tensor, out: Tensor, totals: Tensor
    ) -> "_Inputs":
        total, is_finite, mean = totals[part.where].flatten(), part.flags(finite), part.dot(grad, out)
        grad_is_finite = mean.isfinite()
        return cls(
            part.table(qk, is_finite),
            part.inverse_norm(qk),
            part.table(v, is_finite),
            part.table(grad, grad_is_finite),
            mean.nan_to_num_(0, 0, 0),
            total.masked_fill(total == -torch.inf, torch.inf),
            grad_is_finite,
        )


class _Gradients(NamedTuple):
    """Sums over rounds, or of one round in sorted order; of queries and keys before their scale."""

    queries: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def zeros(cls, inputs: _Inputs, halo: int, scratch: Scratch) -> "_Gradients":
        """With ``halo`` more rows at both ends."""
        n_rows, dtype = len(inputs.total) + 2 * halo, inputs.total.dtype
        widths = (table.memory.shape[1] for table in (inputs.x, inputs.x, inputs.values))
        names = (f"gradients of {name}, halo {halo}" for name in cls._fields)
        return cls(*(scratch(n, n_rows, w, dtype=dtype).zero_() for n, w in zip(names, widths, strict=True)))

    def add(self, of_round: "_Gradients", place: Tensor, scratch: Scratch) -> None:
        """Back in order: a gather, each row once, so this adds in a fixed order on any device."""
        for all_of_them, ordered in zip(self, of_round, strict=True):
            in_order = scratch("in order", *all_of_them.shape, dtype=ordered.dtype)
            all_of_them.add_(torch.index_select(ordered, 0, place, out=in_order))

    def through_unit(self, x: _Table, inverse_norm: Tensor, spare: "_Gradients", scratch: Scratch) -> None:
        """Gradient of the vectors x that are queries and, as x / ||x||, keys; it takes the place of the keys'.

        ``spare`` is memory to work in.
        """
        rows = torch.arange(len(inverse_norm), device=inverse_norm.device)
        inverse_norm = inverse_norm.unsqueeze(-1)
        keys = torch.mul(x.take(rows, scratch, "in order"), inverse_norm, out=spare.queries[: len(rows)])
        along = torch.mul(self.keys, keys, out=spare.keys[: len(rows)]).sum(-1, keepdim=True)
        self.keys.addcmul_(along, keys, value=-1).mul_(inverse_norm)
        self.keys.add_(self.queries).mul_(keys.shape[-1] ** -0.5)


def _attend_backward(part: _Part, run: _Run, hidden: Tensor, inputs: _Inputs, into: _Gradients) -> None:
    """Add the gradients that come through a run's queries, in sorted order with a halo."""
    queries, keys, scores = part.compare(run, inputs.x, inputs.inverse_norm, hidden)
    values, grad = (getattr(inputs, name).take(run.rows, part.scratch, name) for name in ("values", "grad"))
    mean, total = (run.queries(rows.index_select(0, run.rows)).unsqueeze(-1) for rows in (inputs.mean, inputs.total))
    weights = scores.sub_(total).exp2_()
    grad_weights = part.product(run.queries(grad), run.keys(values).mT, "scores").to(weights.dtype)
    by_query, by_key = _band(part, run, queries.dtype)
    at_queries = run.at(run.reach.halo, run.n_blocks)
    at_keys = run.at(run.reach.ahead, run.n_blocks + run.reach.halo)
    if part.dropout > 0:
        kept = part.kept(run)
        grad_weights *= kept
        torch.mul(weights, kept, out=by_query)
    else:
        by_query.copy_(weights)
    into.values[at_keys] += part.product(by_key.mT, run.lookers(grad)).flatten(0, 1)
    torch.mul(grad_weights.sub_(mean), weights, out=by_query)  # the scores' gradients
    into.keys[at_keys] += part.product(by_key.mT, run.lookers(queries)).flatten(0, 1)
    into.queries[at_queries] = part.product(by_query, run.keys(keys)).flatten(0, 1)


def _band(part: _Part, run: _Run, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Memory for (G, c, s), s numbers a query, that can also be read as all queries of each block of keys.

    A query's s numbers are a row. With c numbers left out behind each block of c rows, the next block's first row
    begins s numbers after the last one's as seen from one and the same key. So all the queries that a block of keys is
    compared with are a matrix (s, c) whose rows are s apart, across their blocks: products with it sum over all s at
    once, and nothing needs to be added up afterwards.

    Returns:
        (G, c, s) by query, to be written; (G + halo, s, c) by key, 0 where there is no query.
    """
    c, s, halo = run.reach.block, run.reach.span, run.reach.halo
    stride = c * s + c
    band = part.scratch("band", (run.n_blocks + 2 * halo) * stride, dtype=dtype)
    band[: halo * stride] = 0
    band[(run.n_blocks + halo) * stride :] = 0
    by_query = band.as_strided((run.n_blocks, c, s), (stride, s, 1), halo * stride)
    by_key = band.as_strided((run.n_blocks + halo, s, c), (stride, s, 1), halo * c)
    return by_query, by_key


@_bucketed_attention_backward.register_fake
def _(grad, qk, v, order, first, last, seeds, finite, out, totals, reach, deduplicate, dropout):  # noqa: ANN001, ANN202
    return empty_heads(qk), empty_heads(v)


def _setup_context(ctx, inputs, output) -> None:  # noqa: ANN001
    *tensors, _, ctx.reach, ctx.deduplicate, ctx.dropout = inputs  # without ``spoiled``: the output shows it
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


@first_derivatives_only
def _backward(ctx, saved, grad: Tensor, _: Tensor):  # noqa: ANN001, ANN202
    gradients = _bucketed_attention_backward(grad, *saved, ctx.reach, ctx.deduplicate, ctx.dropout)
    return *gradients, None, None, None, None, None, None, None, None, None


_bucketed_attention.register_autograd(_backward, setup_context=_setup_context)


def bucketed_attention(
    qk: Tensor,
    v: Tensor,
    sight: Sight,
    reach: Reach,
    *,
    deduplicate: bool = True,
    dropout: float = 0.0,
    seeds: Tensor | None = None,
    real: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Shared query-key attention among the tokens that hash rounds show each other.

    out_i = sum_j p_ij v_j over every key j that i sees in some round, p_ij proportional to
    exp(q_i . q_j / (||q_j|| sqrt(d))), times the number of rounds that show j to i unless ``deduplicate``. A token
    that sees nothing returns its own value. A number that is not finite makes NaN of the outputs that full attention
    would make NaN: those of its sequence, if causal from its position on; if its token is not real, none.

    Args:
        qk: (b, h, n, d) queries; the keys are their unit vectors.
        v: (b, h, n, e).
        sight: who sees whom, for L >= n tokens.
        reach: the blocks in which it is computed; they must hold what ``sight`` says.
        deduplicate: count a key that several rounds show once (the paper's N_ij) instead of once a round.
        dropout: probability with which a pair is dropped.
        seeds: (2, b, h, L) random int32, one per query and one per key; needed for dropout.
        real: (b, h, n), True where a token is real; None: all. Used for numbers that are not finite, as is the next.
        causal: a token attends only to itself and earlier tokens.

    Returns:
        (b, h, n, e), a view of (b, n, h, e). Saved for backward: the arguments, the output and a log-sum-exp a token.
    """
    if seeds is None:
        seeds = sight.order.new_empty(0)
    finite = _finite_rows(qk) & _finite_rows(v)
    spoiled = ~finite if real is None else ~finite & real
    spoiled = spoiled.cumsum(-1) > 0 if causal else spoiled.any(-1, keepdim=True).expand_as(finite)
    return _bucketed_attention(qk, v, *sight, seeds, finite, spoiled, list(reach), deduplicate, dropout)[0]


@torch.no_grad()
def _finite_rows(x: Tensor) -> Tensor:
    """(..., d) -> (...), False where a number is infinite or NaN: so is the sum then."""
    return x.sum(-1, dtype=_wide(x)).isfinite()
