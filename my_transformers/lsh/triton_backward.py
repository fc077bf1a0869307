"""Triton kernels of bucketed attention: backward. Names are explained in triton_kernels.py.

Probabilities are recomputed as 2^(score - total). A program handles a block of tokens in both roles: as queries, it
loops over all keys that they see; as keys, over all queries that see them. So each gradient is written by one program,
in a fixed order and without atomics, at the cost of computing each score twice.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - as in triton_kernels.py

import triton
import triton.language as tl

from my_transformers.lsh.triton_kernels import SIZES, _hide, _kept, _queries, _tokens
from my_transformers.triton_rows import load_rows, locate, store_rows

_SEARCHED = tl.constexpr(256)  # places searched at a time for the queries that see a block of keys


@triton.jit
def _find_queries(order, first, last, keys_from, keys_end, n, length, block_size, blocks_before, blocks_after):
    """Lowest place of a query that sees a key at keys_from <= place < keys_end, and one past the highest.

    Intervals are stored by query, so the queries are searched for, within the bounds that BlockLayout guarantees.
    """
    low = tl.maximum((keys_from // block_size - blocks_after) * block_size, 0)
    high = tl.minimum(((keys_end - 1) // block_size + blocks_before + 1) * block_size, length)
    found_from, found_end = length, 0
    for searched in range(low, high, _SEARCHED):
        q_place = searched + tl.arange(0, _SEARCHED)
        _, _, start, count = _queries(order, first, last, q_place, high, n, length)
        sees = (count > 0) & (start < keys_end) & (start + count > keys_from)
        found_from = tl.minimum(found_from, tl.min(tl.where(sees, q_place, length)))
        found_end = tl.maximum(found_end, tl.max(tl.where(sees, q_place + 1, 0)))
    return found_from, found_end


@triton.jit
def _as_queries(
    own, token, own_place, start, count, own_grad, own_total, own_product,
    qk, qk_n, qk_d, v, v_n, v_d, key_scale, order, first, last, place, seeds,
    n, length, stride, earlier, threshold, keep_scale, log2_scale,
    BY_POSITION: tl.constexpr, DEDUPLICATE: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    STEP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries, not yet multiplied by the scale of scores, 1 / sqrt(d)."""
    found = tl.zeros_like(own).to(tl.float32)
    lowest_place = tl.min(tl.where(count > 0, start, length))
    end_place = tl.max(tl.where(count > 0, start + count, 0))
    for k_start in range(lowest_place, end_place, STEP):
        k_place = k_start + tl.arange(0, STEP)
        k_token, k_present = _tokens(order, k_place, end_place, n)
        k_scale = tl.load(key_scale + k_token, mask=k_present, other=-1.0)
        keys = load_rows(qk, k_token, k_scale >= 0, qk_n, qk_d, DIM, PADDED_DIM)
        values = load_rows(v, k_token, k_scale >= 0, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM)
        scores = tl.dot(own, tl.trans(keys), input_precision=PRECISION) * (k_scale * log2_scale)[None, :]
        scores = _hide(
            scores - own_total[:, None], token[:, None], own_place[:, None], start[:, None], count[:, None],
            k_token[None, :], k_place[None, :], first, last, place, earlier, stride, length, BY_POSITION, DEDUPLICATE,
        )  # fmt: skip
        grad_weights = tl.dot(own_grad, tl.trans(values), input_precision=PRECISION)
        if DROPOUT:
            kept = _kept(seeds, token[:, None], k_token[None, :], stride, threshold)
            grad_weights = tl.where(kept, grad_weights * keep_scale, 0.0)
        grad_scores = tl.exp2(scores) * (grad_weights - own_product[:, None]) * k_scale[None, :]
        found = tl.dot(grad_scores.to(keys.dtype), keys, found, input_precision=PRECISION)
    return found


@triton.jit
def _as_keys(
    own, token, own_place, own_scale, own_values, seen_from, seen_end, totals, products, grad, grad_n, grad_d,
    qk, qk_n, qk_d, key_scale, order, first, last, place, seeds,
    n, length, stride, in_round, earlier, threshold, keep_scale, log2_scale,
    BY_POSITION: tl.constexpr, DEDUPLICATE: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    STEP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of unit keys, not yet multiplied by the scale of scores, and of their values."""
    found = tl.zeros_like(own).to(tl.float32)
    found_values = tl.zeros_like(own_values).to(tl.float32)
    for q_start in range(seen_from, seen_end, STEP):
        q_place = q_start + tl.arange(0, STEP)
        q_token, q_present, start, count = _queries(
            order, first + in_round, last + in_round, q_place, seen_end, n, length
        )
        q_finite = tl.load(key_scale + q_token, mask=q_present, other=-1.0) >= 0
        q_total = tl.load(totals + q_token, mask=q_present, other=0.0)
        q_product = tl.load(products + q_token, mask=q_present, other=0.0)
        queries = load_rows(qk, q_token, q_finite, qk_n, qk_d, DIM, PADDED_DIM)
        grads = load_rows(grad, q_token, q_present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM)
        scores = tl.dot(own, tl.trans(queries), input_precision=PRECISION) * (own_scale * log2_scale)[:, None]
        scores = _hide(
            scores - q_total[None, :], q_token[None, :], q_place[None, :], start[None, :], count[None, :],
            token[:, None], own_place[:, None], first, last, place, earlier, stride, length, BY_POSITION, DEDUPLICATE,
        )  # fmt: skip
        weights = tl.exp2(scores)
        grad_weights = tl.dot(own_values, tl.trans(grads), input_precision=PRECISION)
        used = weights
        if DROPOUT:
            kept = _kept(seeds, q_token[None, :], token[:, None], stride, threshold)
            grad_weights = tl.where(kept, grad_weights * keep_scale, 0.0)
            used = tl.where(kept, weights * keep_scale, 0.0)
        found_values = tl.dot(used.to(grads.dtype), grads, found_values, input_precision=PRECISION)
        grad_scores = weights * (grad_weights - q_product[None, :])
        found = tl.dot(grad_scores.to(queries.dtype), queries, found, input_precision=PRECISION)
    return found, found_values


@triton.jit(do_not_specialize=SIZES)
def attend_backward(
    qk, qk_b, qk_h, qk_n, qk_d, v, v_b, v_h, v_n, v_d, grad, grad_b, grad_h, grad_n, grad_d,
    grad_qk, gq_b, gq_h, gq_n, qk_so_far, grad_v, gv_b, gv_h, gv_n, v_so_far,
    key_scale, totals, products, zero_or_nan, order, first, last, place, seeds,
    heads, n, length, blocks, stride, turn, rounds, earlier, threshold, keep_scale, log2_scale,
    scale, block_size, blocks_before, blocks_after,
    BY_POSITION: tl.constexpr, DEDUPLICATE: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Add this round's contribution to the gradients of a block of tokens.

    Between rounds they are kept in ``qk_so_far`` and ``v_so_far``; the last round writes ``grad_qk`` and ``grad_v``.
    ``zero_or_nan`` (b, h) is NaN if the output or its gradient is not finite in a sequence, otherwise 0.
    """
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    qk += sample * qk_b + head * qk_h
    v += sample * v_b + head * v_h
    grad += sample * grad_b + head * grad_h
    grad_qk += sample * gq_b + head * gq_h
    qk_so_far += sample * gq_b + head * gq_h
    grad_v += sample * gv_b + head * gv_h
    v_so_far += sample * gv_b + head * gv_h
    key_scale += sequence * n
    totals += sequence * n
    products += sequence * n
    seeds += sequence * length
    first += sequence * length
    last += sequence * length
    place += sequence * length
    in_round = turn.to(tl.int64) * stride
    order += in_round + sequence * length

    own_from = block * BLOCK
    own_place = own_from + tl.arange(0, BLOCK)
    token, present, start, count = _queries(order, first + in_round, last + in_round, own_place, length, n, length)
    own_scale = tl.load(key_scale + token, mask=present, other=-1.0)
    own = load_rows(qk, token, own_scale >= 0, qk_n, qk_d, DIM, PADDED_DIM)
    own_grad = load_rows(grad, token, present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM)
    own_total = tl.load(totals + token, mask=present, other=0.0)
    own_product = tl.load(products + token, mask=present, other=0.0)
    of_queries = _as_queries(
        own, token, own_place, start, count, own_grad, own_total, own_product,
        qk, qk_n, qk_d, v, v_n, v_d, key_scale, order, first, last, place, seeds,
        n, length, stride, earlier, threshold, keep_scale, log2_scale,
        BY_POSITION, DEDUPLICATE, DROPOUT, PRECISION, STEP, DIM, PADDED_DIM, VALUE_DIM, PADDED_VALUE_DIM,
    )  # fmt: skip
    seen_from, seen_end = _find_queries(
        order, first + in_round, last + in_round, own_from, tl.minimum(own_from + BLOCK, length), n, length,
        block_size, blocks_before, blocks_after,
    )  # fmt: skip
    own_values = load_rows(v, token, own_scale >= 0, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM)
    of_keys, of_values = _as_keys(
        own, token, own_place, own_scale, own_values, seen_from, seen_end, totals, products, grad, grad_n, grad_d,
        qk, qk_n, qk_d, key_scale, order, first, last, place, seeds,
        n, length, stride, in_round, earlier, threshold, keep_scale, log2_scale,
        BY_POSITION, DEDUPLICATE, DROPOUT, PRECISION, STEP, DIM, PADDED_DIM, VALUE_DIM, PADDED_VALUE_DIM,
    )  # fmt: skip

    inverse_norm = tl.maximum(own_scale, 0.0)[:, None]
    unit = own.to(tl.float32) * inverse_norm
    dk_dot_k = tl.sum(of_keys * unit, 1)[:, None]
    of_qk = (of_queries + (of_keys - dk_dot_k * unit) * inverse_norm) * scale  # through k = q / ||q||
    continued = present & (turn > 0)
    of_qk += load_rows(qk_so_far, token, continued, gq_n, 1, DIM, PADDED_DIM).to(tl.float32)
    of_values += load_rows(v_so_far, token, continued, gv_n, 1, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
    if turn < rounds - 1:
        store_rows(qk_so_far, of_qk, token, present, gq_n, DIM, PADDED_DIM)
        store_rows(v_so_far, of_values, token, present, gv_n, VALUE_DIM, PADDED_VALUE_DIM)
    else:
        alone = present & (own_total == float("-inf"))  # the output of such a token is its own value
        of_values += load_rows(grad, token, alone, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
        added = tl.load(zero_or_nan + sequence)
        store_rows(grad_qk, of_qk + added, token, present, gq_n, DIM, PADDED_DIM)
        store_rows(grad_v, of_values + added, token, present, gv_n, VALUE_DIM, PADDED_VALUE_DIM)
