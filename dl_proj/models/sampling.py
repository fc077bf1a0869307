"""Choose tokens from logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from my_custom_ai.custom_train.errors import NonFinite

Choice = Callable[[Tensor, int], Tensor]
"""(logits (b, vocab), index of the new token, from 0) -> tokens (b,) int64."""


def check_logits(logits: Tensor) -> None:
    """Check that each row of (..., vocab) defines a distribution; synchronises with the device once.

    Raises:
        NonFinite: a row has nan or +inf, or only -inf.
    """
    if not logits.amax(-1).isfinite().all():
        raise NonFinite.given_by_model("logits")


def most_probable(logits: Tensor, number: int) -> Tensor:
    """Choose the most probable token; raises NonFinite like :func:`sample`."""
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
    """Sample from softmax(logits / temperature), restricted to the most probable tokens, by inverse transform sampling.

    The random numbers are an argument, so that a sequence does not depend on the other ones in its batch.

    Args:
        logits: (b, vocab).
        uniform: (b,), in [0, 1).
        temperature: below 1 sharpens, above 1 flattens.
        top_k: keep only the k most probable tokens; None keeps all.
        top_p: of these, keep the smallest set with at least this probability (Holtzman et al. 2020, equation 2).

    Returns:
        (b,) int64.

    Raises:
        NonFinite: see :func:`check_logits`.
    """
    check_logits(logits)
    shifted = logits.double() - logits.double().amax(-1, keepdim=True)  # at most 0: cannot overflow at any temperature
    ordered, tokens = (shifted / temperature).sort(dim=-1, descending=True, stable=True)
    ordered[:, ordered.shape[-1] if top_k is None else top_k :] = -torch.inf
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    kept = probability.masked_fill(before >= top_p, 0)
    cumulative = kept.cumsum(-1)
    place = (cumulative <= uniform.double().unsqueeze(-1) * cumulative[:, -1:]).sum(-1, keepdim=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding must not lead beyond the kept tokens
    return tokens.gather(-1, place.minimum(last)).squeeze(-1)


def sampler(uniform: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Choice:
    """Return a choice that samples token i of sequence b with uniform[b, i]; see :func:`sample`.

    Args:
        uniform: (b, length), in [0, 1).
        temperature: see :func:`sample`, as for the rest.
        top_k: see there.
        top_p: see there.
    """

    def choose(logits: Tensor, number: int) -> Tensor:
        return sample(logits, uniform[:, number], temperature=temperature, top_k=top_k, top_p=top_p)

    return choose
