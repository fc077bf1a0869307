"""Random features inside Triton kernels: features.log_features for the exponential kernels, a block at a time.

Logarithms are in base 2, so a feature is exp2 of its logarithm. ``directions`` (n_features, DIM), contiguous float32,
are multiplied by ``scale`` = d^(-1/4) log2(e). From a key's logarithms |k|^2 ``norm_scale`` is subtracted, with
norm_scale = d^(-1/2) log2(e) / 2. The term log m is omitted: it is common to all features and cancels in attention.

Operands of products are bfloat16 if HALF, otherwise float32; float16 cannot represent features below 6e-8. With HALF,
each direction is split into a sum of two bfloat16 numbers, which makes logarithms as exact as with float32 directions.

Names that all Performer kernels share:

    n, n_keys           the number of tokens
    n_features          f; FEATURES of them are processed at a time
    real                (b, n) boolean, True where a key is real; read only if HAS_MASK
    PRECISION           precision of float32 products; LOG_PRECISION: of those with directions
"""

# ruff: noqa: ANN001, ANN201 - as in triton_rows.py

import triton
import triton.language as tl

from my_transformers import triton_rows
from my_transformers.triton_rows import load_rows, locate

SIZES = [*triton_rows.SIZES, "n_keys", "n_features", "splits", "chunks", "width"]

LOWEST = tl.constexpr(-3e38)  # size before the first key; finite, so that differences are not NaN


@triton.jit
def as_operand(x, HALF: tl.constexpr):
    """Convert to the dtype of products."""
    return x.to(tl.bfloat16 if HALF else tl.float32)


@triton.jit
def load_operand(x, tokens, present, stride_n, stride_d, DIM: tl.constexpr, PADDED: tl.constexpr, HALF: tl.constexpr):
    """Load rows for a product: zeros for tokens that are not present."""
    return as_operand(load_rows(x, tokens, present, stride_n, stride_d, DIM, PADDED), HALF)


@triton.jit
def load_directions(
    directions, start, n_features, scale, FEATURES: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr
):
    """Indices (FEATURES,) from ``start`` on, whether each exists, and scaled directions (FEATURES, PADDED)."""
    number = start + tl.arange(0, FEATURES)
    exists = number < n_features
    return number, exists, load_rows(directions, number, exists, DIM, 1, DIM, PADDED) * scale


@triton.jit
def token_logs(rows, block, exists, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """Logarithms of features (tokens, FEATURES), without the norm term; -inf where a direction does not exist."""
    if HALF:
        high = block.to(tl.bfloat16)
        low = (block - high.to(tl.float32)).to(tl.bfloat16)
        logs = tl.dot(rows, tl.trans(low), tl.dot(rows, tl.trans(high)))
    else:
        logs = tl.dot(rows, tl.trans(block), input_precision=LOG_PRECISION)
    return tl.where(exists[None, :], logs, float("-inf"))


@triton.jit
def feature_logs(block, rows, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """:func:`token_logs` transposed, (FEATURES, tokens), as left operand of a product with values; no -inf rows."""
    if HALF:
        high = block.to(tl.bfloat16)
        low = (block - high.to(tl.float32)).to(tl.bfloat16)
        logs = tl.dot(low, tl.trans(rows), tl.dot(high, tl.trans(rows)))
    else:
        logs = tl.dot(block, tl.trans(rows), input_precision=LOG_PRECISION)
    return logs


@triton.jit
def half_norm(rows, norm_scale):
    """|k|^2 norm_scale; NaN for keys that are not finite, whose infinite norm would give them weight 0."""
    wide = rows.to(tl.float32)
    norm = tl.sum(wide * wide, 1) * norm_scale
    return tl.where(norm < float("inf"), norm, float("nan"))


@triton.jit
def is_real(real, tokens, n, HAS_MASK: tl.constexpr):
    """Whether each token exists and is not padding; ``real`` points to the sample's mask."""
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
    """Write each token's largest log feature, -inf for a hidden key; for keys, also the largest in each block."""
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
