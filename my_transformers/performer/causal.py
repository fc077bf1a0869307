"""Attention to earlier keys with weights A_ij = phi(q_i) . phi(k_j), in time linear in the length: prefix sums.

Its definition is in my_transformers/reference.py. Query i needs the sums over j <= i of phi(k_j) v_j^T and phi(k_j):
they are carried from chunk to chunk (:class:`PrefixSum`), and inside a chunk weights are computed pair by pair
(:class:`_Chunk`). Decoding is the same with chunks of one token: PerformerCache in attention.py.

Features are divided by the largest of any key *so far*, a running maximum: no sum overflows, and no later key, however
large, changes an earlier output. Hence :class:`_Chunk`'s many scales.

Backward walks from the last chunk to the first, with the features computed again.

Letters: b batch, h heads, n length, d head_dim, e value size, f features, c tokens per chunk.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from my_transformers.derivatives import first_derivatives_only, traced
from my_transformers.performer.recompute import LogFeatures, hide_padding, with_graph, without_autocast


def causal_kernel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_phi_q: LogFeatures,
    log_phi_k: LogFeatures,
    *,
    mask: Tensor | None = None,
    chunk_size: int = 128,
) -> Tensor:
    """sum_j A_ij v_j / sum_j A_ij over j <= i (Choromanski et al. 2021, section 2.5 and appendix).

    O(n (chunk_size + f) (f + e)) time. Kept for backward: q, k, v, the output and the prefix sum at the start of each
    chunk, n / chunk_size times f (e + 1) + 1 numbers. Where all weights of a query vanish beside a larger key of other
    features, the query sees itself.

    Args:
        q: (b, h, n, d).
        k: (b, h, n, d).
        v: (b, h, n, e), of the features' dtype.
        log_phi_q: the features of queries; a factor that all features of a query share may be left out.
        log_phi_k: the features of keys.
        mask: (b, n), True where a key is real.
        chunk_size: tokens per chunk.

    Returns:
        (b, h, n, e).
    """
    if traced():
        return _chunk_by_chunk(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)[0]
    return _Causal.apply(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)


class PrefixSum(NamedTuple):
    """What all tokens so far add up to: sum_j phi(k_j) [v_j, 1]^T = sums * exp(largest)."""

    sums: Tensor  # (b, h, f, e + 1)
    largest: Tensor  # (b, h, 1), the largest log feature so far

    @classmethod
    def empty(cls, like: Tensor, n_features: int) -> "PrefixSum":
        """No token yet; ``like`` is v (b, h, any, e)."""
        sums = like.new_zeros(*like.shape[:2], n_features, like.shape[-1] + 1)
        return cls(sums, like.new_full((*like.shape[:2], 1), torch.finfo(like.dtype).min))

    def attend(self, log_q: Tensor, log_k: Tensor, v: Tensor) -> tuple[Tensor, "PrefixSum"]:
        """Attend with a chunk of queries, keys and values, (b, h, c, ·) each, and add them.

        Returns:
            Weighted values and, as last column, their weights, summed: (b, h, c, e + 1); the prefix sum at the end.
        """
        chunk = _Chunk.of(log_q, log_k, v, self.largest)
        seen = chunk.weights @ chunk.values + chunk.from_start * (chunk.q @ self.sums)
        sums = self.sums * chunk.start_to_end + chunk.k.mT @ (chunk.values * chunk.to_end)
        return seen, PrefixSum(sums, chunk.largest)


def divide_by_weights(sums: Tensor, itself: Tensor) -> Tensor:
    """Sums of weighted values and of weights (..., e + 1) -> means (..., e); ``itself`` where the weights vanish."""
    total = sums[..., -1:]
    there = _is_there(total)
    return torch.where(there, sums[..., :-1] / torch.where(there, total, 1), itself)


def _is_there(total: Tensor) -> Tensor:
    """Whether a sum of weights has not vanished; NaN has not, or a number that is not finite would be hidden."""
    return ~(total <= torch.finfo(total.dtype).tiny)


@dataclass
class _Chunk:
    """One chunk's features and weights.

    The size of a key is the largest of its features; exp(log feature - size) is at most 1. Sizes come in as factors,
    each the exponential of something negative: relative to the largest size up to query i, or up to the chunk's end.
    """

    q: Tensor  # (b, h, c, f), features of each query relative to their largest
    k: Tensor  # (b, h, c, f), features of each key relative to its size
    values: Tensor  # (b, h, c, e + 1), the last column of ones adds up the weights
    relative: Tensor  # (b, h, c, c), exp(size of key j - largest size up to query i), 0 where j > i
    weights: Tensor  # (b, h, c, c), A_ij inside the chunk
    from_start: Tensor  # (b, h, c, 1), factor of the sum at the start, as query i sees it
    to_end: Tensor  # (b, h, c, 1), factor of key j in the sum at the end
    start_to_end: Tensor  # (b, h, 1, 1), factor of the sum at the start in the sum at the end
    largest: Tensor  # (b, h, 1), the largest size up to the end

    @classmethod
    def of(cls, log_q: Tensor, log_k: Tensor, v: Tensor, largest: Tensor) -> "_Chunk":
        """From log features and the largest size before the chunk."""
        size = log_k.detach().amax(dim=-1)
        running = torch.cat((largest, size), dim=-1).cummax(dim=-1).values[..., 1:]
        later = torch.ones(size.shape[-1], size.shape[-1], dtype=torch.bool, device=v.device).triu(1)
        relative = (size.unsqueeze(-2) - running.unsqueeze(-1)).masked_fill_(later, -torch.inf).exp_()
        q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp()
        k = (log_k - size.unsqueeze(-1)).exp()
        end = running[..., -1:].clone()  # kept for backward, without the rest
        return cls(
            q,
            k,
            values=torch.cat((v, torch.ones_like(v[..., :1])), dim=-1),
            relative=relative,
            weights=(q @ k.mT) * relative,
            from_start=(largest - running).exp().unsqueeze(-1),
            to_end=(size - end).exp().unsqueeze(-1),
            start_to_end=(largest - end).exp().unsqueeze(-1),
            largest=end,
        )


def _chunk_by_chunk(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_phi_q: LogFeatures,
    log_phi_k: LogFeatures,
    mask: Tensor | None,
    size: int,
) -> tuple[Tensor, list[PrefixSum]]:
    """The output, and the sum at the start of each chunk."""
    outs, starts, start = [], [], None
    for i, values in enumerate(v.split(size, dim=2)):
        log_q, log_k = log_phi_q(_chunk_of(q, i, size)), log_phi_k(_chunk_of(k, i, size))
        log_k = hide_padding(log_k, _chunk_of_mask(mask, i, size))
        start = start or PrefixSum.empty(v, log_k.shape[-1])
        starts.append(start)
        seen, start = start.attend(log_q, log_k, values)
        outs.append(divide_by_weights(seen, values))
    return torch.cat(outs, dim=2), starts


def _chunk_of(x: Tensor, i: int, size: int) -> Tensor:
    return x[:, :, i * size : (i + 1) * size]


def _chunk_of_mask(mask: Tensor | None, i: int, size: int) -> Tensor | None:
    return None if mask is None else mask[:, i * size : (i + 1) * size]


_Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, *tuple[Tensor, ...]]
"""q, k, v, the output, the mask, and two tensors of the prefix sum at each chunk's start."""


class _Causal(torch.autograd.Function):
    """All chunks as one node of the graph that keeps no features."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_phi_q: LogFeatures,
        log_phi_k: LogFeatures,
        mask: Tensor | None,
        size: int,
    ) -> Tensor:
        out, starts = _chunk_by_chunk(q, k, v, log_phi_q, log_phi_k, mask, size)
        ctx.save_for_backward(q, k, v, out, mask, *(s for start in starts for s in (start.sums, start.largest)))
        ctx.log_phi, ctx.size = (log_phi_q, log_phi_k), size
        return out

    @staticmethod
    @first_derivatives_only
    @without_autocast
    def backward(ctx: Any, saved: _Saved, grad: Tensor) -> Any:
        q, k, v, out, mask, *starts = saved
        size, (log_phi_q, log_phi_k) = ctx.size, ctx.log_phi
        grads_q, grads_k, grads_v = [], [], []
        grad_end = None  # of the prefix sum at the chunk's end; nothing follows the last
        for i in reversed(range(len(starts) // 2)):
            sums, largest = starts[2 * i : 2 * i + 2]
            queries, log_q = with_graph(log_phi_q, _chunk_of(q, i, size))
            keys, log_k = with_graph(log_phi_k, _chunk_of(k, i, size))
            with torch.enable_grad():
                log_k = hide_padding(log_k, _chunk_of_mask(mask, i, size))
            chunk = _Chunk.of(log_q.detach(), log_k.detach(), _chunk_of(v, i, size), largest)
            grad_log_q, grad_log_k, grad_v, grad_end = _backward_of_chunk(
                chunk, sums, grad_end, _chunk_of(out, i, size), _chunk_of(grad, i, size)
            )
            grad_q, grad_k = torch.autograd.grad([log_q, log_k], [queries, keys], [grad_log_q, grad_log_k])
            grads_q.append(grad_q)
            grads_k.append(grad_k)
            grads_v.append(grad_v)
        return *(torch.cat(grads[::-1], dim=2) for grads in (grads_q, grads_k, grads_v)), None, None, None, None


def _backward_of_chunk(
    chunk: _Chunk, sums: Tensor, grad_end: Tensor | None, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of log q, log k, v and the sums at the start, given those of the output and the sums at the end."""
    total = chunk.weights.sum(-1, keepdim=True) + chunk.from_start * (chunk.q @ sums[..., -1:])
    there = _is_there(total)
    scaled = torch.where(there, grad / torch.where(there, total, 1), 0)
    grad_seen = torch.cat((scaled, -(scaled * out).sum(-1, keepdim=True)), dim=-1)  # of PrefixSum.attend's first result
    grad_products = (grad_seen @ chunk.values.mT).mul_(chunk.relative)  # of q_i . k_j
    grad_seen_of_start = grad_seen * chunk.from_start
    grad_q = grad_products @ chunk.k
    grad_q += grad_seen_of_start @ sums.mT
    grad_k = grad_products.mT @ chunk.q
    grad_values = chunk.weights.mT @ grad_seen
    grad_start = chunk.q.mT @ grad_seen_of_start
    if grad_end is not None:
        grad_k += (chunk.values * chunk.to_end) @ grad_end.mT
        grad_values += (chunk.k @ grad_end) * chunk.to_end
        grad_start += grad_end * chunk.start_to_end
    grad_v = torch.where(there, grad_values[..., :-1], grad_values[..., :-1] + grad)
    return grad_q.mul_(chunk.q), grad_k.mul_(chunk.k), grad_v, grad_start  # d exp(x) / dx = exp(x)
