"""Attention by exponential features with Triton kernels: the custom operators, and the launches of their kernels.

Computes the same functions as bidirectional.py and causal.py with the features of features.log_features, for float16,
bfloat16 and float32. docs/performance.md counts operations, bytes and launches.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from my_transformers import triton_launch
from my_transformers.derivatives import first_derivatives_only
from my_transformers.memory import empty_heads
from my_transformers.performer import triton_bidirectional, triton_causal, triton_features
from my_transformers.performer.bidirectional import all_if_none
from my_transformers.triton_launch import padded, precision

_LOG2_E = math.log2(math.e)
_SPAN = 1024  # tokens that a program sums over, bidirectional only
_SCANNED = 256  # numbers that a program carries from chunk to chunk, causal only


class Tile(NamedTuple):
    """Tile sizes of a program."""

    tokens: int  # in the causal form also the chunk size
    features: int  # features processed at a time
    warps: int


# Bidirectional and causal tiles, by the largest head size that they are for. docs/performance.md explains them.
_HALF_TILES = {
    64: (Tile(64, 64, 4), Tile(64, 32, 4)),
    128: (Tile(64, 32, 8), Tile(64, 16, 8)),
    256: (Tile(32, 16, 8), Tile(32, 32, 8)),
}
_FLOAT_TILES = {
    64: (Tile(32, 16, 4), Tile(32, 16, 8)),
    128: (Tile(16, 16, 8), Tile(16, 16, 8)),
    256: (Tile(16, 16, 8), Tile(16, 16, 8)),
}


class _Call(NamedTuple):
    """The arguments that all kernels of a call share."""

    q: Tensor
    k: Tensor
    v: Tensor
    directions: Tensor
    real: Tensor | None
    causal: bool

    @property
    def n_features(self) -> int:
        return self.directions.shape[0]

    @property
    def mask(self) -> Tensor:
        return self.q if self.real is None else self.real  # without a mask, any tensor will do: it is not read

    @property
    def has_bfloat16(self) -> bool:
        """Whether operands of products are bfloat16."""
        return all(x.dtype == torch.bfloat16 for x in (self.q, self.k, self.v))

    @property
    def tile(self) -> Tile:
        tiles = _HALF_TILES if self.has_bfloat16 else _FLOAT_TILES
        return tiles[min(dim for dim in tiles if dim >= max(self.q.shape[-1], self.v.shape[-1]))][self.causal]

    @property
    def feature_blocks(self) -> int:
        return -(-self.n_features // self.tile.features)

    def blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self.tile.tokens)

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.25 * _LOG2_E

    @property
    def norm_scale(self) -> float:
        return self.q.shape[-1] ** -0.5 * _LOG2_E / 2

    def empty(self, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(b, h, *sizes)."""
        return self.q.new_empty((*self.q.shape[:2], *sizes), dtype=dtype)

    def launch(self, kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
        """Launch ``programs`` programs per sequence, with the constants of this call that the kernel declares."""
        dim, value_dim, exact = self.q.shape[-1], self.v.shape[-1], precision()
        constants = {
            "HAS_MASK": self.real is not None,
            "HALF": self.has_bfloat16,
            "PRECISION": "tf32" if torch.float16 in (self.q.dtype, self.k.dtype, self.v.dtype) else exact,
            "LOG_PRECISION": exact,
            "BLOCK": self.tile.tokens,
            "FEATURES": self.tile.features,
            "DIM": dim,
            "PADDED_DIM": padded(dim),
            "VALUE_DIM": value_dim,
            "PADDED_VALUE_DIM": padded(value_dim),
        } | constants
        taken = {name: value for name, value in constants.items() if name in kernel.arg_names}
        sequences = self.q.shape[0] * self.q.shape[1]
        triton_launch.launch(kernel, programs * sequences, arguments, taken, self.tile.warps)

    def scan(self, sums: Tensor, ends: Tensor, states: Tensor, *, reverse: bool) -> None:
        """Write to ``states`` the sum before each chunk or, if ``reverse``, the gradient of the sum after it."""
        chunks, width = states.shape[-2:]
        constants = {"REVERSE": reverse, "BLOCK": _SCANNED}
        self.launch(triton_causal.scan, -(-width // _SCANNED), sums, ends, states, chunks, width, **constants)


def _rows(*tensors: Tensor) -> tuple[Any, ...]:
    """Kernel arguments for inputs: each tensor, followed by its strides."""
    return tuple(x for tensor in tensors for x in (tensor, *tensor.stride()))


def _results(*tensors: Tensor) -> tuple[Any, ...]:
    """Kernel arguments for outputs: each tensor, followed by its strides except for the last, which is 1."""
    return tuple(x for tensor in tensors for x in (tensor, *tensor.stride()[:3]))


@torch.library.custom_op("my_transformers::bidirectional_features_triton", mutates_args=())
def _bidirectional(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output (b, h, n, e); ``log_totals`` (b, h, n), ``log_mass`` (b, h, f) and ``means`` (b, h, f, e)."""
    call, kernels = _Call(q, k, v, directions, real, causal=False), triton_bidirectional
    heads, n, n_keys, f, scale = q.shape[1], q.shape[2], k.shape[2], call.n_features, call.scale
    out, log_totals, log_mass, means = results = _empty_bidirectional(q, v, directions)
    splits = -(-n_keys // _SPAN)
    sums = call.empty(splits, f), call.empty(splits, f), call.empty(splits, f, v.shape[-1])
    numbers = (heads, n_keys, splits, f, scale, call.norm_scale)
    inputs = (*_rows(k, v), directions, call.mask)
    call.launch(kernels.sum_keys, splits * call.feature_blocks, *inputs, *sums, *numbers, SPAN=_SPAN)
    call.launch(kernels.merge_keys, call.feature_blocks, *sums, log_mass, means, splits, f)
    blocks = call.blocks(n)
    tensors = (*_rows(q), directions, log_mass, means, *_results(out), log_totals)
    call.launch(kernels.attend, blocks, *tensors, heads, n, blocks, f, scale)
    return results


def _empty_bidirectional(q: Tensor, v: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call, f = _Call(q, q, v, directions, None, causal=False), directions.shape[0]
    out = empty_heads(v[:, :, :1].expand(-1, -1, q.shape[2], -1))
    return out, call.empty(q.shape[2]), call.empty(f), call.empty(f, v.shape[-1])


@_bidirectional.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, directions: Tensor, _: Any) -> tuple[Tensor, ...]:
    return _empty_bidirectional(q, v, directions)


@torch.library.custom_op("my_transformers::bidirectional_features_triton_backward", mutates_args=())
def _bidirectional_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor,
    real: Tensor | None,
    out: Tensor,
    log_totals: Tensor,
    log_mass: Tensor,
    means: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    call, kernels = _Call(q, k, v, directions, real, causal=False), triton_bidirectional
    heads, n, n_keys, f, scale = q.shape[1], q.shape[2], k.shape[2], call.n_features, call.scale
    grad_q, grad_k, grad_v = (empty_heads(x) for x in (q, k, v))
    queries = (*_rows(q, grad), directions, log_mass, means, log_totals, triton_launch.row_products(grad, out))
    blocks = call.blocks(n)
    call.launch(kernels.queries_backward, blocks, *queries, *_results(grad_q), heads, n, blocks, f, scale)
    splits = -(-n // _SPAN)
    sums = call.empty(splits, f), call.empty(splits, f, v.shape[-1])
    of_summary = call.empty(f), torch.empty_like(means)
    programs = splits * call.feature_blocks
    call.launch(kernels.sum_queries, programs, *queries, *sums, heads, n, splits, f, scale, SPAN=_SPAN)
    call.launch(kernels.merge_queries, call.feature_blocks, *sums, means, *of_summary, splits, f)
    blocks = call.blocks(n_keys)
    tensors = (*_rows(k, v), directions, call.mask, log_mass, *of_summary, *_results(grad_k, grad_v))
    call.launch(kernels.keys_backward, blocks, *tensors, heads, n_keys, blocks, f, scale, call.norm_scale)
    return grad_q, grad_k, grad_v


@torch.library.custom_op("my_transformers::causal_features_triton", mutates_args=())
def _causal(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, real: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output (b, h, n, e); sizes of queries and of keys, ``running``, ``inverse``, ``ends`` and ``states``."""
    call, kernels = _Call(q, k, v, directions, real, causal=True), triton_causal
    out, q_size, k_size, running, inverse, ends, states = results = _empty_causal(q, k, v, directions)
    if not out.numel():
        return results
    chunks = ends.shape[-1]
    numbers = (q.shape[1], q.shape[2], chunks, call.n_features, call.scale, call.norm_scale)
    inputs, outputs = (directions, call.mask), (ends, *numbers)
    call.launch(triton_features.sizes, chunks, *_rows(q), *inputs, q_size, *outputs, KEYS=False, HAS_MASK=False)
    call.launch(triton_features.sizes, chunks, *_rows(k), *inputs, k_size, *outputs, KEYS=True)
    ends.copy_(ends.cummax(-1).values)
    sums = torch.empty_like(states, dtype=torch.float32)
    call.launch(kernels.sum_keys, chunks * call.feature_blocks, *_rows(k, v), directions, k_size, ends, sums, *numbers)
    call.scan(sums, ends, states, reverse=False)
    tensors = (*_rows(q, k, v), directions, q_size, k_size, ends, states, *_results(out), running, inverse)
    call.launch(kernels.attend, chunks, *tensors, *numbers)
    return results


def _empty_causal(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    call, n = _Call(q, k, v, directions, None, causal=True), q.shape[2]
    chunks, width = call.blocks(n), call.n_features * (v.shape[-1] + 1)
    states = call.empty(chunks, width, dtype=torch.bfloat16 if call.has_bfloat16 else torch.float32)
    return empty_heads(v), call.empty(n), call.empty(n), call.empty(n), call.empty(n), call.empty(chunks), states


@_causal.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, directions: Tensor, _: Any) -> tuple[Tensor, ...]:
    return _empty_causal(q, k, v, directions)


@torch.library.custom_op("my_transformers::causal_features_triton_backward", mutates_args=())
def _causal_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    directions: Tensor,
    out: Tensor,
    q_size: Tensor,
    k_size: Tensor,
    running: Tensor,
    inverse: Tensor,
    ends: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    call, kernels = _Call(q, k, v, directions, None, causal=True), triton_causal
    grad_q, grad_k, grad_v = (empty_heads(x) for x in (q, k, v))
    if not out.numel():
        return grad_q, grad_k, grad_v
    chunks = ends.shape[-1]
    numbers = (q.shape[1], q.shape[2], chunks, call.n_features, call.scale)
    of_queries = (running, inverse, triton_launch.row_products(grad, out))
    sums, grad_ends = torch.empty_like(states, dtype=torch.float32), torch.empty_like(states)
    tensors = (*_rows(q, grad), directions, q_size, ends, *of_queries, sums)
    call.launch(kernels.sum_queries, chunks * call.feature_blocks, *tensors, *numbers)
    call.scan(sums, ends, grad_ends, reverse=True)
    inputs, norm_scale = (*_rows(q, k, v, grad), directions, q_size, k_size, ends), call.norm_scale
    tensors = (*inputs, states, *of_queries, *_results(grad_q))
    call.launch(kernels.queries_backward, chunks, *tensors, *numbers, norm_scale)
    tensors = (*inputs, grad_ends, *of_queries, *_results(grad_k, grad_v))
    call.launch(kernels.keys_backward, chunks, *tensors, *numbers, norm_scale)
    return grad_q, grad_k, grad_v


def _empty_gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_heads(q), empty_heads(k), empty_heads(v)


_bidirectional_backward.register_fake(_empty_gradients)
_causal_backward.register_fake(_empty_gradients)


def _save_bidirectional(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zero gradients for the other outputs, which are large


def _save_causal(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)  # without the mask: a hidden key has size -inf
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zero gradients for the other outputs, which are large


@first_derivatives_only
def _backward_bidirectional(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_bidirectional_backward(grad, *saved), None, None


@first_derivatives_only
def _backward_causal(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_causal_backward(grad, *saved), None, None


_bidirectional.register_autograd(_backward_bidirectional, setup_context=_save_bidirectional)
_causal.register_autograd(_backward_causal, setup_context=_save_causal)


def exponential_attention(
    q: Tensor, k: Tensor, v: Tensor, directions: Tensor, *, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """Attention with features exp(omega_r . x' - |x'|^2 / 2), x' as in features.log_features.

    Args:
        q: (b, h, n, d), d at most 256; like k and v, an input that kernels.use_triton accepts.
        k: (b, h, m, d).
        v: (b, h, m, e), e at most 256.
        directions: omega (f, d).
        causal: a token attends only to itself and earlier tokens; needs m = n.
        mask: (b, m), True where a key is real.

    Returns:
        (b, h, n, e), of v's dtype.
    """
    directions = directions.float().contiguous()
    mask = mask if mask is None or causal else all_if_none(mask)
    mask = None if mask is None else mask.contiguous()
    return (_causal if causal else _bidirectional)(q, k, v, directions, mask)[0]
