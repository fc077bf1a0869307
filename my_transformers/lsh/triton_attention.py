"""Bucketed attention with Triton kernels: the custom operators, and the launches of their kernels.

Computes the same function as bucketed.py, for float16, bfloat16 and float32. Forward launches ``prepare``, a minimum,
``invert`` if there are several rounds, and ``attend`` once per round; backward is similar. docs/performance.md counts
operations, bytes and launches.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from my_transformers import triton_launch
from my_transformers.derivatives import first_derivatives_only
from my_transformers.lsh import triton_backward, triton_kernels
from my_transformers.memory import empty_heads
from my_transformers.triton_launch import ROWS, padded, precision

_LOG2_E = math.log2(math.e)
_PLACES = 1024  # places per program of ``invert``


class Tile(NamedTuple):
    """Tile sizes of a program."""

    block: int  # tokens (queries, say) that a program computes the result of
    step: int  # tokens of the other role (keys) that it compares them with at a time
    warps: int


# Tiles of forward and backward, by the largest head size that they are for. docs/performance.md explains them.
_HALF_TILES = {
    64: (Tile(64, 64, 4), Tile(64, 32, 4)),
    128: (Tile(64, 64, 4), Tile(32, 32, 4)),
    256: (Tile(32, 32, 4), Tile(32, 32, 8)),
}
_FLOAT_TILES = {
    64: (Tile(32, 32, 4), Tile(32, 32, 4)),
    128: (Tile(32, 32, 8), Tile(32, 32, 8)),
    256: (Tile(16, 16, 4), Tile(16, 16, 4)),
}


def _tile(head_dim: int, value_dim: int, dtype: torch.dtype, *, backward: bool) -> Tile:
    tiles = _FLOAT_TILES if dtype == torch.float32 else _HALF_TILES
    largest = min(dim for dim in tiles if dim >= max(head_dim, value_dim))
    return tiles[largest][backward]


class _Call(NamedTuple):
    """The arguments that all kernels of a call share."""

    qk: Tensor
    v: Tensor
    order: Tensor
    first: Tensor
    last: Tensor
    seeds: Tensor
    layout: list[int]
    deduplicate: bool
    dropout: float

    @property
    def rounds(self) -> int:
        return self.order.shape[0]

    @property
    def length(self) -> int:
        return self.order.shape[-1]

    @property
    def sequences(self) -> int:
        return self.qk.shape[0] * self.qk.shape[1]

    def rows(self) -> tuple[Tensor | int, ...]:
        """Queries and values with their strides."""
        return self.qk, *self.qk.stride(), self.v, *self.v.stride()

    def dims(self) -> dict[str, int]:
        dim, value_dim = self.qk.shape[-1], self.v.shape[-1]
        return {"DIM": dim, "PADDED_DIM": padded(dim), "VALUE_DIM": value_dim, "PADDED_VALUE_DIM": padded(value_dim)}

    def prepare(self, key_scale: Tensor, real: Tensor | None, causal: bool) -> Tensor:
        """Write ``key_scale``; return (b, h), the first position whose output must be NaN, or n if none must."""
        nan_from = torch.empty_like(key_scale, dtype=torch.int32)
        arguments = (*self.rows(), key_scale if real is None else real, key_scale, nan_from)
        constants = self.dims() | {"HAS_REAL": real is not None, "CAUSAL": causal}
        self._each_token(triton_kernels.prepare, arguments, constants)
        return nan_from.amin(-1)

    def _each_token(self, kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        heads, n = self.qk.shape[1:3]
        blocks = triton.cdiv(n, ROWS)
        triton_launch.launch(
            kernel, blocks * self.sequences, (*arguments, heads, n, blocks), constants | {"BLOCK": ROWS}, 4
        )

    def places(self) -> tuple[Tensor, ...]:
        """Order, first and last, and the place of each token, the inverse of order: int32 (r, b, h, L) each."""
        if not self.deduplicate or self.rounds == 1:
            return self.order, self.first, self.last, self.order  # the fourth is not read
        place, blocks = torch.empty_like(self.order), triton.cdiv(self.length, _PLACES)
        arguments = (self.order, place, self.length, blocks)
        triton_launch.launch(
            triton_kernels.invert, blocks * self.rounds * self.sequences, arguments, {"BLOCK": _PLACES}, 4
        )
        return self.order, self.first, self.last, place

    def each_round(self, kernel: Any, tensors: tuple[Any, ...], *, backward: bool = False) -> None:
        """Launch a kernel once per round."""
        (heads, n, dim), (_, *blocks, by_position) = self.qk.shape[1:], self.layout
        sizes = _tile(dim, self.v.shape[-1], torch.promote_types(self.qk.dtype, self.v.dtype), backward=backward)
        n_blocks, stride = triton.cdiv(self.length, sizes.block), self.sequences * self.length
        log2_scale, threshold, keep_scale = dim**-0.5 * _LOG2_E, int(self.dropout * 2**31), 1 / (1 - self.dropout)
        only_backward = (dim**-0.5, *blocks) if backward else ()
        constants = self.dims() | {
            "BY_POSITION": bool(by_position),
            "DROPOUT": self.dropout > 0,
            "BLOCK": sizes.block,
            "STEP": sizes.step,
            "PRECISION": precision(),
        }
        for turn in range(self.rounds):
            earlier = turn if self.deduplicate else 0
            numbers = (heads, n, self.length, n_blocks, stride, turn, self.rounds, earlier, threshold, keep_scale)
            arguments = (*tensors, *numbers, log2_scale, *only_backward)
            constants["DEDUPLICATE"] = earlier > 0
            triton_launch.launch(kernel, n_blocks * self.sequences, arguments, constants, sizes.warps)


def _room_for_sums(result: Tensor, rounds: int) -> Tensor:
    """Float32 memory for partial results between rounds: the result itself if it is float32 or there is one round."""
    return result if rounds == 1 or result.dtype == torch.float32 else torch.empty_like(result, dtype=torch.float32)


def _empty_results(qk: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    totals, key_scale = (qk.new_empty(qk.shape[:3], dtype=torch.float32) for _ in range(2))
    return empty_heads(v), totals, key_scale


@torch.library.custom_op("my_transformers::bucketed_attention_triton", mutates_args=())
def _attention(
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    seeds: Tensor,
    real: Tensor | None,
    layout: list[int],
    causal: bool,
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output (b, h, n, e), and for each token its base-2 log-sum-exp and 1 / ||q||, (b, h, n) float32."""
    call = _Call(qk, v, order, first, last, seeds, layout, deduplicate, dropout)
    out, totals, key_scale = _empty_results(qk, v)
    if out.numel():
        nan_from = call.prepare(key_scale, real, causal)
        tensors = (
            *call.rows(), out, *out.stride()[:3], _room_for_sums(out, call.rounds),
            key_scale, totals, nan_from, *call.places(), seeds,
        )  # fmt: skip
        call.each_round(triton_kernels.attend, tensors)
    return out, totals, key_scale


@_attention.register_fake
def _(qk: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_results(qk, v)


@torch.library.custom_op("my_transformers::bucketed_attention_triton_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    qk: Tensor,
    v: Tensor,
    order: Tensor,
    first: Tensor,
    last: Tensor,
    seeds: Tensor,
    out: Tensor,
    totals: Tensor,
    key_scale: Tensor,
    layout: list[int],
    deduplicate: bool,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qk and v."""
    call = _Call(qk, v, order, first, last, seeds, layout, deduplicate, dropout)
    grad_qk, grad_v = empty_heads(qk), empty_heads(v)
    if out.numel():
        products = triton_launch.row_products(grad, out)
        zero_or_nan = (products * 0).sum(-1)  # (b, h): NaN if any product of the sequence is not finite, otherwise 0
        tensors = (
            *call.rows(), grad, *grad.stride(),
            grad_qk, *grad_qk.stride()[:3], _room_for_sums(grad_qk, call.rounds),
            grad_v, *grad_v.stride()[:3], _room_for_sums(grad_v, call.rounds),
            key_scale, totals, products, zero_or_nan, *call.places(), seeds,
        )  # fmt: skip
        call.each_round(triton_backward.attend_backward, tensors, backward=True)
    return grad_qk, grad_v


@_attention_backward.register_fake
def _(grad: Tensor, qk: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_heads(qk), empty_heads(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, ctx.layout, _, ctx.deduplicate, ctx.dropout = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


@first_derivatives_only
def _backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _attention_backward(grad, *saved, ctx.layout, ctx.deduplicate, ctx.dropout)
    return *gradients, *(None for _ in range(9))


_attention.register_autograd(_backward, setup_context=_setup_context)


def bucketed_attention(
    qk: Tensor,
    v: Tensor,
    visible: Sequence[Tensor],
    layout: Sequence[int],
    deduplicate: bool,
    dropout: float,
    dropout_seeds: Tensor,
    real: Tensor | None,
    causal: bool,
) -> Tensor:
    """:func:`my_transformers.lsh.bucketed.bucketed_attention`, for inputs that kernels.use_triton accepts."""
    order, first, last = (x.contiguous() for x in visible)
    real = None if real is None else real.contiguous()
    seeds = dropout_seeds.contiguous()
    return _attention(qk, v, order, first, last, seeds, real, list(layout), causal, deduplicate, dropout)[0]
