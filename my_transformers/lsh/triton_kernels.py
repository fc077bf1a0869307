"""Triton kernels of bucketed attention: forward; triton_attention.py launches them.

A program handles one block of places in one round's sorted order of one sequence (one head of one sample). ``order``
maps places to tokens, and rows are read directly from the unsorted tensors. ``first`` and ``last`` bound the interval
of places that each token sees, so the loop over keys runs from the block's lowest ``first`` to its highest ``last``:
its length depends on window and block size, not on the sequence.

Rounds are launched one after another. Each continues its tokens' partial results, and in each round only one program
reads or writes those of a token: no atomics, and every sum has a fixed order.

Argument names, the same in all kernels:

    x_b, x_h, x_n, x_d  strides of rows x: sample, head, token, number
    n, length           the number of tokens, and of places; tokens from n on are padding: rows of zeros, never written
    stride              places of all sequences: the distance between two rounds, and between query and key seeds
    turn, rounds        index of this round, and the number of rounds
    earlier             the number of earlier rounds to de-duplicate against
    key_scale           (b, h, n) float32: 1 / ||q||, or -1 for a row with an infinity or NaN, which is read as zeros
    totals              (b, h, n) float32: base-2 log-sum-exp of a token's scores so far; -inf if it has seen no key
    DIM, PADDED_DIM     size of a row of qk, and the next power of two; VALUE_... likewise for v
"""

# ruff: noqa: ANN001, ANN201, ANN202 - Triton supports the annotation tl.constexpr only; the rest are pointers and
# blocks

import triton
import triton.language as tl

from my_transformers import triton_rows
from my_transformers.triton_rows import load_rows, locate, store_rows

SIZES = [*triton_rows.SIZES, "length", "stride", "turn", "rounds", "earlier", "threshold"]
SIZES += ["block_size", "blocks_before", "blocks_after"]


@triton.jit
def _interval(first, last, tokens, length):
    """First place that each token sees, and the number of places that it sees."""
    start = tl.maximum(tl.load(first + tokens), 0)
    end = tl.minimum(tl.load(last + tokens), length - 1)
    return start, tl.maximum(end - start + 1, 0)


@triton.jit
def _tokens(order, places, end, n):
    """Tokens at places, and whether each exists: its place is before ``end``, and it is not padding."""
    inside = places < end
    tokens = tl.load(order + places, mask=inside, other=0)
    return tokens, inside & (tokens < n)


@triton.jit
def _queries(order, first, last, places, end, n, length):
    """Tokens at places, whether each exists, the first place it sees, and how many it sees (0 if it does not exist)."""
    tokens, present = _tokens(order, places, end, n)
    start, count = _interval(first, last, tokens, length)
    return tokens, present, start, tl.where(present, count, 0)


@triton.jit
def _within(place, start, count):
    """Whether start <= place < start + count, in one comparison: unsigned, a negative difference is large."""
    return (place - start).to(tl.uint32) < count.to(tl.uint32)


@triton.jit
def _hide(
    scores, q_token, q_place, q_start, q_count, k_token, k_place, first, last, place, earlier, stride, length,
    BY_POSITION: tl.constexpr, DEDUPLICATE: tl.constexpr,
):  # fmt: skip
    """Set scores to -inf where the query does not see the key, or (DEDUPLICATE) saw it already in an earlier round.

    Query arguments are columns and key arguments rows, or the other way round.
    """
    seen = _within(k_place, q_start, q_count) & (k_place != q_place)
    if BY_POSITION:
        seen = seen & (k_token < q_token)
    scores = tl.where(seen, scores, float("-inf"))
    if DEDUPLICATE:
        for e in range(0, earlier):
            start, count = _interval(first + e * stride, last + e * stride, q_token, length)
            scores = tl.where(_within(tl.load(place + e * stride + k_token), start, count), float("-inf"), scores)
    return scores


@triton.jit
def _kept(seeds, q_token, k_token, stride, threshold):
    """Whether dropout keeps each pair; the same hash as scores.is_kept."""
    mixed = tl.load(seeds + q_token) + tl.load(seeds + stride + k_token)
    mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * 0x7FEB352D
    mixed = (mixed ^ ((mixed >> 16) & 0xFFFF)) * -0x7B935975
    return (mixed & 0x7FFFFFFF) >= threshold


@triton.jit(do_not_specialize=SIZES)
def prepare(
    qk, qk_b, qk_h, qk_n, qk_d, v, v_b, v_h, v_n, v_d, real, key_scale, nan_from, heads, n, blocks,
    HAS_REAL: tl.constexpr, CAUSAL: tl.constexpr, BLOCK: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Write each token's ``key_scale``, and the first position whose output it makes NaN (n if none)."""
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    tokens = block * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    q = load_rows(qk + sample * qk_b + head * qk_h, tokens, present, qk_n, qk_d, DIM, PADDED_DIM).to(tl.float32)
    values = load_rows(v + sample * v_b + head * v_h, tokens, present, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM)
    infinity = float("inf")
    finite = (tl.abs(tl.sum(q, 1)) < infinity) & (tl.abs(tl.sum(values.to(tl.float32), 1)) < infinity)
    inverse_norm = tl.rsqrt(tl.maximum(tl.sum(q * q, 1), 1e-12))
    makes_nan = finite == 0
    if HAS_REAL:
        makes_nan = makes_nan & (tl.load(real + sequence * n + tokens, mask=present, other=0) != 0)
    tl.store(key_scale + sequence * n + tokens, tl.where(finite, inverse_norm, -1.0), mask=present)
    start = tl.where(makes_nan, tokens if CAUSAL else 0, n)
    tl.store(nan_from + sequence * n + tokens, start, mask=present)


@triton.jit(do_not_specialize=SIZES)
def invert(order, place, length, blocks, BLOCK: tl.constexpr):
    """Invert ``order``: write the place of every token, for each sequence and round."""
    row = (tl.program_id(0) // blocks).to(tl.int64) * length
    places = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = places < length
    tl.store(place + row + tl.load(order + row + places, mask=inside, other=0), places, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def attend(
    qk, qk_b, qk_h, qk_n, qk_d, v, v_b, v_h, v_n, v_d, out, out_b, out_h, out_n, so_far,
    key_scale, totals, nan_from, order, first, last, place, seeds,
    heads, n, length, blocks, stride, turn, rounds, earlier, threshold, keep_scale, log2_scale,
    BY_POSITION: tl.constexpr, DEDUPLICATE: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, STEP: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Continue the softmax of a block of queries with the keys that they see in this round.

    The result of earlier rounds, a mean of values with log-sum-exp z, enters as one more key with score z. Between
    rounds it is kept in ``so_far``; the last round writes ``out``.
    """
    block, sample, head, sequence = locate(tl.program_id(0), blocks, heads)
    qk += sample * qk_b + head * qk_h
    v += sample * v_b + head * v_h
    at_out = sample * out_b + head * out_h
    key_scale += sequence * n
    totals += sequence * n
    seeds += sequence * length
    first += sequence * length
    last += sequence * length
    place += sequence * length
    in_round = turn.to(tl.int64) * stride
    order += in_round + sequence * length

    q_place = block * BLOCK + tl.arange(0, BLOCK)
    q_token, present, start, count = _queries(order, first + in_round, last + in_round, q_place, length, n, length)
    finite = tl.load(key_scale + q_token, mask=present, other=-1.0) >= 0
    q = load_rows(qk, q_token, finite, qk_n, qk_d, DIM, PADDED_DIM)

    continued = present & (turn > 0)
    highest = tl.load(totals + q_token, mask=continued, other=float("-inf"))
    mass = tl.where(highest == float("-inf"), 0.0, 1.0)
    mean = load_rows(so_far + at_out, q_token, continued, out_n, 1, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
    lowest_place = tl.min(tl.where(count > 0, start, length))
    end_place = tl.max(tl.where(count > 0, start + count, 0))
    for k_start in range(lowest_place, end_place, STEP):
        k_place = k_start + tl.arange(0, STEP)
        k_token, k_present = _tokens(order, k_place, end_place, n)
        k_scale = tl.load(key_scale + k_token, mask=k_present, other=-1.0)
        keys = load_rows(qk, k_token, k_scale >= 0, qk_n, qk_d, DIM, PADDED_DIM)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * (k_scale * log2_scale)[None, :]
        scores = _hide(
            scores, q_token[:, None], q_place[:, None], start[:, None], count[:, None],
            k_token[None, :], k_place[None, :], first, last, place, earlier, stride, length, BY_POSITION, DEDUPLICATE,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(scores, 1))
        subtracted = tl.where(above == float("-inf"), 0.0, above)
        shrink = tl.exp2(highest - subtracted)
        weights = tl.exp2(scores - subtracted[:, None])
        mass = mass * shrink + tl.sum(weights, 1)
        if DROPOUT:
            kept = _kept(seeds, q_token[:, None], k_token[None, :], stride, threshold)
            weights = tl.where(kept, weights * keep_scale, 0.0)
        values = load_rows(v, k_token, k_scale >= 0, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM)
        mean = tl.dot(weights.to(values.dtype), values, mean * shrink[:, None], input_precision=PRECISION)
        highest = above

    alone = mass == 0
    mean = mean / tl.where(alone, 1.0, mass)[:, None]
    total = tl.where(alone, float("-inf"), highest + tl.log2(tl.where(alone, 1.0, mass)))
    tl.store(totals + q_token, total, mask=present)
    if turn < rounds - 1:
        store_rows(so_far + at_out, mean, q_token, present, out_n, VALUE_DIM, PADDED_VALUE_DIM)
    else:
        own = load_rows(v, q_token, present & alone, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
        # zero a padded token's own NaN: backward would take it for a NaN output and make the sequence's gradient NaN
        found = tl.where(finite[:, None], tl.where(alone[:, None], own, mean), 0.0)
        found = tl.where((q_token >= tl.load(nan_from + sequence))[:, None], float("nan"), found)
        store_rows(out + at_out, found, q_token, present, out_n, VALUE_DIM, PADDED_VALUE_DIM)
