"""Attention by clipped displacement, in time linear in the length (Horn et al. 2021, the second mechanism)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.cache import Cache, check_causal
from my_transformers.checks import check_heads
from my_transformers.derivatives import traced
from my_transformers.dropout import check_dropout, drop_values
from my_transformers.masks import boolean_mask
from my_transformers.mechanism import Mechanism
from my_transformers.relative.grid import check_grid, places
from my_transformers.relative.settings import ClippedRelativeSettings


class ClippedRelativeAttention(Mechanism, settings=ClippedRelativeSettings):
    """Half of the heads attend by content only, the other half by the displacement of the key from the query.

    A head of the second half has a learned vector e_c for each displacement c = (row, column) from query to key,
    clipped to ``distance`` along each axis, and a learned vector u. Its weight of key j for query i is

        exp(q_i . e_c(i, j) / sqrt(d)) * gate(k_j),    gate(k) = max(sigmoid(u . k / sqrt(d)), 1e-4).

    Displacements are signed: left differs from right, and above from below. All displacements beyond ``distance`` share
    a vector, so their values enter as running sums over whole regions. With C = (2 distance + 1)^axes classes, a head
    takes O(n C (d + e)) time and O(n (C + e)) memory, and no (n, n) tensor. Both halves depend on displacements only,
    so the output is translation-equivariant to float precision if the content mechanism is.

    Definition: my_transformers/reference.py, clipped_relative_attention.

    Args:
        mechanism: the mechanism of the first half of the heads (rounded up), called on q, k, v without positions, such
            as PerformerAttention. If it is causal, so is the second half: a token attends only to itself and earlier
            tokens of the sequence.
        heads: the number of heads, at least 2.
        head_dim: size of queries and keys.
        distance: clipping distance along each axis in tokens, at least 1.
        columns: width of the grid that the sequence fills row by row; None: positions on a line.
        off_grid: the number of leading tokens that are not on the grid (a class token). As keys they have a vector of
            their own; as queries they weigh all tokens on the grid by one vector.
        dropout: for the second half: probability of dropping a value in training, for all queries of a head at once.

    Raises:
        ValueError: a mechanism that shares queries and keys, or arguments out of range.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        *,
        heads: int,
        head_dim: int,
        distance: int = 8,
        columns: int | None = None,
        off_grid: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_grid(columns, off_grid)
        check_dropout(dropout)
        if mechanism.shared_query_key:
            raise ValueError(
                "the content heads need separate queries and keys; use PerformerAttention or FullAttention"
            )
        if heads < 2 or distance < 1:
            raise ValueError(f"heads is {heads} and distance {distance}: must be at least 2 and 1, respectively")
        self.mechanism = mechanism
        self.causal = mechanism.causal
        self.content_heads = heads - heads // 2
        self.distance = distance
        self.columns = columns
        self.off_grid = off_grid
        self.dropout = dropout
        self._span = 2 * distance + 1
        n_classes = self._span ** (1 if columns is None else 2)
        spread = head_dim**-0.5
        self.displacements = nn.Parameter(spread * torch.randn(heads // 2, head_dim, n_classes))
        # two vectors: for keys off the grid; for queries off the grid and keys on it
        self.nowhere = nn.Parameter(spread * torch.randn(heads // 2, head_dim, 2))
        self.gate = nn.Parameter(spread * torch.randn(heads // 2, head_dim, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map q and k (b, h, n, head_dim) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where real.

        The output at a padded query is finite but meaningless.

        Raises:
            ValueError: the number of keys differs from the number of queries.
        """
        check_heads(q, k, v, heads=self.content_heads + len(self.gate), head_dim=self.gate.shape[1])
        mask = boolean_mask(mask, k)
        if q.shape[2] != k.shape[2]:
            raise ValueError(
                f"relative positions need one key per query, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        (q, q_place), (k, k_place), (v, v_place) = (self._split(x) for x in (q, k, v))
        by_content = self.mechanism(q, k, v, mask=mask)
        return torch.cat((by_content, self._by_place(q_place, k_place, v_place, mask=mask)), dim=1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, h, n, any) -> the heads that attend by content, and those that attend by displacement."""
        return x[:, : self.content_heads], x[:, self.content_heads :]

    def _by_place(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
        v = drop_values(v, self.dropout if self.training else 0.0)
        with torch.autocast(q.device.type, enabled=False):
            q, k, exact = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
            gate = self._gate(k)
            if mask is not None:
                gate = gate * mask[:, None, :, None]
            return self._sums_by_place(q, torch.cat((gate * exact, gate), dim=-1)).to(v.dtype)

    def _sums_by_place(self, q: Tensor, seen: Tensor) -> Tensor:
        """Attend from q (b, h, n, d) to gated values (b, h, n, e + 1), whose last column is the gate itself."""
        off, on = seen.tensor_split((self.off_grid,), dim=2)
        q_off, q_on = q.tensor_split((self.off_grid,), dim=2)
        return torch.cat((self._from_nowhere(q_off, off, on), self._from_grid(q_on, off, on)), dim=2)

    def _gate(self, k: Tensor) -> Tensor:
        """The gate of each key: (b, h, n, d) -> (b, h, n, 1)."""
        return (k @ self.gate.to(k.dtype) * k.shape[-1] ** -0.5).sigmoid().clamp_min(1e-4)

    def _from_nowhere(self, q: Tensor, off: Tensor, on: Tensor) -> Tensor:
        """Attend from queries off the grid (b, h, o, d) to gated values (b, h, ·, e + 1) -> (b, h, o, e)."""
        if self.causal:  # all tokens on the grid are later
            return _mean(off.cumsum(dim=2))
        weights = _relative_to_largest(q @ self.nowhere.to(q.dtype) * q.shape[-1] ** -0.5, dim=-1)
        return _mean(weights[..., :1] * off.sum(2, keepdim=True) + weights[..., 1:] * on.sum(2, keepdim=True))

    def _from_grid(self, q: Tensor, off: Tensor, on: Tensor) -> Tensor:
        """Attend from queries on the grid (b, h, n, d) to gated values (b, h, ·, e + 1) -> (b, h, n, e)."""
        n = q.shape[2]
        if n == 0:
            return q.new_empty(*q.shape[:3], on.shape[-1] - 1)
        regions = _Regions(on, self.distance, self.columns, causal=self.causal)
        vectors = torch.cat((self.nowhere[..., :1], self.displacements[..., : regions.n_classes]), dim=-1).to(q.dtype)
        logits = vectors.mT @ F.pad(q, (0, 0, 0, regions.missing)).mT * q.shape[-1] ** -0.5  # (b, h, 1 + C, places)
        off = off.sum(2, keepdim=True).mT  # (b, h, e + 1, 1)
        visible = torch.cat(((off[:, :, -1:] > 0).expand(-1, -1, -1, logits.shape[-1]), regions.visible()), dim=2)
        weights = _relative_to_largest(logits.masked_fill(~visible, torch.finfo(logits.dtype).min), dim=2)
        return _mean((weights[:, :, :1] * off + regions.weighted(weights[:, :, 1:])).mT[:, :, :n])

    def new_cache(self, like: Tensor, max_len: int) -> "ClippedRelativeCache":
        """An empty cache for decoding up to ``max_len`` tokens.

        It holds the content mechanism's cache, and max_len * (e + 1) numbers per relative head, of which a step reads
        n (e + 1).

        Args:
            like: (b, h, any, d), for sizes and device.
            max_len: the maximum number of tokens.

        Raises:
            ValueError: not causal.
        """
        check_causal(self.causal)
        content, relative = self._split(like)
        dtype = torch.promote_types(like.dtype, torch.float32)
        seen = relative.new_zeros(*relative.shape[:2], max_len, like.shape[-1] + 1, dtype=dtype)
        return ClippedRelativeCache(self.mechanism.new_cache(content, max_len), seen, 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "ClippedRelativeCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the cache.

        Each token costs O(n e) per relative head. Several tokens in an empty cache run the parallel form.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        batch, heads, _, width = cache.seen.shape  # width: the values, and one column for the gate
        widths = self.gate.shape[1], self.gate.shape[1], width - 1
        cache.check(q, k, v, batch=batch, heads=heads + self.content_heads, widths=widths)
        (q, q_place), (k, k_place), (v, v_place) = (self._split(x) for x in (q, k, v))
        by_content = self.mechanism.step(q, k, v, cache.inner)
        return torch.cat((by_content, self._step_by_place(q_place, k_place, v_place, cache)), dim=1)

    def _step_by_place(self, q: Tensor, k: Tensor, v: Tensor, cache: "ClippedRelativeCache") -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            q, k, exact = (x.to(cache.seen.dtype) for x in (q, k, v))
            gate = self._gate(k)
            seen = cache.append(torch.cat((gate * exact, gate), dim=-1))  # (b, h, length, e + 1)
            if q.shape[2] == cache.length > 1:
                return self._sums_by_place(q, seen).to(v.dtype)
            tokens = torch.arange(cache.length, device=q.device)
            new = tokens[cache.length - q.shape[2] :]
            of_key = self._class_of(tokens, new).expand(*q.shape[:2], -1, -1)  # (b, h, t, length)
            vectors = torch.cat((self.nowhere[..., :1], self.displacements), dim=-1).to(q.dtype)
            logits = (q @ vectors * q.shape[-1] ** -0.5).gather(-1, of_key)
            # a causal query off the grid sees only keys off the grid, which share one vector: equal logits
            logits = logits.masked_fill((new < self.off_grid).unsqueeze(-1), 0)
            logits = logits.masked_fill(tokens > new.unsqueeze(-1), -torch.inf)
            return _mean(_relative_to_largest(logits, dim=-1) @ seen).to(v.dtype)

    def _class_of(self, keys: Tensor, queries: Tensor) -> Tensor:
        """Class of each pair (queries, keys), the index of its vector: 0 for a key off the grid, else 1 + c."""
        place, own = (places(tokens, self.columns, self.off_grid) for tokens in (keys, queries))
        displacement = (place - own.unsqueeze(1)).clamp(-self.distance, self.distance) + self.distance
        row, column = displacement[..., 0], displacement[..., -1]
        number = column if self.columns is None else row * self._span + column
        return torch.where(keys < self.off_grid, 0, 1 + number)


class _Regions:
    """For every place of a grid and every clipped displacement, the sum of the values at that displacement.

    Clipped to ``distance``, a displacement stands for this distance or more, so its values are summed up to the edge of
    the grid by a running sum. The sums are kept in 3 copies of the grid (9 if there are two axes): along each axis the
    sum up to a place, the place itself, and the sum from it on. The grids are padded by ``distance`` on all sides and
    flattened, so that the sums at one displacement from all places are one contiguous slice of one copy.

    Args:
        seen: (b, h, n, e + 1), row by row; its last column is positive where a token is real.
        distance: clipping distance in tokens.
        columns: width of the grid; None: a line.
        causal: omit the displacements to later places.
    """

    def __init__(self, seen: Tensor, distance: int, columns: int | None, *, causal: bool) -> None:
        self._batch, n = seen.shape[:2], seen.shape[2]
        down = 0 if columns is None else distance
        columns = n if columns is None else columns
        self._rows, self._columns, self._width = -(-n // columns), columns, columns + 2 * distance
        self.missing = self._rows * columns - n
        wanted = [
            (row, column)
            for row in range(-down, down + 1)
            for column in range(-distance, distance + 1)
            if not causal or (row, column) <= (0, 0)
        ]
        self.n_classes = len(wanted)  # if causal, the first ones in row-major order

        grid = F.pad(seen, (0, 0, 0, self.missing)).flatten(0, 1).mT.unflatten(-1, (self._rows, columns))
        grid = F.pad(grid, (distance, distance, down, down))
        sums = [x for y in (_running(grid, -2) if down else (grid,)) for x in _running(y, -1)]
        self._sums = F.pad(torch.stack([x.flatten(-2) for x in sums]), (0, 2 * distance))  # (3 or 9, b h, e + 1, ·)
        self._slices = [
            (
                3 * _end(row, down) + _end(column, distance) if down else _end(column, distance),
                (row + down) * self._width + column + distance,
            )
            for row, column in wanted
        ]

    def visible(self) -> Tensor:
        """(b, h, C, places), True where there is a real token at a displacement from a place."""
        there = self._sums[:, :, -1].detach() > 0
        slices = [there[which, :, start : start + self._rows * self._width] for which, start in self._slices]
        grid = torch.stack(slices, dim=1).unflatten(-1, (self._rows, self._width))[..., : self._columns]
        return grid.flatten(-2).unflatten(0, self._batch)

    def weighted(self, weights: Tensor) -> Tensor:
        """Sum over displacements, weighted by (b, h, C, places) -> (b, h, e + 1, places)."""
        weights = weights.flatten(0, 1).unflatten(-1, (self._rows, self._columns))
        weights = F.pad(weights, (0, self._width - self._columns)).flatten(-2)
        of_slices = _weighted_slices if traced() else _WeightedSlices.apply
        grid = of_slices(weights, self._sums, self._slices).unflatten(-1, (self._rows, self._width))
        return grid[..., : self._columns].flatten(-2).unflatten(0, self._batch)


def _weighted_slices(weights: Tensor, sums: Tensor, slices: list[tuple[int, int]]) -> Tensor:
    """sum_c weights[:, c] * (slice c of sums)."""
    length = weights.shape[-1]
    seen = torch.stack([sums[which, :, :, start : start + length] for which, start in slices], dim=1)
    return (weights.unsqueeze(2) * seen).sum(1)


class _WeightedSlices(torch.autograd.Function):
    """:func:`_weighted_slices` without saving the slices, which are C times as large as the sums, for backward."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, sums: Tensor, slices: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(weights, sums)
        ctx.slices = slices
        length = weights.shape[-1]
        out = sums.new_zeros(*sums.shape[1:3], length)
        for c, (which, start) in enumerate(slices):
            out.addcmul_(weights[:, c, None], sums[which, :, :, start : start + length])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weights, sums = ctx.saved_tensors
        length = weights.shape[-1]
        grad_weights, grad_sums = torch.empty_like(weights), torch.zeros_like(sums)
        for c, (which, start) in enumerate(ctx.slices):
            grad_weights[:, c] = (grad * sums[which, :, :, start : start + length]).sum(1)
            grad_sums[which, :, :, start : start + length].addcmul_(grad, weights[:, c, None])
        return grad_weights, grad_sums, None


def _running(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along ``dim``: the sums up to each place, x itself, and the sums from each place on."""
    return x.cumsum(dim), x, x.flip(dim).cumsum(dim).flip(dim)


def _end(displacement: int, distance: int) -> int:
    """Index of the result of :func:`_running` that a displacement uses: the running sums at the clipping distance."""
    return 0 if displacement == -distance else 2 if displacement == distance else 1


def _relative_to_largest(logits: Tensor, dim: int) -> Tensor:
    return (logits - logits.detach().amax(dim, keepdim=True)).exp()


def _mean(sums: Tensor) -> Tensor:
    """Divide by the last column, the sum of weights: (..., e + 1) -> (..., e); 0 where it is 0 (padded queries)."""
    total = sums[..., -1:]
    return sums[..., :-1] / torch.where(total > 0, total, 1)


@dataclass
class ClippedRelativeCache(Cache):
    """The content heads' cache, and the gated values of all tokens for the other heads."""

    by_token: ClassVar = ("seen",)

    inner: Cache
    seen: Tensor  # (b, h, max_len, e + 1), the last column being the gate
    length: int
    max_len: int

    def append(self, new: Tensor) -> Tensor:
        """Add t tokens (b, h, t, e + 1); return all tokens so far."""
        end = self.length + new.shape[2]
        self.seen[:, :, self.length : end] = new
        self.length = end
        return self.seen[:, :, :end]
