"""Triton kernels of bidirectional attention by features; names are explained in triton_features.py.

Forward: each program of ``sum_keys`` sums SPAN keys for a block of features, relative to the largest log feature, as
flash attention sums keys for a block of queries; ``merge_keys`` merges the spans; ``attend`` is a softmax over
features. Backward reverses these steps, with the formulas of bidirectional.py. Every sum is computed by one program in
a fixed order.

    largest, mass, sums     of a span's keys: (b, h, splits, f), (b, h, splits, f) and (b, h, splits, f, e)
    log_mass, means         of all keys: (b, h, f) and (b, h, f, e), float32
    log_totals              (b, h, n): log of the sum of each query's weights
    products                (b, h, n): inner product of the output's gradient and the output
"""

# ruff: noqa: ANN001, ANN201, ANN202 - as in triton_rows.py

import triton
import triton.language as tl

from my_transformers.performer.triton_features import (
    SIZES,
    as_operand,
    feature_logs,
    half_norm,
    is_real,
    load_directions,
    load_operand,
    token_logs,
)
from my_transformers.triton_rows import load_rows, locate, store_rows

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _locate_sum(splits, heads, n_features, FEATURES: tl.constexpr):
    """First feature, split, sample, head and sequence of a program."""
    blocks = tl.cdiv(n_features, FEATURES)
    program = tl.program_id(0)
    split, sample, head, sequence = locate(program // blocks, splits, heads)
    return (program % blocks) * FEATURES, split, sample, head, sequence


@triton.jit(do_not_specialize=SIZES)
def sum_keys(
    k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, directions, real, largest, mass, sums,
    heads, n, splits, n_features, scale, norm_scale,
    HAS_MASK: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    SPAN: tl.constexpr, BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Sum features, and features times values, over a span of keys."""
    start, split, sample, head, sequence = _locate_sum(splits, heads, n_features, FEATURES)
    k += sample * k_b + head * k_h
    v += sample * v_b + head * v_h
    number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
    top = tl.full((FEATURES,), float("-inf"), tl.float32)
    total = tl.zeros((FEATURES,), tl.float32)
    found = tl.zeros((FEATURES, PADDED_VALUE_DIM), tl.float32)
    for first in range(split * SPAN, tl.minimum(split * SPAN + SPAN, n), BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        seen = is_real(real + sample * n, tokens, n, HAS_MASK)
        keys = load_operand(k, tokens, seen, k_n, k_d, DIM, PADDED_DIM, HALF)
        values = load_operand(v, tokens, seen, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
        logs = feature_logs(some, keys, HALF, LOG_PRECISION) - half_norm(keys, norm_scale)[None, :]
        logs = tl.where(seen[None, :], logs, float("-inf"))
        above = tl.maximum(top, tl.max(logs, 1))
        subtracted = tl.where(above == float("-inf"), 0.0, above)
        shrink = tl.exp2(top - subtracted)
        features = tl.exp2(logs - subtracted[:, None])
        total = total * shrink + tl.sum(features, 1)
        found = tl.dot(as_operand(features, HALF), values, found * shrink[:, None], input_precision=PRECISION)
        top = above
    at = (sequence * splits + split) * n_features
    tl.store(largest + at + number, top, mask=exists)
    tl.store(mass + at + number, total, mask=exists)
    store_rows(sums + at * VALUE_DIM, found, number, exists, VALUE_DIM, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def merge_keys(
    largest, mass, sums, log_mass, means, splits, n_features,
    FEATURES: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Merge the sums of all spans."""
    start, _, _, _, sequence = _locate_sum(1, 1, n_features, FEATURES)
    number = start + tl.arange(0, FEATURES)
    exists = number < n_features
    top = tl.full((FEATURES,), float("-inf"), tl.float32)
    total = tl.zeros((FEATURES,), tl.float32)
    found = tl.zeros((FEATURES, PADDED_VALUE_DIM), tl.float32)
    for split in range(0, splits):
        at = (sequence * splits + split) * n_features
        here = tl.load(largest + at + number, mask=exists, other=0.0)
        above = tl.maximum(top, here)
        subtracted = tl.where(above == float("-inf"), 0.0, above)
        shrink, factor = tl.exp2(top - subtracted), tl.exp2(here - subtracted)
        total = total * shrink + tl.load(mass + at + number, mask=exists, other=1.0) * factor
        here_sums = load_rows(sums + at * VALUE_DIM, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM)
        found = found * shrink[:, None] + here_sums * factor[:, None]
        top = above
    at = sequence * n_features
    tl.store(log_mass + at + number, top + tl.log2(total), mask=exists)
    store_rows(means + at * VALUE_DIM, found / total[:, None], number, exists, VALUE_DIM, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def attend(
    q, q_b, q_h, q_n, q_d, directions, log_mass, means, out, out_b, out_h, out_n, log_totals,
    heads, n, blocks, n_features, scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Outputs of a block of queries: the means m_r, weighted by a softmax over features."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    queries = load_operand(q + sample * q_b + head * q_h, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
    log_mass += sequence * n_features
    means += sequence * n_features * VALUE_DIM
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    found = tl.zeros((BLOCK, PADDED_VALUE_DIM), tl.float32)
    for start in range(0, n_features, FEATURES):
        number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
        logs = token_logs(queries, some, exists, HALF, LOG_PRECISION)
        logs += tl.load(log_mass + number, mask=exists, other=0.0)[None, :]
        above = tl.maximum(top, tl.max(logs, 1))
        shrink = tl.exp2(top - above)
        weights = tl.exp2(logs - above[:, None])
        total = total * shrink + tl.sum(weights, 1)
        own_means = load_operand(means, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM, HALF)
        found = tl.dot(as_operand(weights, HALF), own_means, found * shrink[:, None], input_precision=PRECISION)
        top = above
    tl.store(log_totals + sequence * n + tokens, top + tl.log2(total), mask=present)
    out += sample * out_b + head * out_h
    store_rows(out, found / total[:, None], tokens, present, out_n, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def queries_backward(
    q, q_b, q_h, q_n, q_d, grad, grad_b, grad_h, grad_n, grad_d, directions, log_mass, means, log_totals, products,
    grad_q, gq_b, gq_h, gq_n, heads, n, blocks, n_features, scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    grad += sample * grad_b + head * grad_h
    queries = load_operand(q + sample * q_b + head * q_h, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
    grads = load_operand(grad, tokens, present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    log_total = tl.load(log_totals + sequence * n + tokens, mask=present, other=0.0)
    product = tl.load(products + sequence * n + tokens, mask=present, other=0.0)
    log_mass += sequence * n_features
    means += sequence * n_features * VALUE_DIM
    found = tl.zeros((BLOCK, PADDED_DIM), tl.float32)
    for start in range(0, n_features, FEATURES):
        number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
        logs = token_logs(queries, some, exists, HALF, LOG_PRECISION)
        weights = tl.exp2(logs + tl.load(log_mass + number, mask=exists, other=0.0)[None, :] - log_total[:, None])
        own_means = load_operand(means, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM, HALF)
        grad_logs = weights * (tl.dot(grads, tl.trans(own_means), input_precision=PRECISION) - product[:, None])
        found = tl.dot(as_operand(grad_logs, HALF), as_operand(some, HALF), found, input_precision=PRECISION)
    grad_q += sample * gq_b + head * gq_h
    store_rows(grad_q, found * _LN_2, tokens, present, gq_n, DIM, PADDED_DIM)


@triton.jit(do_not_specialize=SIZES)
def sum_queries(
    q, q_b, q_h, q_n, q_d, grad, grad_b, grad_h, grad_n, grad_d, directions, log_mass, means, log_totals, products,
    mass_sums, mean_sums, heads, n, splits, n_features, scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    SPAN: tl.constexpr, BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of log masses and means, summed over a span of queries."""
    start, split, sample, head, sequence = _locate_sum(splits, heads, n_features, FEATURES)
    q += sample * q_b + head * q_h
    grad += sample * grad_b + head * grad_h
    log_totals += sequence * n
    products += sequence * n
    number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
    own_log_mass = tl.load(log_mass + sequence * n_features + number, mask=exists, other=0.0)
    means += sequence * n_features * VALUE_DIM
    own_means = load_operand(means, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    of_mass = tl.zeros((FEATURES,), tl.float32)
    of_means = tl.zeros((FEATURES, PADDED_VALUE_DIM), tl.float32)
    for first in range(split * SPAN, tl.minimum(split * SPAN + SPAN, n), BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        present = tokens < n
        queries = load_operand(q, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
        grads = load_operand(grad, tokens, present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
        log_total = tl.load(log_totals + tokens, mask=present, other=float("inf"))
        product = tl.load(products + tokens, mask=present, other=0.0)
        logs = feature_logs(some, queries, HALF, LOG_PRECISION)
        weights = tl.exp2(logs + own_log_mass[:, None] - log_total[None, :])
        of_means = tl.dot(as_operand(weights, HALF), grads, of_means, input_precision=PRECISION)
        grad_weights = tl.dot(own_means, tl.trans(grads), input_precision=PRECISION)
        of_mass += tl.sum(weights * (grad_weights - product[None, :]), 1)
    at = (sequence * splits + split) * n_features
    tl.store(mass_sums + at + number, of_mass, mask=exists)
    store_rows(mean_sums + at * VALUE_DIM, of_means, number, exists, VALUE_DIM, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def merge_queries(
    mass_sums, mean_sums, means, constants, grad_means, splits, n_features,
    FEATURES: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Sum over all spans: the gradient of each mean m_r, and that of log z_r minus (grad m_r . m_r)."""
    start, _, _, _, sequence = _locate_sum(1, 1, n_features, FEATURES)
    number = start + tl.arange(0, FEATURES)
    exists = number < n_features
    of_mass = tl.zeros((FEATURES,), tl.float32)
    of_means = tl.zeros((FEATURES, PADDED_VALUE_DIM), tl.float32)
    for split in range(0, splits):
        at = (sequence * splits + split) * n_features
        of_mass += tl.load(mass_sums + at + number, mask=exists, other=0.0)
        of_means += load_rows(mean_sums + at * VALUE_DIM, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM)
    at = sequence * n_features
    own_means = load_rows(means + at * VALUE_DIM, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM)
    tl.store(constants + at + number, of_mass - tl.sum(of_means * own_means, 1), mask=exists)
    store_rows(grad_means + at * VALUE_DIM, of_means, number, exists, VALUE_DIM, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def keys_backward(
    k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, directions, real, log_mass, constants, grad_means,
    grad_k, gk_b, gk_h, gk_n, grad_v, gv_b, gv_h, gv_n, heads, n, blocks, n_features, scale, norm_scale,
    HAS_MASK: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values; key j has the share phi_r(k_j) / z_r in feature r."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    seen = is_real(real + sample * n, tokens, n, HAS_MASK)
    keys = load_operand(k + sample * k_b + head * k_h, tokens, seen, k_n, k_d, DIM, PADDED_DIM, HALF)
    values = load_operand(
        v + sample * v_b + head * v_h, tokens, seen, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF
    )  # fmt: skip
    norm = tl.where(seen, half_norm(keys, norm_scale), float("inf"))
    log_mass += sequence * n_features
    constants += sequence * n_features
    grad_means += sequence * n_features * VALUE_DIM
    of_keys = tl.zeros((BLOCK, PADDED_DIM), tl.float32)
    of_values = tl.zeros((BLOCK, PADDED_VALUE_DIM), tl.float32)
    of_norms = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n_features, FEATURES):
        number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
        logs = token_logs(keys, some, exists, HALF, LOG_PRECISION) - norm[:, None]
        shares = tl.exp2(logs - tl.load(log_mass + number, mask=exists, other=0.0)[None, :])
        of_means = load_operand(grad_means, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM, HALF)
        grad_logs = tl.dot(values, tl.trans(of_means), input_precision=PRECISION)
        grad_logs = shares * (grad_logs + tl.load(constants + number, mask=exists, other=0.0)[None, :])
        of_values = tl.dot(as_operand(shares, HALF), of_means, of_values, input_precision=PRECISION)
        of_keys = tl.dot(as_operand(grad_logs, HALF), as_operand(some, HALF), of_keys, input_precision=PRECISION)
        of_norms += tl.sum(grad_logs, 1)
    of_keys = (of_keys - keys.to(tl.float32) * (2 * norm_scale * of_norms)[:, None]) * _LN_2
    present = tokens < n
    store_rows(grad_k + sample * gk_b + head * gk_h, of_keys, tokens, present, gk_n, DIM, PADDED_DIM)
    store_rows(grad_v + sample * gv_b + head * gv_h, of_values, tokens, present, gv_n, VALUE_DIM, PADDED_VALUE_DIM)
