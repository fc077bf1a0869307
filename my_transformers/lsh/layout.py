"""Where queries and keys lie when sorted tokens are worked on in blocks. Used by forward.py and backward.py.

In each round the tokens are sorted by (bucket, position), and a token may see one interval of places in that order
(:class:`VisiblePlaces`). The sorted rows are cut into blocks, and all queries of a block are compared with all keys of
its own block and of some neighbours (:class:`BlockLayout`): one batched matrix product, of which scores.py then hides
what lies outside the intervals.

    all sequences  --groups()-->        SequenceGroup   whole sequences, M rows, that are worked on together
    one round of it  --block_ranges()-->  BlockRange      G consecutive blocks of its sorted rows: one piece of work

A piece is as large as a core's cache allows; all pieces use the same scratch memory.

Letters, here and in the files that use it:

    b batch, h heads, n length, d head_dim, e value dim, r rounds
    position, place: a token's index in the sequence, and in a round's sorted order
    L   the length, padded to whole blocks
    M   rows of a group of sequences, b' h' L
    c   queries per block
    s   keys that a block of queries is compared with: its own c, and c of each neighbour
    G   blocks of queries in a range

Read next: scores.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.memory import Scratch, at_once

_ROWS_IN_WORK, _SCORES_IN_WORK = 2**12, 2**19  # on a CPU
# On a GPU, so much that starting a kernel takes less time than its work, at 0.5 GiB of scratch memory for heads of 64.
# 2^24 rows is the bound: places must be exact in float32.
_ROWS_ON_DEVICE, _SCORES_ON_DEVICE = 2**20, 2**24

SMALLEST_NORM = 1e-6


class VisiblePlaces(NamedTuple):
    """Which tokens each token sees, by their places in sorted order: int32 (r, b, h, L) each."""

    order: Tensor  # the position of the token at each place
    first: Tensor  # the first place that the token at each position sees
    last: Tensor  # the last one; its own place may lie between, and is never seen


class BlockLayout(NamedTuple):
    """The blocks of sorted tokens, and which of them a block of queries is compared with."""

    length: int  # L, a multiple of block_size
    block_size: int  # c
    blocks_before: int  # blocks of keys before the queries' own block
    blocks_after: int  # blocks of keys after it
    earlier_positions_only: int  # 1: also hide later positions, for causal attention where the sort mixed positions

    @property
    def neighbours(self) -> int:
        """Other blocks whose keys a block of queries is compared with, and other blocks of queries that meet a key."""
        return self.blocks_before + self.blocks_after

    @property
    def keys_per_query(self) -> int:
        """s, keys that a query is compared with."""
        return (self.neighbours + 1) * self.block_size

    @property
    def padding(self) -> int:
        """Rows of ``neighbours`` blocks: with these at both ends of a range every block has all its neighbours."""
        return self.neighbours * self.block_size


class BlockRange(NamedTuple):
    """G consecutive blocks of a group's sorted rows, and ``layout.neighbours`` more at both ends as padding."""

    rows: Tensor  # ((G + 2 neighbours) c,) numbers of rows of the group; row 0 where the group has ended
    first: int  # number of the first block, not counting the padding
    n_blocks: int  # G
    layout: BlockLayout

    @property
    def scores_shape(self) -> tuple[int, int, int]:
        """(G, c, s)."""
        return self.n_blocks, self.layout.block_size, self.layout.keys_per_query

    def queries(self, x: Tensor) -> Tensor:
        """One number or vector for each row -> those of each block's queries: (rows, ...) -> (G, c, ...)."""
        padding = self.layout.padding
        return x[padding : len(x) - padding].unflatten(0, (self.n_blocks, -1))

    def keys(self, x: Tensor) -> Tensor:
        """Those of the keys that each block of queries is compared with: (rows, ...) -> (G, s, ...), overlapping."""
        return _windows(x[self.layout.blocks_after * self.layout.block_size :], self.n_blocks, self.layout)

    def queries_by_key(self, x: Tensor) -> Tensor:
        """Those of the queries that each block of keys meets: (rows, ...) -> (G + neighbours, s, ...), overlapping."""
        return _windows(x, self.n_blocks + self.layout.neighbours, self.layout)

    def rows_of_blocks(self, block: int, n_blocks: int) -> slice:
        """Sorted rows of ``n_blocks`` blocks, the first of them ``block`` blocks after this range's first."""
        start = (self.first + block) * self.layout.block_size
        return slice(start, start + n_blocks * self.layout.block_size)


def _windows(x: Tensor, n: int, layout: BlockLayout) -> Tensor:
    """``n`` views of s rows that begin a block apart, so they overlap: (rows, ...) -> (n, s, ...)."""
    return x.as_strided((n, layout.keys_per_query, *x.shape[1:]), (layout.block_size * x.stride(0), *x.stride()))


class SequenceGroup:
    """Whole sequences that are worked on together: those of b' samples and h' heads, one after the other in M rows.

    Blocks of keys may reach into the next sequence; no interval of visible places does.
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
        start = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).unsqueeze(-1) * layout.length
        self.order, self.first, self.last = ((x + start).flatten(1) for x in (order, first, last))  # (r, M) each
        steps = torch.arange(self.order.shape[1], device=order.device, dtype=torch.int32).expand_as(self.order)
        self.place = torch.empty_like(self.order).scatter_(1, self.order.long(), steps)  # (r, M), inverse of order
        self.dropout_seeds = dropout_seeds[:, *index].flatten(1) if dropout > 0 else None  # (2, M)

    def row_table(self, x: Tensor, is_finite: Tensor) -> "RowTable":
        """The group's rows of x (b, h, n, d); rows where ``is_finite`` (M,) is False are replaced."""
        own = x[self.index]
        if x.shape[2] < self.layout.length:
            own = F.pad(own, (0, 0, 0, self.layout.length - x.shape[2]))
        return RowTable.of(own, is_finite)

    def flags(self, of_tokens: Tensor) -> Tensor:
        """Booleans (b, h, n) of the group's rows: (M,), True where a sequence is padded to L."""
        own = of_tokens[self.index]
        return F.pad(own, (0, self.layout.length - own.shape[2]), value=True).flatten()

    def inverse_norm(self, x: Tensor) -> Tensor:
        """1 / ||x|| of the rows of x (b, h, n, d), 0 where not finite: (M,), in float32 or better."""
        return self.dot(x, x).clamp_min_(SMALLEST_NORM**2).rsqrt_().nan_to_num_(0)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """Inner product of each row of x with that of y, (b, h, n, d) both: (M,), in float32 or better."""
        x, y = x[self.index].to(at_least_float32(x)), y[self.index]
        products = torch.mul(x, y, out=self.scratch.like("in order", x))
        return F.pad(products.sum(-1), (0, self.layout.length - x.shape[2])).flatten()

    def unflatten(self, rows: Tensor, like: Tensor) -> Tensor:
        """Back to sequences without their padding: (M, ...) -> (b', h', n, ...), where ``like`` is (b', h', n, ·)."""
        return rows.view(*like.shape[:2], self.layout.length, *rows.shape[1:])[:, :, : like.shape[2]]

    def block_ranges(self, r: int) -> Iterator[BlockRange]:
        """All sorted rows of round r, in pieces of about ``_SCORES_IN_WORK`` scores."""
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
    """A tensor's rows where they lie in memory, with the number there of each row of a group: no copy to gather from.

    Projections leave heads side by side, (b, n, h, d) in memory; there the numbers of a sequence's rows are h apart.
    """

    memory: Tensor  # (any, d), contiguous
    number: Tensor  # (M,) int32

    @classmethod
    def of(cls, x: Tensor, is_finite: Tensor) -> "RowTable":
        """From (b', h', L, d) in any layout, copied if unsupported; ``is_finite`` is (M,).

        A row that is not finite takes the number of one that is, if there is any. A block is also compared with rows
        that its queries do not see (padding, the next sequence): these have weight zero, but zero times NaN is NaN.
        """
        width = x.shape[-1]
        if x.stride(3) != 1 or any(stride % width for stride in x.stride()[:3]):
            x = x.contiguous()
        row_strides = [stride // width for stride in x.stride()[:3]]
        number = torch.zeros((), dtype=torch.int32, device=x.device)
        for size, stride in zip(x.shape[:3], row_strides, strict=True):
            number = number.unsqueeze(-1) + torch.arange(size, dtype=torch.int32, device=x.device) * stride
        number = number.flatten()
        last = sum((size - 1) * stride for size, stride in zip(x.shape[:3], row_strides, strict=True))
        a_finite_row = is_finite.to(torch.uint8).argmax(keepdim=True)
        number = torch.where(is_finite, number, number.index_select(0, a_finite_row))
        return cls(x.as_strided((last + 1, width), (width, 1)), number)

    def gather(self, rows: Tensor, scratch: Scratch, name: str) -> Tensor:
        """Rows by their numbers in the group, (k,) -> (k, d), in scratch memory of this name."""
        out = scratch(name, len(rows), self.memory.shape[1], dtype=self.memory.dtype)
        return torch.index_select(self.memory, 0, self.number.index_select(0, rows), out=out)


def groups(
    visible: VisiblePlaces, dropout_seeds: Tensor, layout: BlockLayout, dropout: float
) -> Iterator[SequenceGroup]:
    """All sequences, about ``_ROWS_IN_WORK`` rows at a time, with the same scratch memory for all."""
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
    """In which norms, scores and sums over x are computed: float64 for float64, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
