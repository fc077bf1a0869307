"""What Triton kernels of all mechanisms share: where a program works, and rows in memory.

Rows are numbers of one token and head, at strides of any kind: x_b, x_h, x_n, x_d from one sample, head, token and
number to the next. DIM numbers of a row exist; PADDED, a power of two, are computed with.
"""

# ruff: noqa: ANN001, ANN201 - Triton knows one annotation, tl.constexpr; the rest are pointers and blocks

import triton
import triton.language as tl

# Not compiled anew where one of these is 1 or a multiple of 16: that would not make any access to memory faster.
SIZES = ["heads", "n", "blocks"]


@triton.jit
def load_rows(x, tokens, present, stride_n, stride_d, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Load rows (block, PADDED): zeros for tokens that are not present, and beyond DIM."""
    columns = tl.arange(0, PADDED)
    offsets = tokens.to(tl.int64)[:, None] * stride_n + columns.to(tl.int64)[None, :] * stride_d
    return tl.load(x + offsets, mask=present[:, None] & (columns < DIM)[None, :], other=0.0)


@triton.jit
def store_rows(x, rows, tokens, present, stride_n, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Store rows whose numbers are adjacent in memory."""
    columns = tl.arange(0, PADDED)
    offsets = tokens.to(tl.int64)[:, None] * stride_n + columns[None, :]
    tl.store(x + offsets, rows.to(x.dtype.element_ty), mask=present[:, None] & (columns < DIM)[None, :])


@triton.jit
def locate(program, blocks, heads):
    """Block, sample, head and sequence of a program; 64 bits for what is multiplied by strides."""
    sequence = (program // blocks).to(tl.int64)
    return program % blocks, sequence // heads, sequence % heads, sequence


@triton.jit(do_not_specialize=SIZES)
def row_products(
    grad, grad_b, grad_h, grad_n, grad_d, out, out_b, out_h, out_n, products, heads, n, blocks,
    BLOCK: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """grad_i . out_i of every token i, which equals the sum over keys of p_ij dp_ij."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    grad += sample * grad_b + head * grad_h
    out += sample * out_b + head * out_h
    grads = load_rows(grad, tokens, present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM)
    outs = load_rows(out, tokens, present, out_n, 1, VALUE_DIM, PADDED_VALUE_DIM)
    product = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    tl.store(products + sequence * n + tokens, product, mask=present)
