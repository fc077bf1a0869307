"""Attention within hash buckets in O(rounds * n * window * d), with a backward that stores no scores.

The entry point is :func:`bucketed_attention`. Its implementation:

    layout.py    sorted tokens in blocks: which queries are compared with which keys
    scores.py    scores of the blocks, the mask that is added to them, dropout as a hash
    forward.py   a softmax per round, merged over rounds
    backward.py  gradients from recomputed scores, and a figure of their memory layout
    triton_*.py  the same function in a few kernels, on a GPU

Forward and backward are two custom operators, so that torch.compile does not trace into them; this file registers the
second as the derivative of the first. docs/performance.md says what each optimisation saved. Read next: layout.py.
"""

from typing import Any

import torch
from torch import Tensor

from my_transformers.derivatives import first_derivatives_only
from my_transformers.kernels import use_triton
from my_transformers.lsh.backward import attend_backward
from my_transformers.lsh.forward import attend_forward
from my_transformers.lsh.layout import SMALLEST_NORM, BlockLayout, VisiblePlaces, at_least_float32


def bucketed_attention(
    qk: Tensor,
    v: Tensor,
    visible: VisiblePlaces,
    layout: BlockLayout,
    *,
    deduplicate: bool = True,
    dropout: float = 0.0,
    dropout_seeds: Tensor | None = None,
    real: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Shared query-key attention to the keys that are visible in any hash round.

    out_i = sum_j p_ij v_j over every key j that i sees in some round, with p_ij proportional to
    exp(q_i . q_j / (||q_j|| sqrt(d))) and, unless ``deduplicate``, to the number of rounds in which i sees j. The
    softmax runs over all rounds: with z_r the log-sum-exp of round r and o_r its output, out = sum_r exp(z_r - z) o_r
    with z = logsumexp_r z_r (Kitaev et al. 2020, equations 12 to 16). A token that sees no key returns its own value.

    Infinities and NaN propagate as in full attention: one in a real token's row makes the outputs of its whole sequence
    NaN (if causal, from its position on), even of tokens that do not see it. In a padded token's row it has no effect.

    Args:
        qk: (b, h, n, d) queries; the keys are the queries scaled to unit length.
        v: (b, h, n, e).
        visible: the places that each token sees, for L >= n tokens.
        layout: the blocks in which scores are computed; they must cover all of ``visible``.
        deduplicate: count a key once that is visible in several rounds (the paper's N_ij), instead of once per round.
        dropout: probability of dropping a pair's weight.
        dropout_seeds: (2, b, h, L) random int32, one per query and one per key; needed for dropout.
        real: (b, h, n), True where a token is real; None: all. Used for infinities and NaN only.
        causal: a token attends only to itself and earlier tokens. Used for infinities and NaN only: otherwise
            ``visible`` and ``layout`` decide.

    Returns:
        (b, h, n, e), a view of (b, n, h, e). Saved for backward: the arguments, the output and one number per token.
    """
    if dropout_seeds is None:
        dropout_seeds = visible.order.new_empty(0)
    if use_triton(qk, v, largest_dim=256):
        from my_transformers.lsh import (
            triton_attention as triton_form,
        )  # Triton may be missing, and takes time to import

        return triton_form.bucketed_attention(qk, v, visible, layout, deduplicate, dropout, dropout_seeds, real, causal)
    is_finite = _finite_rows(qk) & _finite_rows(v)
    # Rows that are not finite are replaced by finite ones, since 0 * NaN would reach rows that do not see them. The
    # outputs that must be NaN are overwritten at the end.
    has_nan = ~is_finite if real is None else ~is_finite & real
    is_nan = has_nan.cumsum(-1) > 0 if causal else has_nan.any(-1, keepdim=True).expand_as(is_finite)
    out, _ = attend_forward(qk, v, *visible, dropout_seeds, is_finite, is_nan, list(layout), deduplicate, dropout)
    return out


@torch.no_grad()
def _finite_rows(x: Tensor) -> Tensor:
    """(..., d) -> (...), False where the row has an infinity or NaN, which its sum then is too."""
    return x.sum(-1, dtype=at_least_float32(x)).isfinite()


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.layout, ctx.deduplicate, ctx.dropout = inputs  # drops ``is_nan``, which the output shows
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


@first_derivatives_only
def _backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_qk, grad_v = attend_backward(grad, *saved, ctx.layout, ctx.deduplicate, ctx.dropout)
    return grad_qk, grad_v, None, None, None, None, None, None, None, None, None


attend_forward.register_autograd(_backward, setup_context=_save_for_backward)


def unit(x: Tensor) -> Tensor:
    """Scale vectors to unit length, k_j = q_j / ||q_j|| (Kitaev et al. 2020, section 2), in float32 or better."""
    wide = x.to(at_least_float32(x))
    inverse_norm = wide.square().sum(-1, keepdim=True).clamp_min(SMALLEST_NORM**2).rsqrt()
    return (wide * inverse_norm).to(x.dtype)
