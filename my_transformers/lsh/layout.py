"""The block structure of bucketed attention: which rows are computed together. Used by forward.py and backward.py.

In each round the tokens are sorted by (bucket, position), and the keys that a token sees form one interval of that
order (:class:`VisiblePlaces`). The sorted rows are cut into blocks of equal size. The queries of a block are compared
with all keys of their own block and of a fixed number of neighbouring blocks (:class:`BlockLayout`), chosen so that
these contain every interval. All blocks then need scores of the same shape, hence one batched matrix product; scores.py
hides what lies outside the intervals.

    all sequences      --groups()-->        SequenceGroup   some whole sequences, M rows
    a group's round    --block_ranges()-->  BlockRange      G consecutive blocks of its sorted rows: one piece of work

A piece is sized to fit a core's cache; all pieces use the same scratch memory.

Letters, here and in the files that use it:

    b batch, h heads, n length, d head_dim, e value dim, r rounds
    position, place: a token's index in the sequence, and in a round's sorted order
    L   the length, padded to whole blocks
    M   rows of a group of sequences, b' h' L
    c   queries per block
    s   keys per block of queries: c of its own block, and c of each neighbour
    G   blocks of queries in a range

Read next: scores.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.memory import Scratch, at_once

_ROWS_IN_WORK, _SCORES_IN_WORK = 2**12, 2**19  # rows per group and scores per range on a CPU
# On a GPU: large enough that launching a kernel takes less time than running it, at 0.5 GiB of scratch memory for a
# head_dim of 64. Rows must stay below 2^24, since scores.py needs places to be exact in float32.
_ROWS_ON_DEVICE, _SCORES_ON_DEVICE = 2**20, 2**24

SMALLEST_NORM = 1e-6  # norms are clamped to this, so that the unit vector of a zero query is finite


class VisiblePlaces(NamedTuple):
    """The interval of places that each token sees in each round: int32 (r, b, h, L) each."""

    order: Tensor  # by place: the position of the token at that place
    first: Tensor  # by position: the first place that the token sees
    last: Tensor  # by position: the last place; the token's own place may lie in the interval, but is never seen


class BlockLayout(NamedTuple):
    """The blocks of sorted tokens, and the neighbouring blocks of keys that a block of queries is compared with.

    The invariant: every interval of :class:`VisiblePlaces` starts at most ``blocks_before`` blocks before the block of
    its token, and ends at most ``blocks_after`` blocks after it.
    """

    length: int  # L, a multiple of block_size
    block_size: int  # c
    blocks_before: int  # blocks of keys before the queries' own block
    blocks_after: int  # blocks of keys after it
    earlier_positions_only: int  # 1: compare positions too, for causal attention across buckets, where places mix them

    @property
    def neighbours(self) -> int:
        """The number of other blocks of keys per block of queries, and of other blocks of queries per block of keys."""
        return self.blocks_before + self.blocks_after

    @property
    def keys_per_query(self) -> int:
        """s, the number of keys that a query is compared with."""
        return (self.neighbours + 1) * self.block_size

    @property
    def padding(self) -> int:
        """Rows of padding at each end of a range, ``neighbours`` blocks, so that every block has all its neighbours."""
        return self.neighbours * self.block_size


class BlockRange(NamedTuple):
    """G consecutive blocks of a group's sorted rows, with ``layout.neighbours`` more blocks at each end as padding."""

    rows: Tensor  # ((G + 2 neighbours) c,) row indices in the group; row 0 stands in beyond the ends of the group
    first: int  # index of the first block, not counting the padding
    n_blocks: int  # G
    layout: BlockLayout

    @property
    def scores_shape(self) -> tuple[int, int, int]:
        """(G, c, s)."""
        return self.n_blocks, self.layout.block_size, self.layout.keys_per_query

    def queries(self, x: Tensor) -> Tensor:
        """Select each block's queries from one number or vector per row: (rows, ...) -> (G, c, ...)."""
        padding = self.layout.padding
        return x[padding : len(x) - padding].unflatten(0, (self.n_blocks, -1))

    def keys(self, x: Tensor) -> Tensor:
        """Select the keys that each block of queries is compared with: (rows, ...) -> (G, s, ...), overlapping views.

        The padding has ``blocks_before + blocks_after`` blocks but the first window needs only ``blocks_before``, so
        the windows start ``blocks_after`` blocks into it.
        """
        return _windows(x[self.layout.blocks_after * self.layout.block_size :], self.n_blocks, self.layout)

    def queries_by_key(self, x: Tensor) -> Tensor:
        """Select the queries that each block of keys is compared with: (rows, ...) -> (G + neighbours, s, ...)."""
        return _windows(x, self.n_blocks + self.layout.neighbours, self.layout)

    def rows_of_blocks(self, block: int, n_blocks: int) -> slice:
        """Sorted rows of ``n_blocks`` blocks, starting ``block`` blocks after the first block of this range."""
        start = (self.first + block) * self.layout.block_size
        return slice(start, start + n_blocks * self.layout.block_size)


def _windows(x: Tensor, n: int, layout: BlockLayout) -> Tensor:
    """``n`` overlapping windows of s rows, one block apart, as a view: (rows, ...) -> (n, s, ...)."""
    return x.as_strided((n, layout.keys_per_query, *x.shape[1:]), (layout.block_size * x.stride(0), *x.stride()))


class SequenceGroup:
    """Whole sequences that are computed together: those of b' samples and h' heads, concatenated to M rows.

    A block's window of keys may extend into a neighbouring sequence, but no interval of visible places does, so the
    mask hides those keys.
    """

    def __init__(
        self,
        index: tuple[slice, slice],
        visible: VisiblePlaces,
        dropout_seeds: Tensor,
        layout: BlockLayout,
        dropout: float,
        scratch: Scratch,
    ) -> None:
        self.index, self.layout, self.dropout, self.scratch = index, layout, dropout, scratch
        order, first, last = (x[:, *index].flatten(1, 2) for x in visible)
        # positions and places become indices into the M rows: those of each sequence are offset by its first row
        start = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).unsqueeze(-1) * layout.length
        self.order, self.first, self.last = ((x + start).flatten(1) for x in (order, first, last))  # (r, M) each
        places = torch.arange(self.order.shape[1], device=order.device, dtype=torch.int32).expand_as(self.order)
        self.place = torch.empty_like(self.order).scatter_(1, self.order.long(), places)  # (r, M), inverse of order
        self.dropout_seeds = dropout_seeds[:, *index].flatten(1) if dropout > 0 else None  # (2, M)

    def row_table(self, x: Tensor, is_finite: Tensor) -> "RowTable":
        """The group's rows of x (b, h, n, d); rows where ``is_finite`` (M,) is False are replaced by finite ones."""
        own = x[self.index]
        if x.shape[2] < self.layout.length:
            own = F.pad(own, (0, 0, 0, self.layout.length - x.shape[2]))
        return RowTable.of(own, is_finite)

    def flags(self, of_tokens: Tensor) -> Tensor:
        """The group's rows of booleans (b, h, n): (M,), True in the rows that pad a sequence to L."""
        own = of_tokens[self.index]
        return F.pad(own, (0, self.layout.length - own.shape[2]), value=True).flatten()

    def inverse_norm(self, x: Tensor) -> Tensor:
        """1 / ||x|| of each row of x (b, h, n, d), 0 if not finite: (M,), in float32 or better."""
        return self.dot(x, x).clamp_min_(SMALLEST_NORM**2).rsqrt_().nan_to_num_(0)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner products of corresponding rows of x and y, (b, h, n, d) both: (M,), in float32 or better."""
        x, y = x[self.index].to(at_least_float32(x)), y[self.index]
        products = torch.mul(x, y, out=self.scratch.like("in order", x))
        return F.pad(products.sum(-1), (0, self.layout.length - x.shape[2])).flatten()

    def unflatten(self, rows: Tensor, like: Tensor) -> Tensor:
        """Split rows into sequences without padding: (M, ...) -> (b', h', n, ...); ``like`` is (b', h', n, ·)."""
        return rows.view(*like.shape[:2], self.layout.length, *rows.shape[1:])[:, :, : like.shape[2]]

    def block_ranges(self, r: int) -> Iterator[BlockRange]:
        """All sorted rows of round r, in ranges of about ``_SCORES_IN_WORK`` scores each."""
        block_size, padding = self.layout.block_size, self.layout.padding
        n_blocks = self.order.shape[1] // block_size
        in_work = at_once(self.order.device, _SCORES_IN_WORK, _SCORES_ON_DEVICE)
        n_ranges = max(1, round(n_blocks * block_size * self.layout.keys_per_query / in_work))
        step = -(-n_blocks // n_ranges)
        order = F.pad(self.order[r], (padding, padding))
        for first in range(0, n_blocks, step):
            count = min(step, n_blocks - first)
            padded = slice(first * block_size, (first + count) * block_size + 2 * padding)
            yield BlockRange(order[padded], first, count, self.layout)


class RowTable(NamedTuple):
    """The rows of a tensor in place, with an index of each row of a group: rows can be gathered without a first copy.

    Projections leave heads interleaved, (b, n, h, d) in memory, so consecutive tokens of a head are h rows apart.
    """

    memory: Tensor  # (any, d), contiguous
    row_in_memory: Tensor  # (M,) int32, where each row of the group lies in ``memory``

    @classmethod
    def of(cls, x: Tensor, is_finite: Tensor) -> "RowTable":
        """From x (b', h', L, d) in any layout, copied only if its strides are not supported; ``is_finite`` is (M,).

        A row that is not finite is replaced by a finite row, if there is one. Blocks also contain keys that their
        queries do not see (padding, the next sequence). Those have weight zero, but zero times NaN would be NaN.
        """
        width = x.shape[-1]
        if x.stride(3) != 1 or any(stride % width for stride in x.stride()[:3]):
            x = x.contiguous()
        row_strides = [stride // width for stride in x.stride()[:3]]
        index = torch.zeros((), dtype=torch.int32, device=x.device)
        for size, stride in zip(x.shape[:3], row_strides, strict=True):
            index = index.unsqueeze(-1) + torch.arange(size, dtype=torch.int32, device=x.device) * stride
        index = index.flatten()
        last = sum((size - 1) * stride for size, stride in zip(x.shape[:3], row_strides, strict=True))
        a_finite_row = is_finite.to(torch.uint8).argmax(keepdim=True)
        index = torch.where(is_finite, index, index.index_select(0, a_finite_row))
        return cls(x.as_strided((last + 1, width), (width, 1)), index)

    def gather(self, rows: Tensor, scratch: Scratch, name: str) -> Tensor:
        """Gather rows by their index in the group, (k,) -> (k, d), into scratch memory of this name."""
        out = scratch(name, len(rows), self.memory.shape[1], dtype=self.memory.dtype)
        return torch.index_select(self.memory, 0, self.row_in_memory.index_select(0, rows), out=out)


def groups(
    visible: VisiblePlaces, dropout_seeds: Tensor, layout: BlockLayout, dropout: float
) -> Iterator[SequenceGroup]:
    """All sequences, in groups of about ``_ROWS_IN_WORK`` rows that share one scratch memory."""
    _, batch, heads, length = visible.order.shape
    device = visible.order.device
    sequences = max(1, at_once(device, _ROWS_IN_WORK, _ROWS_ON_DEVICE) // length)
    n_heads, n_samples = min(heads, sequences), max(1, sequences // heads)
    scratch = Scratch(device)
    for i in range(0, batch, n_samples):
        for j in range(0, heads, n_heads):
            index = slice(i, i + n_samples), slice(j, j + n_heads)
            yield SequenceGroup(index, visible, dropout_seeds, layout, dropout, scratch)


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype for norms, scores and sums over x: float64 for float64, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
