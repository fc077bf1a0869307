"""Choosing a token from logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from my_custom_ai.custom_train.errors import NonFinite

Choice = Callable[[Tensor, int], Tensor]
"""(logits (b, vocab), number of the new token, from 0) -> tokens (b,) int64."""


def check_logits(logits: Tensor) -> None:
    """The host waits for the device once.

    Raises:
        NonFinite: a row (..., vocab) has nan or +inf, or nothing but -inf, so that it is no distribution.
    """
    if not logits.amax(-1).isfinite().all():
        raise NonFinite.given_by_model("logits")


def most_probable(logits: Tensor, number: int) -> Tensor:
    """Greedy decoding; raises NonFinite as :func:`sample` does."""
    check_logits(logits)
    return logits.argmax(-1)


def sample(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Draw from softmax(logits / temperature), cut to its most probable tokens, by inverting the distribution function.

    The random numbers come from outside, so a sequence does not depend on which others share its batch.

    Args:
        logits: (b, vocab).
        uniform: (b,), in [0, 1).
        temperature: below 1 sharpens, above 1 flattens.
        top_k: keep so many tokens; None keeps all.
        top_p: of these, keep the smallest set whose probability is at least this (Holtzman et al. 2020, equation 2).

    Returns:
        (b,) int64.

    Raises:
        NonFinite: see :func:`check_logits`.
    """
    check_logits(logits)
    behind = logits.double() - logits.double().amax(-1, keepdim=True)  # 0 at most: no temperature makes it overflow
    ordered, tokens = (behind / temperature).sort(dim=-1, descending=True, stable=True)
    ordered[:, ordered.shape[-1] if top_k is None else top_k :] = -torch.inf
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    kept = probability.masked_fill(before >= top_p, 0)
    reached = kept.cumsum(-1)
    place = (reached <= uniform.double().unsqueeze(-1) * reached[:, -1:]).sum(-1, keepdim=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding must not lead past the kept ones
    return tokens.gather(-1, place.minimum(last)).squeeze(-1)


def sampler(uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Choice:
    """A choice that draws token i of sequence b with uniform[b, i]; see :func:`sample`.

    Args:
        uniform: (b, length), in [0, 1).
        temperature: see :func:`sample`, as the rest.
        top_k: see there.
        top_p: see there.
    """

    def choose(logits: Tensor, number: int) -> Tensor:
        return sample(logits, uniform[:, number], temperature=temperature, top_k=top_k, top_p=top_p)

    return choose
