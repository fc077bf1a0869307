"""Attention inside hash buckets in O(rounds * n * window), with a backward that keeps no scores.

The one function to call is :func:`bucketed_attention`. How it is computed:

    layout.py    sorted tokens in blocks: which queries are compared with which keys
    scores.py    the blocks' scores, the mask that is added to them, dropout as a hash
    forward.py   a softmax per round, merged over rounds
    backward.py  gradients from scores that are computed again, and a figure of the memory they lie in
    triton_*.py  the same function in a few kernels, on a GPU

Forward and backward are two operators, which torch.compile takes as wholes; here one is made the other's derivative.
docs/performance.md says what each trick saved. Read next: layout.py.
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
    """Shared query-key attention among the tokens that hash rounds show each other.

    out_i = sum_j p_ij v_j over every key j that i sees in some round, p_ij proportional to
    exp(q_i . q_j / (||q_j|| sqrt(d))), times the number of rounds that show j to i unless ``deduplicate``. The softmax
    runs over all rounds: with z_r the log-sum-exp of round r and o_r its output, out = sum_r exp(z_r - z) o_r with
    z = logsumexp_r z_r (Kitaev et al. 2020, equations 12 to 16). A token that sees nothing returns its own value.

    An infinity or NaN in a real token's row makes NaN of the outputs that full attention would make NaN: those of its
    sequence, if causal from its position on. In a padded token's row it changes nothing.

    Args:
        qk: (b, h, n, d) queries; the keys are their unit vectors.
        v: (b, h, n, e).
        visible: which tokens each token sees, for L >= n tokens.
        layout: the blocks in which it is computed; they must hold what ``visible`` says.
        deduplicate: count a key that several rounds show once (the paper's N_ij) instead of once per round.
        dropout: probability of dropping a pair's weight.
        dropout_seeds: (2, b, h, L) random int32, one per query and one per key; needed for dropout.
        real: (b, h, n), True where a token is real; None: all. Only used for infinities and NaN.
        causal: a token attends only to itself and earlier tokens. Only used for infinities and NaN.

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
    gives_nan = ~is_finite if real is None else ~is_finite & real
    gives_nan = gives_nan.cumsum(-1) > 0 if causal else gives_nan.any(-1, keepdim=True).expand_as(is_finite)
    out, _ = attend_forward(qk, v, *visible, dropout_seeds, is_finite, gives_nan, list(layout), deduplicate, dropout)
    return out


@torch.no_grad()
def _finite_rows(x: Tensor) -> Tensor:
    """(..., d) -> (...), False where a number is infinite or NaN: then so is the sum."""
    return x.sum(-1, dtype=at_least_float32(x)).isfinite()


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.layout, ctx.deduplicate, ctx.dropout = inputs  # without ``gives_nan``: the output shows it
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


@first_derivatives_only
def _backward(ctx: Any, saved: tuple[Tensor, ...], grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad_qk, grad_v = attend_backward(grad, *saved, ctx.layout, ctx.deduplicate, ctx.dropout)
    return grad_qk, grad_v, None, None, None, None, None, None, None, None, None


attend_forward.register_autograd(_backward, setup_context=_save_for_backward)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one, k_j = q_j / ||q_j|| (Kitaev et al. 2020, section 2); computed in float32 or better."""
    wide = x.to(at_least_float32(x))
    inverse_norm = wide.square().sum(-1, keepdim=True).clamp_min(SMALLEST_NORM**2).rsqrt()
    return (wide * inverse_norm).to(x.dtype)
