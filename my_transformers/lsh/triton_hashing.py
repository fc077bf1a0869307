"""Angular hashing in one kernel launch; see my_transformers/lsh/hashing.py for the definition.

A program multiplies a block of tokens by one round's rotations, a few directions at a time, and keeps the projection
of largest absolute value. So projections are never written to memory: for 65,536 tokens, 8 heads and 2 rounds of 1,024
buckets they would be 2^29 numbers.
"""

# ruff: noqa: ANN001, ANN201 - as in triton_kernels.py

import torch
import triton
import triton.language as tl
from torch import Tensor

from my_transformers import triton_launch
from my_transformers.lsh.triton_kernels import SIZES
from my_transformers.triton_launch import padded, precision
from my_transformers.triton_rows import load_rows, locate

_WIDE_ROW = 512  # bytes; longer rows are processed in smaller blocks, which fit into any GPU's shared memory


@triton.jit(do_not_specialize=SIZES)
def hash_tokens(
    qk, qk_b, qk_h, qk_n, qk_d, rotations, buckets, n_directions, heads, n, blocks, rounds, half,
    BY_LENGTH: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
    """Buckets (b, h, r, n) by rotations (h, r, d, half), contiguous; sample i uses the first n_directions[i]."""
    r = tl.program_id(0) % rounds
    block, sample, head, sequence = locate(tl.program_id(0) // rounds, blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    q = load_rows(qk + sample * qk_b + head * qk_h, tokens, present, qk_n, qk_d, DIM, PADDED_DIM)
    rotations += (head * rounds + r) * DIM * half
    used = half
    if BY_LENGTH:
        used = tl.load(n_directions + sample).to(tl.int32)
    rows = tl.arange(0, PADDED_DIM)
    columns = tl.arange(0, STEP)
    best = tl.zeros((BLOCK, STEP), tl.float32)
    found_in = tl.zeros((BLOCK, STEP), tl.int32)
    for start in range(0, used, STEP):
        inside = (rows < DIM)[:, None] & (start + columns < used)[None, :]
        directions = tl.load(rotations + rows[:, None] * half + (start + columns)[None, :], mask=inside, other=0.0)
        projected = tl.dot(q, directions, input_precision=PRECISION)
        better = tl.abs(projected) > tl.abs(best)
        best = tl.where(better, projected, best)
        found_in = tl.where(better, start, found_in)
    size = tl.abs(best)
    direction = found_in + columns[None, :]
    largest = size == tl.max(size, 1)[:, None]
    chosen = tl.min(tl.where(largest, direction, half), 1)
    opposite = tl.max(tl.where(largest & (direction == chosen[:, None]) & (best < 0), 1, 0), 1)
    tl.store(buckets + (sequence * rounds + r) * n + tokens, chosen + opposite * used, mask=present)


@torch.library.custom_op("my_transformers::bucket_of_triton", mutates_args=())
def bucket_of(qk: Tensor, rotations: Tensor, n_directions: Tensor | None) -> Tensor:
    """:func:`my_transformers.lsh.hashing.bucket_of`, for at least one direction, in the dtype of qk."""
    (batch, heads, n, dim), (_, rounds, _, half) = qk.shape, rotations.shape
    buckets = qk.new_empty((batch, heads, rounds, n), dtype=torch.int32)
    tokens, directions = (64, 32) if padded(dim) * qk.element_size() <= _WIDE_ROW else (32, 16)
    blocks = triton.cdiv(n, tokens)
    limits = buckets if n_directions is None else n_directions
    arguments = (qk, *qk.stride(), rotations, buckets, limits, heads, n, blocks, rounds, half)
    constants = {
        "BY_LENGTH": n_directions is not None,
        "PRECISION": precision(),
        "BLOCK": tokens,
        "STEP": directions,
    }
    if buckets.numel():
        dims = {"DIM": dim, "PADDED_DIM": padded(dim)}
        triton_launch.launch(hash_tokens, blocks * batch * heads * rounds, arguments, constants | dims, 4)
    return buckets


@bucket_of.register_fake
def _(qk: Tensor, rotations: Tensor, n_directions: Tensor | None) -> Tensor:
    return qk.new_empty((*qk.shape[:2], rotations.shape[1], qk.shape[2]), dtype=torch.int32)
