"""Building blocks of all Triton kernels: which block a program works on, and loading and storing rows.

A row holds the DIM numbers of one token in one head; it is padded to PADDED, a power of two, in registers. Tensors may
have any strides: x_b, x_h, x_n, x_d are those of x between samples, heads, tokens and numbers.
"""

# ruff: noqa: ANN001, ANN201 - Triton supports the annotation tl.constexpr only; the rest are pointers and blocks

import triton
import triton.language as tl

# Arguments that Triton must not specialise on: a recompilation where one is 1 or a multiple of 16 would gain nothing.
SIZES = ["heads", "n", "blocks"]


@triton.jit
def load_rows(x, tokens, present, stride_n, stride_d, DIM: tl.constexpr, PADDED: tl.constexpr):
    """Load rows (block, PADDED): zeros for tokens that are not present, and in the columns beyond DIM."""
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
    """Block, sample, head and sequence of a program; int64 except for the block, since strides multiply them."""
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
