"""Angular locality-sensitive hashing: rotations -> buckets -> sort and its inverse, as pure functions on tensors.

Kitaev, Kaiser and Levskaya, "Reformer: The Efficient Transformer" (ICLR 2020), section 2. Read next: bucketed.py.

Letters in shapes: b batch, h heads, n length, d head_dim, r rounds.
"""

import functools

import torch
from torch import Tensor

from my_transformers.derivatives import exporting
from my_transformers.kernels import use_triton
from my_transformers.memory import at_once

_PROJECTIONS_IN_WORK, _PROJECTIONS_ON_DEVICE = 2**19, 2**24  # numbers in x R per piece, on a CPU and elsewhere


def choose_n_buckets(length: int, bucket_size: int) -> int:
    """The smallest number of buckets such that each is expected to hold at most ``bucket_size`` of ``length`` tokens.

    It is 1 if all tokens fit into one bucket, and otherwise even, because each direction makes two buckets.
    """
    if length <= bucket_size:
        return 1
    return 2 * -(-length // (2 * bucket_size))


def draw_rotations(
    heads: int, n_rounds: int, head_dim: int, n_buckets: int, *, like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal directions (h, r, d, n_buckets / 2), on ``like``'s device and with its dtype.

    Without a generator they are drawn from the device's global one. With a generator they are drawn on the generator's
    device in float32, so that a seed yields the same buckets on every machine. The directions of round r do not depend
    on the number of rounds.
    """
    shape = (heads, head_dim, n_buckets // 2)
    if generator is None:
        return torch.randn((heads, n_rounds, head_dim, n_buckets // 2), device=like.device, dtype=like.dtype)
    draw = functools.partial(torch.randn, shape, generator=generator, device=generator.device, dtype=torch.float32)
    return torch.stack([draw() for _ in range(n_rounds)], dim=1).to(like.device, like.dtype, non_blocking=True)


# torch.randn fills memory 16 numbers at a time, so a smaller draw is in general not a prefix of a larger one. Drawing
# this many directions at a time makes the directions for few buckets a prefix of those for many.
_DRAWN_TOGETHER = 16


def draw_nested_rotations(
    heads: int, n_rounds: int, head_dim: int, n_buckets: int, *, like: Tensor, seed: int
) -> Tensor:
    """:func:`draw_rotations`, but the directions for few buckets are a prefix of those for many.

    A short sequence is then hashed in the same way alone and in a batch whose longest sequence needs more buckets.
    """
    half = n_buckets // 2
    rounds = []
    for r in range(n_rounds):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + r)
        blocks = [
            torch.randn((_DRAWN_TOGETHER, heads, head_dim), generator=generator, dtype=torch.float32)
            for _ in range(-(-half // _DRAWN_TOGETHER))
        ]
        rounds.append(torch.cat([torch.empty(0, heads, head_dim, dtype=torch.float32), *blocks])[:half])
    return torch.stack(rounds).permute(2, 0, 3, 1).to(like.device, like.dtype, non_blocking=True)


@torch.library.custom_op("my_transformers::seeded_rotations", mutates_args=())
def seeded_rotations(
    like: Tensor, heads: int, n_rounds: int, head_dim: int, n_buckets: int, seed: int, nested: bool = False
) -> Tensor:
    """:func:`draw_rotations` (if ``nested``, :func:`draw_nested_rotations`) from a seed, cached on the device.

    Drawing them on the CPU and copying them in every forward would take longer than the attention itself on a GPU. It
    is a custom operator so that torch.compile does not trace into it, and an operator may not return a tensor that it
    keeps: hence the clone.
    """
    sizes = (heads, n_rounds, head_dim, n_buckets)
    return _cached_rotations(*sizes, seed, nested, like.device, like.dtype).clone()


@functools.lru_cache(maxsize=64)
def _cached_rotations(
    heads: int,
    n_rounds: int,
    head_dim: int,
    n_buckets: int,
    seed: int,
    nested: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    like = torch.empty(0, device=device, dtype=dtype)
    if nested:
        return draw_nested_rotations(heads, n_rounds, head_dim, n_buckets, like=like, seed=seed).contiguous()
    generator = torch.Generator().manual_seed(seed)
    return draw_rotations(heads, n_rounds, head_dim, n_buckets, like=like, generator=generator)


@seeded_rotations.register_fake
def _(
    like: Tensor, heads: int, n_rounds: int, head_dim: int, n_buckets: int, seed: int, nested: bool = False
) -> Tensor:
    return like.new_empty(heads, n_rounds, head_dim, n_buckets // 2)


@seeded_rotations.register_vmap
def _(info: object, in_dims: object, like: Tensor, *sizes: int) -> tuple[Tensor, None]:
    return seeded_rotations(like, *sizes), None  # not batched: the same for all samples


@torch.no_grad()
def bucket_of(qk: Tensor, rotations: Tensor, n_directions: Tensor | None = None) -> Tensor:
    """Angular LSH bucket of every vector in every round: argmax [xR; -xR] (section 2, "Locality sensitive hashing").

    Args:
        qk: (b, h, n, d).
        rotations: (h, r, d, n_buckets / 2); with n_buckets = 1 the last size is 0 and all tokens share bucket 0.
        n_directions: (b,) int64; sample i uses the first n_directions[i] directions. None: all.

    Returns:
        int32 (b, h, r, n), each in [0, n_buckets), or with ``n_directions`` in [0, 2 n_directions[i]).
    """
    batch, heads, length, _ = qk.shape
    n_rounds, half = rotations.shape[1], rotations.shape[-1]
    if half and use_triton(qk, largest_dim=256):
        from my_transformers.lsh import triton_hashing  # Triton may be missing, and takes time to import

        return triton_hashing.bucket_of(qk, rotations.to(qk.dtype).contiguous(), n_directions)
    if half == 0:
        return torch.zeros((batch, heads, n_rounds, length), dtype=torch.int32, device=qk.device)
    rows = qk.transpose(0, 1).flatten(1, 2)  # (h, b * n, d)
    directions = rotations.to(qk.dtype).transpose(1, 2).flatten(2)  # (h, d, r * half)
    limits = None
    if n_directions is not None:
        limits = n_directions.unsqueeze(-1).expand(-1, length).reshape(-1, 1, 1)
    in_work = at_once(qk.device, _PROJECTIONS_IN_WORK, _PROJECTIONS_ON_DEVICE)
    tokens = max(1, in_work // (heads * n_rounds * half))
    pieces = [slice(None)]  # one piece under torch.export: in a graph their number cannot depend on the batch
    if not exporting():
        pieces = [slice(first, first + tokens) for first in range(0, max(1, batch * length), tokens)]
    found = []
    for piece in pieces:
        projected = torch.bmm(rows[:, piece], directions).unflatten(-1, (n_rounds, half))
        # argmax [xR; -xR] without the concatenation: the largest |xR|, in the second half where xR is negative
        sizes = projected.abs()
        used = half if limits is None else limits[piece]
        if limits is not None:
            sizes.masked_fill_(torch.arange(half, device=qk.device) >= used, -1)
        at_largest = sizes.argmax(dim=-1, keepdim=True)
        is_negative = projected.gather(-1, at_largest) < 0
        found.append((at_largest + used * is_negative).squeeze(-1).mT.int())
    buckets = found[0] if len(found) == 1 else torch.cat(found, dim=-1)  # (h, r, b * n)
    return buckets.unflatten(-1, (batch, length)).permute(2, 0, 1, 3)


@torch.no_grad()
def sort_by_bucket(buckets: Tensor, n_buckets: int | None = None) -> Tensor:
    """Token positions in order of (bucket, position): int64, of the shape of ``buckets``, sorted along the last axis.

    If ``n_buckets``, an upper bound of the bucket numbers, is given, a GPU sorts all rows in one sort.
    """
    length = buckets.shape[-1]
    positions = torch.arange(length, device=buckets.device)
    if n_buckets is not None and buckets.device.type != "cpu" and buckets.numel():
        return _sort_rows_as_one(buckets, positions, n_buckets)
    # Bucket and position in one integer key: values are sorted instead of a stable argsort, and ``%`` reads the
    # position off the sorted key.
    return torch.sort(buckets.long() * length + positions, dim=-1).values % length


def _sort_rows_as_one(buckets: Tensor, positions: Tensor, n_buckets: int) -> Tensor:
    """:func:`sort_by_bucket` with the row number in the key too, in 32 bits if these suffice.

    PyTorch's CUDA sort of several long rows sorts everything twice (by key, then by row) or, from 128 rows on, gives
    each row a single thread block.
    """
    length = buckets.shape[-1]
    n_rows = buckets.numel() // length
    dtype = torch.int32 if n_rows * n_buckets * length < 2**31 else torch.int64
    rows = torch.arange(n_rows, device=buckets.device, dtype=dtype).view(*buckets.shape[:-1], 1)
    keys = (rows * n_buckets + buckets).to(dtype) * length + positions.to(dtype)
    return (keys.flatten().sort().values % length).long().view(buckets.shape)


@torch.no_grad()
def undo_sort(order: Tensor) -> Tensor:
    """Inverse permutation along the last axis: the place of every token in sorted order."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
