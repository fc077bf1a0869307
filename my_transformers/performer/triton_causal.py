"""Triton kernels of causal attention by features; names are explained in triton_features.py.

The prefix sums of causal.py in three steps, each parallel over chunks or features: ``sum_keys`` sums each chunk by
itself; ``scan`` goes from chunk to chunk and writes the sum over all earlier chunks (it is the only sequential step, so
its time grows with the length on any GPU); ``attend`` computes weights inside each chunk and adds the earlier sums.
Backward reverses these steps. Every sum is computed by one program in a fixed order.

    size            a token's largest log feature (b, h, n); -inf for a hidden key
    running         the largest size of any key up to a query (b, h, n)
    ends            the largest size up to the end of each chunk (b, h, chunks)
    sums            of a chunk: sum_j phi(k_j) v_j^T, followed by sum_j phi(k_j), relative to ``ends``
    states          the same sums over all tokens before a chunk, relative to the end of the previous chunk
    inverse         1 / sum of a query's weights (b, h, n); 0 where they underflow and the query sees itself
    products        (b, h, n): inner product of the output's gradient and the output
"""

# ruff: noqa: ANN001, ANN201, ANN202 - as in triton_rows.py

import triton
import triton.language as tl

from my_transformers.performer.triton_features import (
    LOWEST,
    SIZES,
    as_operand,
    feature_logs,
    half_norm,
    load_directions,
    load_operand,
    token_logs,
)
from my_transformers.triton_rows import load_rows, locate, store_rows

_LN_2 = tl.constexpr(0.6931471805599453)
_TINY = tl.constexpr(1.1754943508222875e-38)  # the smallest normal float32


@triton.jit
def _locate_sum(chunks, heads, n_features, FEATURES: tl.constexpr):
    """First feature, chunk, sample, head and sequence of a program that sums a chunk for a block of features."""
    blocks = tl.cdiv(n_features, FEATURES)
    program = tl.program_id(0)
    chunk, sample, head, sequence = locate(program // blocks, chunks, heads)
    return (program % blocks) * FEATURES, chunk, sample, head, sequence


@triton.jit
def _start_of(ends, chunk):
    """The largest size before a chunk; ``ends`` points to those of the sequence."""
    return tl.load(ends + chunk - 1, mask=chunk > 0, other=LOWEST)


@triton.jit
def _load_state(
    states, number, exists, n_features, HALF: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr
):
    """A chunk's state: sums of values (FEATURES, PADDED_VALUE_DIM), an operand, and of weights (FEATURES,)."""
    of_values = load_operand(states, number, exists, VALUE_DIM, 1, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    masses = tl.load(states + n_features * VALUE_DIM + number, mask=exists, other=0.0).to(tl.float32)
    return of_values, masses


@triton.jit
def _store_sums(
    sums, of_values, masses, number, exists, n_features, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr
):
    store_rows(sums, of_values, number, exists, VALUE_DIM, VALUE_DIM, PADDED_VALUE_DIM)
    tl.store(sums + n_features * VALUE_DIM + number, masses, mask=exists)


@triton.jit
def _query_features(queries, size, some, exists, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """Features of queries (tokens, FEATURES), relative to each query's largest."""
    return tl.exp2(token_logs(queries, some, exists, HALF, LOG_PRECISION) - size[:, None])


@triton.jit
def _key_features(keys, norm_and_size, some, exists, HALF: tl.constexpr, LOG_PRECISION: tl.constexpr):
    """Features of keys (tokens, FEATURES), relative to each key's largest; 0 for hidden keys."""
    return tl.exp2(token_logs(keys, some, exists, HALF, LOG_PRECISION) - norm_and_size[:, None])


@triton.jit
def _norm_and_size(keys, size, norm_scale):
    """The number to subtract from a key's logarithms; infinity if the key is hidden."""
    return tl.where(size == float("-inf"), float("inf"), half_norm(keys, norm_scale) + size)


@triton.jit(do_not_specialize=SIZES)
def sum_keys(
    k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, directions, k_size, ends, sums,
    heads, n, chunks, n_features, scale, norm_scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Sum features, and features times values, over a chunk of keys."""
    start, chunk, sample, head, sequence = _locate_sum(chunks, heads, n_features, FEATURES)
    tokens = chunk * BLOCK + tl.arange(0, BLOCK)
    size = tl.load(k_size + sequence * n + tokens, mask=tokens < n, other=float("-inf"))
    seen = size != float("-inf")
    keys = load_operand(k + sample * k_b + head * k_h, tokens, seen, k_n, k_d, DIM, PADDED_DIM, HALF)
    values = load_operand(
        v + sample * v_b + head * v_h, tokens, seen, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF
    )  # fmt: skip
    end = tl.load(ends + sequence * chunks + chunk)
    subtracted = tl.where(seen, half_norm(keys, norm_scale) + end, float("inf"))
    number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
    features = tl.exp2(feature_logs(some, keys, HALF, LOG_PRECISION) - subtracted[None, :])
    of_values = tl.dot(as_operand(features, HALF), values, input_precision=PRECISION)
    sums += (sequence * chunks + chunk) * n_features * (VALUE_DIM + 1)
    _store_sums(sums, of_values, tl.sum(features, 1), number, exists, n_features, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit
def _load_chunk(sums, ends, turn, chunks, width, number, inside, REVERSE: tl.constexpr):
    """Addresses of a chunk's numbers, its sums, and the factor (at most 1) from the scale of its start to its end."""
    chunk = chunks - 1 - turn if REVERSE else turn
    at = chunk.to(tl.int64) * width + number
    exists = turn < chunks
    end = tl.load(ends + chunk, mask=exists, other=0.0)
    start = tl.load(ends + chunk - 1, mask=exists & (chunk > 0), other=LOWEST)
    return at, tl.load(sums + at, mask=inside & exists, other=0.0), tl.exp2(start - end)


@triton.jit
def _next_state(states, state, chunk, inside):
    """Store the state before a chunk, and return the state after it."""
    at, own_sums, decay = chunk
    tl.store(states + at, state.to(states.dtype.element_ty), mask=inside)
    return state * decay + own_sums


@triton.jit(do_not_specialize=SIZES)
def scan(sums, ends, states, chunks, width, REVERSE: tl.constexpr, BLOCK: tl.constexpr):
    """The state before each chunk, ``width`` numbers each; if REVERSE, the gradient of the state after it.

    Chunks are loaded four at a time, to overlap their memory latencies.
    """
    tiles = tl.cdiv(width, BLOCK)
    sequence = (tl.program_id(0) // tiles).to(tl.int64)
    number = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = number < width
    sums += sequence * chunks * width
    states += sequence * chunks * width
    ends += sequence * chunks
    state = tl.zeros((BLOCK,), tl.float32)
    for turn in range(0, chunks, 4):
        first = _load_chunk(sums, ends, turn, chunks, width, number, inside, REVERSE)
        second = _load_chunk(sums, ends, turn + 1, chunks, width, number, inside, REVERSE)
        third = _load_chunk(sums, ends, turn + 2, chunks, width, number, inside, REVERSE)
        fourth = _load_chunk(sums, ends, turn + 3, chunks, width, number, inside, REVERSE)
        state = _next_state(states, state, first, inside)
        state = _next_state(states, state, second, inside & (turn + 1 < chunks))
        state = _next_state(states, state, third, inside & (turn + 2 < chunks))
        state = _next_state(states, state, fourth, inside & (turn + 3 < chunks))


@triton.jit(do_not_specialize=SIZES)
def attend(
    q, q_b, q_h, q_n, q_d, k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, directions, q_size, k_size, ends, states,
    out, out_b, out_h, out_n, running, inverse, heads, n, chunks, n_features, scale, norm_scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk; also ``running`` and ``inverse``."""
    chunk, sample, head, sequence = locate(tl.program_id(0), chunks, heads)
    places = tl.arange(0, BLOCK)
    tokens = chunk * BLOCK + places
    present = tokens < n
    own_q_size = tl.load(q_size + sequence * n + tokens, mask=present, other=0.0)
    own_k_size = tl.load(k_size + sequence * n + tokens, mask=present, other=float("-inf"))
    visible = own_k_size != float("-inf")
    queries = load_operand(q + sample * q_b + head * q_h, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
    keys = load_operand(k + sample * k_b + head * k_h, tokens, visible, k_n, k_d, DIM, PADDED_DIM, HALF)
    v += sample * v_b + head * v_h
    values = load_operand(v, tokens, visible, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    subtracted = _norm_and_size(keys, own_k_size, norm_scale)
    start = _start_of(ends + sequence * chunks, chunk)
    earlier = places[None, :] <= places[:, None]
    so_far = tl.maximum(tl.max(tl.where(earlier, own_k_size[None, :], LOWEST), 1), start)
    from_start = tl.exp2(start - so_far)
    relative = tl.exp2(own_k_size[None, :] - so_far[:, None])
    states += (sequence * chunks + chunk) * n_features * (VALUE_DIM + 1)

    found = tl.zeros((BLOCK, PADDED_VALUE_DIM), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in tl.range(0, n_features, FEATURES, disable_licm=True):
        number, exists, some = load_directions(directions, first, n_features, scale, FEATURES, DIM, PADDED_DIM)
        of_queries = _query_features(queries, own_q_size, some, exists, HALF, LOG_PRECISION)
        of_keys = as_operand(_key_features(keys, subtracted, some, exists, HALF, LOG_PRECISION), HALF)
        of_values, masses = _load_state(states, number, exists, n_features, HALF, VALUE_DIM, PADDED_VALUE_DIM)
        weights = tl.dot(as_operand(of_queries, HALF), tl.trans(of_keys), input_precision=PRECISION)
        weights = tl.where(earlier, weights * relative, 0.0)
        of_queries *= from_start[:, None]
        total += tl.sum(of_queries * masses[None, :], 1) + tl.sum(weights, 1)
        found = tl.dot(as_operand(of_queries, HALF), of_values, found, input_precision=PRECISION)
        found = tl.dot(as_operand(weights, HALF), values, found, input_precision=PRECISION)

    vanished = total <= _TINY  # False for NaN, which must reach the output
    over_total = tl.where(vanished, 0.0, 1.0 / tl.where(vanished, 1.0, total))
    tl.store(running + sequence * n + tokens, so_far, mask=present)
    tl.store(inverse + sequence * n + tokens, over_total, mask=present)
    found = tl.where(vanished[:, None], values.to(tl.float32), found * over_total[:, None])
    store_rows(out + sample * out_b + head * out_h, found, tokens, present, out_n, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit
def _load_query_gradients(
    grad, grad_n, grad_d, running, inverse, products, tokens, n,
    HALF: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """For a chunk's queries: ``running``, and gradients of the sums of weighted values and of weights; 0 beyond n."""
    present = tokens < n
    so_far = tl.load(running + tokens, mask=present, other=float("inf"))
    over_total = tl.load(inverse + tokens, mask=present, other=0.0)
    of_total = -over_total * tl.load(products + tokens, mask=present, other=0.0)
    of_values = load_rows(grad, tokens, present, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
    return so_far, of_values * over_total[:, None], of_total


@triton.jit(do_not_specialize=SIZES)
def sum_queries(
    q, q_b, q_h, q_n, q_d, grad, grad_b, grad_h, grad_n, grad_d, directions, q_size, ends, running, inverse, products,
    sums, heads, n, chunks, n_features, scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Contribution of a chunk's queries to the gradient of the state before the chunk."""
    start, chunk, sample, head, sequence = _locate_sum(chunks, heads, n_features, FEATURES)
    tokens = chunk * BLOCK + tl.arange(0, BLOCK)
    present = tokens < n
    own_size = tl.load(q_size + sequence * n + tokens, mask=present, other=0.0)
    queries = load_operand(q + sample * q_b + head * q_h, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
    at = sequence * n
    so_far, of_values, of_total = _load_query_gradients(
        grad + sample * grad_b + head * grad_h, grad_n, grad_d, running + at, inverse + at, products + at, tokens, n,
        HALF, VALUE_DIM, PADDED_VALUE_DIM,
    )  # fmt: skip
    subtracted = own_size + so_far - _start_of(ends + sequence * chunks, chunk)
    number, exists, some = load_directions(directions, start, n_features, scale, FEATURES, DIM, PADDED_DIM)
    features = tl.exp2(feature_logs(some, queries, HALF, LOG_PRECISION) - subtracted[None, :])
    of_state = tl.dot(as_operand(features, HALF), as_operand(of_values, HALF), input_precision=PRECISION)
    of_mass = tl.sum(features * of_total[None, :], 1)
    sums += (sequence * chunks + chunk) * n_features * (VALUE_DIM + 1)
    _store_sums(sums, of_state, of_mass, number, exists, n_features, VALUE_DIM, PADDED_VALUE_DIM)


@triton.jit(do_not_specialize=SIZES)
def queries_backward(
    q, q_b, q_h, q_n, q_d, k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, grad, grad_b, grad_h, grad_n, grad_d,
    directions, q_size, k_size, ends, states, running, inverse, products, grad_q, gq_b, gq_h, gq_n,
    heads, n, chunks, n_features, scale, norm_scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradient of a chunk of queries."""
    chunk, sample, head, sequence = locate(tl.program_id(0), chunks, heads)
    places = tl.arange(0, BLOCK)
    tokens = chunk * BLOCK + places
    present = tokens < n
    at = sequence * n
    own_q_size = tl.load(q_size + at + tokens, mask=present, other=0.0)
    own_k_size = tl.load(k_size + at + tokens, mask=present, other=float("-inf"))
    visible = own_k_size != float("-inf")
    queries = load_operand(q + sample * q_b + head * q_h, tokens, present, q_n, q_d, DIM, PADDED_DIM, HALF)
    keys = load_operand(k + sample * k_b + head * k_h, tokens, visible, k_n, k_d, DIM, PADDED_DIM, HALF)
    v += sample * v_b + head * v_h
    values = load_operand(v, tokens, visible, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    so_far, of_values, of_total = _load_query_gradients(
        grad + sample * grad_b + head * grad_h, grad_n, grad_d, running + at, inverse + at, products + at, tokens, n,
        HALF, VALUE_DIM, PADDED_VALUE_DIM,
    )  # fmt: skip
    subtracted = _norm_and_size(keys, own_k_size, norm_scale)
    from_start = tl.exp2(_start_of(ends + sequence * chunks, chunk) - so_far)
    states += (sequence * chunks + chunk) * n_features * (VALUE_DIM + 1)
    of_weights = tl.dot(as_operand(of_values, HALF), tl.trans(values), input_precision=PRECISION) + of_total[:, None]
    of_weights *= tl.exp2(own_k_size[None, :] - so_far[:, None])
    of_weights = as_operand(tl.where(places[None, :] <= places[:, None], of_weights, 0.0), HALF)
    of_values = as_operand(of_values * from_start[:, None], HALF)
    of_total *= from_start

    found = tl.zeros((BLOCK, PADDED_DIM), tl.float32)
    for first in tl.range(0, n_features, FEATURES, disable_licm=True):
        number, exists, some = load_directions(directions, first, n_features, scale, FEATURES, DIM, PADDED_DIM)
        of_keys = as_operand(_key_features(keys, subtracted, some, exists, HALF, LOG_PRECISION), HALF)
        state, masses = _load_state(states, number, exists, n_features, HALF, VALUE_DIM, PADDED_VALUE_DIM)
        grad_logs = of_total[:, None] * masses[None, :]
        grad_logs = tl.dot(of_weights, of_keys, grad_logs, input_precision=PRECISION)
        grad_logs = tl.dot(of_values, tl.trans(state), grad_logs, input_precision=PRECISION)
        grad_logs *= _query_features(queries, own_q_size, some, exists, HALF, LOG_PRECISION)
        found = tl.dot(as_operand(grad_logs, HALF), as_operand(some, HALF), found, input_precision=PRECISION)
    grad_q += sample * gq_b + head * gq_h
    store_rows(grad_q, found * _LN_2, tokens, present, gq_n, DIM, PADDED_DIM)


@triton.jit(do_not_specialize=SIZES)
def keys_backward(
    q, q_b, q_h, q_n, q_d, k, k_b, k_h, k_n, k_d, v, v_b, v_h, v_n, v_d, grad, grad_b, grad_h, grad_n, grad_d,
    directions, q_size, k_size, ends, grad_ends, running, inverse, products, grad_k, gk_b, gk_h, gk_n,
    grad_v, gv_b, gv_h, gv_n, heads, n, chunks, n_features, scale, norm_scale,
    HALF: tl.constexpr, PRECISION: tl.constexpr, LOG_PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, FEATURES: tl.constexpr,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, PADDED_VALUE_DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk of keys and values; ``grad_ends`` are the gradients of the sums up to each chunk's end."""
    chunk, sample, head, sequence = locate(tl.program_id(0), chunks, heads)
    places = tl.arange(0, BLOCK)
    tokens = chunk * BLOCK + places
    at = sequence * n
    own_q_size = tl.load(q_size + at + tokens, mask=tokens < n, other=0.0)
    own_k_size = tl.load(k_size + at + tokens, mask=tokens < n, other=float("-inf"))
    visible = own_k_size != float("-inf")
    queries = load_operand(q + sample * q_b + head * q_h, tokens, tokens < n, q_n, q_d, DIM, PADDED_DIM, HALF)
    keys = load_operand(k + sample * k_b + head * k_h, tokens, visible, k_n, k_d, DIM, PADDED_DIM, HALF)
    v += sample * v_b + head * v_h
    values = load_operand(v, tokens, visible, v_n, v_d, VALUE_DIM, PADDED_VALUE_DIM, HALF)
    grad += sample * grad_b + head * grad_h
    so_far, of_sums, of_total = _load_query_gradients(
        grad, grad_n, grad_d, running + at, inverse + at, products + at, tokens, n, HALF, VALUE_DIM, PADDED_VALUE_DIM
    )
    of_sums = as_operand(of_sums, HALF)
    subtracted = _norm_and_size(keys, own_k_size, norm_scale)
    to_end = tl.exp2(own_k_size - tl.load(ends + sequence * chunks + chunk))
    grad_ends += (sequence * chunks + chunk) * n_features * (VALUE_DIM + 1)
    relative = tl.exp2(own_k_size[:, None] - so_far[None, :])
    relative = tl.where(places[:, None] <= places[None, :], relative, 0.0)
    of_weights = tl.dot(values, tl.trans(of_sums), input_precision=PRECISION) + of_total[None, :]
    of_weights = as_operand(of_weights * relative, HALF)
    carried = as_operand(values.to(tl.float32) * to_end[:, None], HALF)

    found = tl.zeros((BLOCK, PADDED_DIM), tl.float32)
    of_values = tl.zeros((BLOCK, PADDED_VALUE_DIM), tl.float32)
    of_norms = tl.zeros((BLOCK,), tl.float32)
    for first in tl.range(0, n_features, FEATURES, disable_licm=True):
        number, exists, some = load_directions(directions, first, n_features, scale, FEATURES, DIM, PADDED_DIM)
        of_queries = as_operand(_query_features(queries, own_q_size, some, exists, HALF, LOG_PRECISION), HALF)
        of_keys = _key_features(keys, subtracted, some, exists, HALF, LOG_PRECISION)
        of_state, of_masses = _load_state(grad_ends, number, exists, n_features, HALF, VALUE_DIM, PADDED_VALUE_DIM)
        grad_logs = to_end[:, None] * of_masses[None, :]
        grad_logs = tl.dot(of_weights, of_queries, grad_logs, input_precision=PRECISION)
        grad_logs = tl.dot(carried, tl.trans(of_state), grad_logs, input_precision=PRECISION) * of_keys
        of_norms += tl.sum(grad_logs, 1)
        weights = tl.dot(as_operand(of_keys, HALF), tl.trans(of_queries), input_precision=PRECISION)
        of_values = tl.dot(as_operand(weights * relative, HALF), of_sums, of_values, input_precision=PRECISION)
        of_keys = as_operand(of_keys * to_end[:, None], HALF)
        of_values = tl.dot(of_keys, of_state, of_values, input_precision=PRECISION)
        found = tl.dot(as_operand(grad_logs, HALF), as_operand(some, HALF), found, input_precision=PRECISION)
    itself = visible & (tl.load(inverse + at + tokens, mask=tokens < n, other=1.0) == 0)
    of_values += load_rows(grad, tokens, itself, grad_n, grad_d, VALUE_DIM, PADDED_VALUE_DIM).to(tl.float32)
    found = (found - keys.to(tl.float32) * (2 * norm_scale * of_norms)[:, None]) * _LN_2
    store_rows(grad_k + sample * gk_b + head * gk_h, found, tokens, tokens < n, gk_n, DIM, PADDED_DIM)
    store_rows(grad_v + sample * gv_b + head * gv_h, of_values, tokens, tokens < n, gv_n, VALUE_DIM, PADDED_VALUE_DIM)
