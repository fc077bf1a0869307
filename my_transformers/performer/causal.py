"""Causal attention with weights A_ij = phi(q_i) . phi(k_j), in time linear in the length, by prefix sums.

Its definition is in my_transformers/reference.py. Query i needs the sums over j <= i of phi(k_j) v_j^T and phi(k_j).
They are carried from chunk to chunk (:class:`PrefixSum`); inside a chunk, weights are computed pair by pair
(:class:`_Chunk`). Decoding does the same with the new tokens as a chunk: FeatureCache in base.py.

Features are exponentials and could overflow, so they are divided by the largest feature of any key *so far*, a running
maximum. A maximum over all keys would not do: a large later key would make earlier features underflow, and so change
earlier outputs. Therefore each query has its own scale, and :class:`_Chunk` keeps the factors between these scales.

Backward goes from the last chunk to the first, and recomputes the features.

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

    O(n (chunk_size + f) (f + e)) time. Saved for backward: q, k, v, the output and the prefix sum at the start of each
    chunk, n / chunk_size times f (e + 1) + 1 numbers. If all weights of a query underflow next to a key that is much
    larger in other features, the query sees itself.

    Args:
        q: (b, h, n, d).
        k: (b, h, n, d).
        v: (b, h, n, e), of the features' dtype.
        log_phi_q: feature map of queries; it may omit a factor common to all features of a query, which cancels.
        log_phi_k: feature map of keys.
        mask: (b, n), True where a key is real.
        chunk_size: tokens per chunk.

    Returns:
        (b, h, n, e).
    """
    if traced():
        return _chunk_by_chunk(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)[0]
    return _Causal.apply(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)


class PrefixSum(NamedTuple):
    """Sums over all tokens so far: sum_j phi(k_j) [v_j, 1]^T = sums * exp(largest)."""

    sums: Tensor  # (b, h, f, e + 1)
    largest: Tensor  # (b, h, 1), the largest log feature so far

    @classmethod
    def empty(cls, like: Tensor, n_features: int) -> "PrefixSum":
        """The sum over no tokens; ``like`` is v (b, h, any, e)."""
        sums = like.new_zeros(*like.shape[:2], n_features, like.shape[-1] + 1)
        return cls(sums, like.new_full((*like.shape[:2], 1), torch.finfo(like.dtype).min))

    def attend(self, log_q: Tensor, log_k: Tensor, v: Tensor) -> tuple[Tensor, "PrefixSum"]:
        """Attend with a chunk of queries, keys and values, (b, h, c, ·) each, and add them to the prefix sum.

        Returns:
            For each query the sum of weighted values and, as last column, the sum of weights, (b, h, c, e + 1); and
            the prefix sum at the end of the chunk.
        """
        chunk = _Chunk.of(log_q, log_k, v, self.largest)
        seen = chunk.weights @ chunk.values + chunk.from_start * (chunk.q @ self.sums)
        sums = self.sums * chunk.start_to_end + chunk.k.mT @ (chunk.values * chunk.to_end)
        return seen, PrefixSum(sums, chunk.largest)


def divide_by_weights(sums: Tensor, itself: Tensor) -> Tensor:
    """Sums of weighted values and of weights (..., e + 1) -> means (..., e); ``itself`` where all weights underflow."""
    total = sums[..., -1:]
    nonzero = _is_nonzero(total)
    return torch.where(nonzero, sums[..., :-1] / torch.where(nonzero, total, 1), itself)


def _is_nonzero(total: Tensor) -> Tensor:
    """Whether a sum of weights has not underflowed. True for NaN, so that NaN reaches the output and is not hidden."""
    return ~(total <= torch.finfo(total.dtype).tiny)


@dataclass
class _Chunk:
    """One chunk's features and weights, with the factors between their scales.

    The size of a key is its largest log feature, so exp(log feature - size) is at most 1. Sums are relative to the
    running maximum of sizes: R_i up to query i, R_start before the chunk, R_end up to its end. Every factor below is
    the exponential of a difference that is at most 0, so nothing overflows.
    """

    q: Tensor  # (b, h, c, f), features of each query relative to their largest
    k: Tensor  # (b, h, c, f), features of each key relative to its size
    values: Tensor  # (b, h, c, e + 1), the last column of ones adds up the weights
    relative: Tensor  # (b, h, c, c), exp(size_j - R_i), 0 where j > i
    weights: Tensor  # (b, h, c, c), A_ij inside the chunk, relative to R_i
    from_start: Tensor  # (b, h, c, 1), exp(R_start - R_i): factor of the sum at the start for query i
    to_end: Tensor  # (b, h, c, 1), exp(size_j - R_end): factor of key j in the sum at the end
    start_to_end: Tensor  # (b, h, 1, 1), exp(R_start - R_end): factor of the sum at the start in the sum at the end
    largest: Tensor  # (b, h, 1), R_end

    @classmethod
    def of(cls, log_q: Tensor, log_k: Tensor, v: Tensor, largest: Tensor) -> "_Chunk":
        """From log features, and the largest size before the chunk, R_start."""
        size = log_k.detach().amax(dim=-1)
        running = torch.cat((largest, size), dim=-1).cummax(dim=-1).values[..., 1:]
        later = torch.ones(size.shape[-1], size.shape[-1], dtype=torch.bool, device=v.device).triu(1)
        relative = (size.unsqueeze(-2) - running.unsqueeze(-1)).masked_fill_(later, -torch.inf).exp_()
        q = (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp()
        k = (log_k - size.unsqueeze(-1)).exp()
        end = running[..., -1:].clone()  # saved for backward; a view would keep all of ``running``
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
    """The output, and the prefix sum at the start of each chunk."""
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
    """:func:`causal_kernel_attention` as one autograd node that keeps no features."""

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
        grad_end = None  # gradient of the prefix sum at the chunk's end; that of the last chunk is not used
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
    nonzero = _is_nonzero(total)
    scaled = torch.where(nonzero, grad / torch.where(nonzero, total, 1), 0)
    # grad_seen is the gradient of the first result of PrefixSum.attend, grad_products that of q_i . k_j
    grad_seen = torch.cat((scaled, -(scaled * out).sum(-1, keepdim=True)), dim=-1)
    grad_products = (grad_seen @ chunk.values.mT).mul_(chunk.relative)
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
    grad_v = torch.where(nonzero, grad_values[..., :-1], grad_values[..., :-1] + grad)
    return grad_q.mul_(chunk.q), grad_k.mul_(chunk.k), grad_v, grad_start  # d exp(x) / dx = exp(x)
