"""Random features inside Triton kernels: features.log_features for the exponential kernels, a block at a time.

Logarithms have base 2, so that features are exp2 of them. ``directions`` (n_features, DIM), contiguous float32, are
multiplied by ``scale`` = d^(-1/4) log2(e), and a key's -|k|^2 ``norm_scale`` with norm_scale = d^(-1/2) log2(e) / 2 is
added; log m, which all features have in common, is left out: attention divides it out again.

Operands of products are bfloat16 if HALF and else float32: float16 could not hold features below 6e-8. Directions are
rounded to two bfloat16 numbers each, so that logarithms are as exact as from float32.

Names that all Performer kernels share:

    n, n_keys           tokens
    n_features          f; FEATURES of them are worked on at a time
    real                (b, n) boolean: which keys are real; read if HAS_MASK
    PRECISION           of products of float32 numbers; LOG_PRECISION: of those with directions
"""

# ruff: noqa: ANN001, ANN201 - as in triton_rows.py

import triton
import triton.language as tl

from my_transformers import triton_rows
from my_transformers.triton_rows import load_rows, locate

SIZES = [*triton_rows.SIZES, "n_keys", "n_features", "splits", "chunks", "width"]

LOWEST = tl.constexpr(-3e38)  # size of no key; finite, so that differences of it are numbers


@triton.jit
def as_operand(x, HALF: tl.constexpr):
    """In the dtype of products."""
    return x.to(tl.bfloat16 if HALF else tl.float32)


@triton.jit
def load_operand(x, tokens, present, stride_n, stride_d, DIM: tl.constexpr, PADDED: tl.constexpr, HALF: tl.constexpr):
    """Rows for a product: zeros for tokens that are not present."""
    return as_operand(load_rows(x, tokens, present, stride_n, stride_d, DIM, PADDED), HALF)


@triton.jit
def load_directions(
    directions, start, n_features, scale, FEATURES: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr
):
    """Numbers (FEATURES,) from ``start`` on, which of them exist, and their directions (FEATURES, PADDED), scaled."""
    number = start + tl.arange(0, FEATURES)
    exists = number < n_features
    return number, exists, load_rows(directions, number, exists, DIM, 1, DIM, PADDED) * scale


@triton.jit
def token_logs(rows, block, exists, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """(tokens, FEATURES): logarithms of features without the norm; -inf where a direction does not exist."""
    if HALF:
        high = block.to(tl.bfloat16)
        low = (block - high.to(tl.float32)).to(tl.bfloat16)
        logs = tl.dot(rows, tl.trans(low), tl.dot(rows, tl.trans(high)))
    else:
        logs = tl.dot(rows, tl.trans(block), input_precision=LOG_PRECISION)
    return tl.where(exists[None, :], logs, float("-inf"))


@triton.jit
def feature_logs(block, rows, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """The same as (FEATURES, tokens), to be multiplied with values of tokens; rows of no direction are numbers."""
    if HALF:
        high = block.to(tl.bfloat16)
        low = (block - high.to(tl.float32)).to(tl.bfloat16)
        logs = tl.dot(low, tl.trans(rows), tl.dot(high, tl.trans(rows)))
    else:
        logs = tl.dot(block, tl.trans(rows), input_precision=LOG_PRECISION)
    return logs


@triton.jit
def half_norm(rows, norm_scale):
    """|k|^2 norm_scale; NaN of keys that are not finite, so that they are not taken for keys of no weight."""
    wide = rows.to(tl.float32)
    norm = tl.sum(wide * wide, 1) * norm_scale
    return tl.where(norm < float("inf"), norm, float("nan"))


@triton.jit
def is_real(real, tokens, n, HAS_MASK: tl.constexpr):
    """Which tokens there are, and are not padding; ``real`` of the sample."""
    present = tokens < n
    if HAS_MASK:
        present = present & (tl.load(real + tokens, mask=present, other=0) != 0)
    return present


@triton.jit(do_not_specialize=SIZES)
def sizes(
    x, x_b, x_h, x_n, x_d, directions, real, size, largest, heads, n, blocks, n_features, scale, norm_scale,
    KEYS: tl.constexpr, HAS_MASK: tl.constexpr, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr, DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
    """The largest log feature of each token, -inf of a hidden key; of keys also the largest in each block."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    seen = is_real(real + sample * n, tokens, n, HAS_MASK)
    rows = load_operand(x + sample * x_b + head * x_h, tokens, seen, x_n, x_d, DIM, PADDED_DIM, HALF)
    found = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, n_features, FEATURES):
        _, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
        found = tl.maximum(found, tl.max(token_logs(rows, some, exists, HALF, LOG_PRECISION), 1))
    if KEYS:
        found = tl.where(seen, found - half_norm(rows, norm_scale), float("-inf"))
        tl.store(largest + sequence * blocks + block, tl.maximum(tl.max(found), LOWEST))
    tl.store(size + sequence * n + tokens, found, mask=tokens < n)
