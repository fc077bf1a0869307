"""Attention to all keys with weights A_ij = phi(q_i) . phi(k_j), in time linear in the length.

Its definition is in my_transformers/reference.py: numerator and denominator, whose sums over keys are shared by all
queries. Features are exponentials that may overflow or underflow, so here the quotient is written as a softmax over
features. With the mass z_r = sum_j phi_r(k_j) and the mean value m_r = sum_j phi_r(k_j) v_j / z_r of each feature r,

    out_i = sum_r softmax_r(log phi_r(q_i) + log z_r) m_r

which needs only logarithms of features: it cannot overflow, and its weights cannot all vanish.

Features (n, f) are larger than all inputs together, so they are computed in pieces and not kept: first the summary
(z, m) of all keys, then one piece of queries after another. Backward recomputes them. Read next: causal.py.

Letters: b batch, h heads, n queries, m keys, d head_dim, e value size, f features.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from my_transformers.derivatives import first_derivatives_only, traced
from my_transformers.memory import Scratch, at_once, empty_heads
from my_transformers.performer.recompute import LogFeatures, hide_padding, with_graph, without_autocast

_FEATURES_IN_WORK, _FEATURES_ON_DEVICE = 2**20, 2**24  # features that exist at a time, on a CPU and elsewhere


def bidirectional_kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, log_phi_q: LogFeatures, log_phi_k: LogFeatures, *, mask: Tensor | None = None
) -> Tensor:
    """sum_j A_ij v_j / sum_j A_ij over all keys (Choromanski et al. 2021, equation 4), in O((n + m) f e).

    Saved for backward: q, k, v, the output, one sum per query and f (e + 2) numbers; features are recomputed.

    Args:
        q: (b, h, n, d).
        k: (b, h, m, d).
        v: (b, h, m, e), of the features' dtype.
        log_phi_q: feature map of queries; it may omit a factor common to all features of a query, which cancels.
        log_phi_k: feature map of keys.
        mask: (b, m), True where a key is real; in a sample without real keys all keys are visible.

    Returns:
        (b, h, n, e).
    """
    if traced():
        return mixture_of_means(log_phi_q(q), *masses_and_means(log_phi_k(k), v, mask))
    return _Bidirectional.apply(q, k, v, log_phi_q, log_phi_k, all_if_none(mask))


def masses_and_means(log_k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Summary of keys and values: the log mass log z_r and the mean value m_r of each feature r.

    Args:
        log_k: (b, h, m, f), the logarithms of the keys' features.
        v: (b, h, m, e), of the same dtype.
        mask: (b, m), True where a key is real; in a sample without real keys all keys are visible.

    Returns:
        (b, h, 1, f) and (b, h, f, e).
    """
    log_k = hide_padding(log_k, all_if_none(mask))
    largest = log_k.detach().amax(dim=-2, keepdim=True)
    features = (log_k - largest).exp()
    mass = features.sum(dim=-2, keepdim=True)
    return largest + mass.log(), (features.mT @ v) / mass.mT


def mixture_of_means(log_q: Tensor, log_mass: Tensor, means: Tensor) -> Tensor:
    """Attention to the keys summarised by :func:`masses_and_means`: log_q (b, h, n, f) -> (b, h, n, e)."""
    return (log_q + log_mass).softmax(dim=-1) @ means


def all_if_none(mask: Tensor | None) -> Tensor | None:
    """The mask (b, m), but True for all keys of a sample without real keys: a mean over no keys would be undefined."""
    return None if mask is None else mask | ~mask.any(dim=1, keepdim=True)


_Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, *tuple[Tensor, ...]]
"""q, k, v, the output, the log sum of each query's weights, the mask, and three tensors of each summary."""


class _Bidirectional(torch.autograd.Function):
    """:func:`bidirectional_kernel_attention` in pieces, as one autograd node that keeps no features."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_phi_q: LogFeatures,
        log_phi_k: LogFeatures,
        mask: Tensor | None,
    ) -> Tensor:
        n_features = log_phi_q(q[:1, :1, :1]).shape[-1]
        out = empty_heads(v[:, :, :1].expand(-1, -1, q.shape[2], -1))
        log_total = q.new_empty((*q.shape[:3], 1))  # log of the sum of each query's weights
        summaries, scratch = [], Scratch(q.device)
        for samples, n_tokens in _pieces(k, n_features):
            summary = _KeySummary.of(k[samples], v[samples], log_phi_k, _mask_of(mask, samples), n_tokens)
            means, log_mass = summary.means(), summary.log_mass()
            for tokens in _spans(q.shape[2], n_tokens):
                log_q = log_phi_q(q[samples][:, :, tokens])
                logits = torch.add(log_q, log_mass, out=scratch.like("weights", log_q))
                largest = logits.amax(dim=-1, keepdim=True)
                weights = _exp_(logits.sub_(largest))
                total = weights.sum(dim=-1, keepdim=True)
                out[samples][:, :, tokens] = (weights @ means).div_(total)
                log_total[samples][:, :, tokens] = largest + total.log()
            summaries += [summary.largest, summary.mass, summary.sums]
        ctx.save_for_backward(q, k, v, out, log_total, mask, *summaries)
        ctx.log_phi, ctx.n_features = (log_phi_q, log_phi_k), n_features
        return out

    @staticmethod
    @first_derivatives_only
    @without_autocast
    def backward(ctx: Any, saved: _Saved, grad: Tensor) -> Any:
        q, k, v, out, log_total, mask, *summaries = saved
        grad_q, grad_k, grad_v = (empty_heads(x) for x in (q, k, v))
        scratch, (log_phi_q, log_phi_k) = Scratch(q.device), ctx.log_phi
        for number, (samples, n_tokens) in enumerate(_pieces(k, ctx.n_features)):
            summary = _KeySummary(*summaries[3 * number : 3 * number + 3])
            queries = q[samples], out[samples], log_total[samples], grad[samples]
            grad_summary = _backward_of_queries(*queries, grad_q[samples], summary, log_phi_q, n_tokens, scratch)
            keys = k[samples], v[samples], _mask_of(mask, samples)
            into = grad_k[samples], grad_v[samples]
            _backward_of_keys(*keys, *into, summary, grad_summary, log_phi_k, n_tokens, scratch)
        return grad_q, grad_k, grad_v, None, None, None


def _backward_of_queries(
    q: Tensor,
    out: Tensor,
    log_total: Tensor,
    grad: Tensor,
    grad_q: Tensor,
    summary: "_KeySummary",
    log_phi: LogFeatures,
    n_tokens: int,
    scratch: Scratch,
) -> tuple[Tensor, Tensor]:
    """Write grad_q; return the gradients of the summary's means (b, h, f, e) and log mass (b, h, 1, f)."""
    means, log_mass = summary.means(), summary.log_mass()
    grad_means, grad_log_mass = torch.zeros_like(means), torch.zeros_like(log_mass)
    for tokens in _spans(q.shape[2], n_tokens):
        own_grad, own_out, own_total = (x[:, :, tokens] for x in (grad, out, log_total))
        queries, log_q = with_graph(log_phi, q[:, :, tokens])
        weights = torch.add(log_q.detach(), log_mass, out=scratch.like("weights", log_q))
        _exp_(weights.sub_(own_total))
        grad_logits = torch.matmul(own_grad, means.mT, out=scratch.like("gradients", log_q))
        grad_logits.sub_((own_grad * own_out).sum(-1, keepdim=True)).mul_(weights)  # derivative of softmax
        grad_means += weights.mT @ own_grad
        grad_log_mass += grad_logits.sum(dim=-2, keepdim=True)
        grad_q[:, :, tokens] = torch.autograd.grad(log_q, queries, grad_logits)[0]
    return grad_means, grad_log_mass


def _backward_of_keys(
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    grad_k: Tensor,
    grad_v: Tensor,
    summary: "_KeySummary",
    grad_summary: tuple[Tensor, Tensor],
    log_phi: LogFeatures,
    n_tokens: int,
    scratch: Scratch,
) -> None:
    """Write grad_k and grad_v, given the gradients of the summary's means and log mass.

    Let W_jr = phi_r(k_j) / z_r be the share of key j in feature r, so m_r = sum_j W_jr v_j. The derivatives with
    respect to log phi_r(k_j) are W_jr for log z_r, and W_jr (v_j - m_r) for m_r.
    """
    grad_means, grad_log_mass = grad_summary
    constant = (grad_log_mass - (grad_means * summary.means()).sum(-1).unsqueeze(-2)) / summary.mass
    grad_means /= summary.mass.mT
    for tokens in _spans(k.shape[2], n_tokens):
        keys, log_k = with_graph(log_phi, k[:, :, tokens])
        with torch.enable_grad():
            log_k = hide_padding(log_k, None if mask is None else mask[:, tokens])
        features = torch.sub(log_k.detach(), summary.largest, out=scratch.like("weights", log_k))
        _exp_(features)
        grad_log_k = torch.matmul(v[:, :, tokens], grad_means.mT, out=scratch.like("gradients", log_k))
        grad_log_k.add_(constant).mul_(features)
        grad_k[:, :, tokens] = torch.autograd.grad(log_k, keys, grad_log_k)[0]
        grad_v[:, :, tokens] = features @ grad_means


@dataclass
class _KeySummary:
    """Sums over the keys and values of some samples, for each feature."""

    largest: Tensor  # (b, h, 1, f), the largest log feature of any key
    mass: Tensor  # (b, h, 1, f), sum_j phi(k_j) / exp(largest)
    sums: Tensor  # (b, h, f, e), sum_j phi(k_j) v_j^T / exp(largest)

    @classmethod
    def of(cls, k: Tensor, v: Tensor, log_phi: LogFeatures, mask: Tensor | None, n_tokens: int) -> "_KeySummary":
        """Sum in pieces of n_tokens; when a larger feature appears, the sums so far are rescaled to it."""
        so_far: _KeySummary | None = None
        for tokens in _spans(k.shape[2], n_tokens):
            log_k = hide_padding(log_phi(k[:, :, tokens]), None if mask is None else mask[:, tokens])
            largest = log_k.amax(dim=-2, keepdim=True)
            if so_far is not None:
                largest = torch.maximum(so_far.largest, largest)
            features = _exp_(log_k - largest)
            summary = cls(largest, features.sum(dim=-2, keepdim=True), features.mT @ v[:, :, tokens])
            if so_far is not None:
                scale = (so_far.largest - largest).exp()
                summary.mass += so_far.mass * scale
                summary.sums += so_far.sums * scale.mT
            so_far = summary
        assert so_far is not None  # there is at least one key
        return so_far

    def means(self) -> Tensor:
        """(b, h, f, e)."""
        return self.sums / self.mass.mT

    def log_mass(self) -> Tensor:
        """(b, h, 1, f)."""
        return self.largest + self.mass.log()


def _pieces(k: Tensor, n_features: int) -> Iterator[tuple[slice, int]]:
    """Samples that are processed together, and the number of their tokens at a time."""
    batch, heads, n = k.shape[:3]
    in_work = at_once(k.device, _FEATURES_IN_WORK, _FEATURES_ON_DEVICE) // (heads * n_features)
    n_samples, n_tokens = max(1, in_work // n), max(1, min(n, in_work))
    for first in range(0, batch, n_samples):
        yield slice(first, first + n_samples), n_tokens


def _spans(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of ``size`` tokens that cover n tokens."""
    return (slice(first, first + size) for first in range(0, n, size))


def _mask_of(mask: Tensor | None, samples: slice) -> Tensor | None:
    return None if mask is None else mask[samples]


def _exp_(x: Tensor) -> Tensor:
    """e^x in place, computed as 2^(x log2 e), which is several times as fast on a CPU."""
    return x.mul_(math.log2(math.e)).exp2_()
