"""One call for every mechanism on queries, keys and values in the layout of other libraries.

They differ from ours in three ways: with a cache there are fewer queries than keys, prompts are padded on the left, and
the scale of the scores is given.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.full import FullAttention
from my_transformers.local import LocalAttention
from my_transformers.mechanism import Mechanism
from my_transformers.performer.base import KernelAttention


def attend(
    mechanism: Mechanism, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend from q (b, h, n, d) to k (b, h, m, d) and v (b, h, m, e) -> (b, h, n, e).

    A causal mechanism takes the queries as the last n of m tokens. A single query sees all keys, so full attention,
    Performers and linear attention run in their bidirectional form, in O(m); local attention reads only the chunks that
    the queries see, unless there is a mask. Everything else computes all m rows and keeps the last n.

    Where the order of the tokens matters to a mechanism, real tokens are moved to the front of padded ones, so that
    padding on the left changes nothing.

    Args:
        mechanism: with separate queries and keys.
        q: queries.
        k: keys.
        v: values.
        mask: (b, m), True where a key is real.
        scale: factor of the scores q . k; None: 1 / sqrt(d), which the mechanisms use.
    """
    n, m = q.shape[2], k.shape[2]
    if scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)
    order_matters = not isinstance(mechanism, FullAttention | KernelAttention)
    if mechanism.causal and n < m:
        if n == 1 and not order_matters:
            return _bidirectional(mechanism)(q, k, v, mask=mask)
        if isinstance(mechanism, LocalAttention) and mask is None:
            first = max(0, (m - n) // mechanism.chunk_size - mechanism.back) * mechanism.chunk_size
            k, v = k[:, :, first:], v[:, :, first:]
        q = F.pad(q, (0, 0, k.shape[2] - n, 0))
    if mask is None or not order_matters:
        return mechanism(q, k, v, mask=mask)[:, :, -n:]
    return _real_tokens_first(mechanism, q, k, v, mask)[:, :, -n:]


def _bidirectional(mechanism: Mechanism) -> Mechanism:
    """The same mechanism without the causal rule; it shares parameters and buffers."""
    twin = copy.copy(mechanism)
    twin.causal = False
    return twin


def _real_tokens_first(mechanism: Mechanism, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    order = torch.argsort(~mask, dim=1, stable=True)
    k, v = _in_order(k, order), _in_order(v, order)
    mask = mask.gather(1, order)
    if mechanism.cross:  # its queries have no place among the keys
        return mechanism(q, k, v, mask=mask)
    return _in_order(mechanism(_in_order(q, order), k, v, mask=mask), order.argsort(dim=1))


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    """Row order[b, i] of x (b, h, n, ·) as row i."""
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
