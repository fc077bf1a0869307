"""Attention whose weights are products of features, A_ij = phi(q_i) . phi(k_j), in time linear in the length.

Both forms take log phi (see random_features.py) and divide out whatever scale the features have.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from my_transformers.derivatives import first_derivatives_only
from my_transformers.memory import Scratch, at_once, empty_heads

_FEATURES_IN_WORK, _FEATURES_ON_DEVICE = 2**20, 2**24  # that exist at one time, on a CPU and elsewhere

LogFeatures = Callable[[Tensor], Tensor]
"""(..., d) -> (..., f), the logarithm of the features."""


def bidirectional_kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, log_phi_q: LogFeatures, log_phi_k: LogFeatures, *, mask: Tensor | None = None
) -> Tensor:
    """sum_j A_ij v_j / sum_j A_ij over all keys (Choromanski et al. 2021, equation 4), in O((n + m) f e).

    Kept for backward: q, k, v, the output, a sum for each query and f (e + 2) numbers; features are computed again.

    Written so that it cannot overflow or vanish: each feature r has its mean of the values, weighed by
    softmax_j(log phi_r(k_j)), and a query mixes these means with weights softmax_r(log phi_r(q_i) + log z_r), where
    z_r = sum_j phi_r(k_j).

    Args:
        q: (b, h, n, d).
        k: (b, h, m, d).
        v: (b, h, m, e), of the features' dtype.
        log_phi_q: the features of queries, but for a factor of each query, which is divided out.
        log_phi_k: the features of keys.
        mask: (b, m), True where a key is real; a sample without any sees all.

    Returns:
        (b, h, n, e).
    """
    if torch.compiler.is_compiling():  # whose own partitioner chooses what to keep and what to compute again
        return _at_once(q, k, v, log_phi_q, log_phi_k, mask)
    return _Bidirectional.apply(q, k, v, log_phi_q, log_phi_k, _all_if_none(mask))


def _at_once(
    q: Tensor, k: Tensor, v: Tensor, log_phi_q: LogFeatures, log_phi_k: LogFeatures, mask: Tensor | None
) -> Tensor:
    return mixture_of_means(log_phi_q(q), *masses_and_means(log_phi_k(k), v, mask))


def masses_and_means(log_k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All that queries need of keys and values, for each feature: log sum_j phi_r(k_j), and its mean of the values.

    Args:
        log_k: (b, h, m, f), the logarithms of the keys' features.
        v: (b, h, m, e), of their dtype.
        mask: (b, m), True where a key is real; a sample without any sees all.

    Returns:
        (b, h, 1, f) and (b, h, f, e).
    """
    log_k = _masked(log_k, _all_if_none(mask))
    largest = log_k.detach().amax(dim=-2, keepdim=True)
    features = (log_k - largest).exp()
    mass = features.sum(dim=-2, keepdim=True)
    return largest + mass.log(), (features.mT @ v) / mass.mT


def mixture_of_means(log_q: Tensor, log_mass: Tensor, means: Tensor) -> Tensor:
    """Attention with what :func:`masses_and_means` gave: log_q (b, h, n, f) -> (b, h, n, e)."""
    return (log_q + log_mass).softmax(dim=-1) @ means


def _without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Features are computed again as forward computed them, also where backward runs under autocast (a replay does)."""

    @functools.wraps(backward)
    def exactly(ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor) -> Any:
        with torch.autocast(grad.device.type, enabled=False):
            return backward(ctx, saved, grad)

    return exactly


class _Bidirectional(torch.autograd.Function):
    """The same a piece at a time, as one node that keeps no features: backward computes them again."""

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
        log_total = q.new_empty((*q.shape[:3], 1))  # of each query's weights
        kept, scratch = [], Scratch(q.device)
        for own, n_tokens in _pieces(k, n_features):
            summary = _Summary.of(k[own], v[own], log_phi_k, None if mask is None else mask[own], n_tokens)
            means, log_mass = summary.means(), summary.log_mass()
            for piece in _spans(q.shape[2], n_tokens):
                log_q = log_phi_q(q[own][:, :, piece])
                logits = torch.add(log_q, log_mass, out=scratch.like("weights", log_q))
                largest = logits.amax(dim=-1, keepdim=True)
                weights = _exp_(logits.sub_(largest))
                total = weights.sum(dim=-1, keepdim=True)
                out[own][:, :, piece] = (weights @ means).div_(total)
                log_total[own][:, :, piece] = largest + total.log()
            kept += [summary.largest, summary.mass, summary.sums]
        ctx.save_for_backward(q, k, v, out, log_total, mask, *kept)
        ctx.log_phi, ctx.n_features = (log_phi_q, log_phi_k), n_features
        return out

    @staticmethod
    @first_derivatives_only
    @_without_autocast
    def backward(ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor) -> Any:
        q, k, v, out, log_total, mask, *kept = saved
        grad_q, grad_k, grad_v = (empty_heads(x) for x in (q, k, v))
        scratch, (log_phi_q, log_phi_k) = Scratch(q.device), ctx.log_phi
        for number, (own, n_tokens) in enumerate(_pieces(k, ctx.n_features)):
            summary = _Summary(*kept[3 * number : 3 * number + 3])
            means, log_mass = summary.means(), summary.log_mass()
            of_means, of_mass = torch.zeros_like(means), torch.zeros_like(log_mass)
            for piece in _spans(q.shape[2], n_tokens):
                of_out, own_out, own_total = (x[own][:, :, piece] for x in (grad, out, log_total))
                queries, log_q = _again(log_phi_q, q[own][:, :, piece])
                weights = torch.add(log_q.detach(), log_mass, out=scratch.like("weights", log_q))
                _exp_(weights.sub_(own_total))
                of_logits = torch.matmul(of_out, means.mT, out=scratch.like("gradients", log_q))
                of_logits.sub_((of_out * own_out).sum(-1, keepdim=True)).mul_(weights)
                of_means += weights.mT @ of_out
                of_mass += of_logits.sum(dim=-2, keepdim=True)
                grad_q[own][:, :, piece] = torch.autograd.grad(log_q, queries, of_logits)[0]
            # means_r = sum_j W_jr v_j and log_mass_r, with W_jr = phi_r(k_j) / mass_r = d log_mass_r / d log phi_r(k_j)
            of_each = (of_mass - (of_means * means).sum(-1).unsqueeze(-2)) / summary.mass
            of_means /= summary.mass.mT
            for piece in _spans(k.shape[2], n_tokens):
                keys, log_k = _again(log_phi_k, k[own][:, :, piece])
                with torch.enable_grad():
                    log_k = _masked(log_k, None if mask is None else mask[own][:, piece])
                features = torch.sub(log_k.detach(), summary.largest, out=scratch.like("weights", log_k))
                _exp_(features)
                of_log_k = torch.matmul(v[own][:, :, piece], of_means.mT, out=scratch.like("gradients", log_k))
                of_log_k.add_(of_each).mul_(features)
                grad_k[own][:, :, piece] = torch.autograd.grad(log_k, keys, of_log_k)[0]
                grad_v[own][:, :, piece] = features @ of_means
        return grad_q, grad_k, grad_v, None, None, None


def _again(log_phi: LogFeatures, x: Tensor) -> tuple[Tensor, Tensor]:
    """X, and its features with their graph."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return x, log_phi(x)


@dataclass
class _Summary:
    """What the keys and values of some samples add up to, for each feature."""

    largest: Tensor  # (b, h, 1, f), the largest log feature of any key
    mass: Tensor  # (b, h, 1, f), sum_j phi(k_j) / exp(largest)
    sums: Tensor  # (b, h, f, e), sum_j phi(k_j) v_j^T / exp(largest)

    @classmethod
    def of(cls, k: Tensor, v: Tensor, log_phi: LogFeatures, mask: Tensor | None, n_tokens: int) -> "_Summary":
        """Over pieces of n_tokens; the sums so far are scaled anew when a larger feature comes."""
        found = None
        for piece in _spans(k.shape[2], n_tokens):
            log_k = _masked(log_phi(k[:, :, piece]), None if mask is None else mask[:, piece])
            highest = log_k.amax(dim=-2, keepdim=True)
            largest = highest if found is None else torch.maximum(found.largest, highest)
            features = _exp_(log_k - largest)
            now = cls(largest, features.sum(dim=-2, keepdim=True), features.mT @ v[:, :, piece])
            if found is not None:
                scale = (found.largest - largest).exp()
                now.mass += found.mass * scale
                now.sums += found.sums * scale.mT
            found = now
        return found

    def means(self) -> Tensor:
        """(b, h, f, e)."""
        return self.sums / self.mass.mT

    def log_mass(self) -> Tensor:
        """(b, h, 1, f)."""
        return self.largest + self.mass.log()


def _pieces(k: Tensor, n_features: int) -> Iterator[tuple[slice, int]]:
    """Samples that are worked on together, and how many of their tokens at a time."""
    batch, heads, n = k.shape[:3]
    in_work = at_once(k.device, _FEATURES_IN_WORK, _FEATURES_ON_DEVICE) // (heads * n_features)
    n_samples, n_tokens = max(1, in_work // n), max(1, min(n, in_work))
    for first in range(0, batch, n_samples):
        yield slice(first, first + n_samples), n_tokens


def _spans(n: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` of n tokens."""
    return (slice(first, first + size) for first in range(0, n, size))


def _exp_(x: Tensor) -> Tensor:
    """e^x in place, as a power of two: several times as fast on a CPU."""
    return x.mul_(math.log2(math.e)).exp2_()


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
    """The same over the keys j <= i, as prefix sums of chunks (Choromanski et al. 2021, section 2.5 and appendix).

    Inside its chunk a query's weights are computed one by one; all before it come in as one sum of phi(k) v^T, that
    goes from chunk to chunk. O(n (chunk_size + f) (f + e)) time. Kept for backward: q, k, v, the output and the sum at
    the start of each chunk, n / chunk_size f e; features are computed again. Every weight is relative to the largest
    key up to its query, a running maximum, so a later key changes nothing, be it ever so large. Should all of a
    query's weights vanish beside it, the query sees itself.

    Args:
        q: (b, h, n, d).
        k: (b, h, n, d).
        v: (b, h, n, e), of the features' dtype.
        log_phi_q: see :func:`bidirectional_kernel_attention`, as the next.
        log_phi_k: see there.
        mask: (b, n), True where a key is real.
        chunk_size: tokens a chunk.

    Returns:
        (b, h, n, e).
    """
    if torch.compiler.is_compiling():  # whose own partitioner chooses what to keep and what to compute again
        return _chunk_by_chunk(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)[0]
    return _Causal.apply(q, k, v, log_phi_q, log_phi_k, mask, chunk_size)


class PrefixSum(NamedTuple):
    """What all tokens so far add up to: sum_j phi(k_j) [v_j, 1]^T, to be multiplied by exp(largest)."""

    sums: Tensor  # (b, h, f, e + 1)
    largest: Tensor  # (b, h, 1), the largest log feature so far

    @classmethod
    def empty(cls, like: Tensor, n_features: int) -> "PrefixSum":
        """No token yet; ``like`` is v (b, h, any, e)."""
        sums = like.new_zeros(*like.shape[:2], n_features, like.shape[-1] + 1)
        return cls(sums, like.new_full((*like.shape[:2], 1), torch.finfo(like.dtype).min))

    def attend(self, log_q: Tensor, log_k: Tensor, v: Tensor) -> tuple[Tensor, "PrefixSum"]:
        """A chunk of queries, keys, values, (b, h, c, ·) each -> sums (b, h, c, e + 1), and the prefix sum after it."""
        chunk = _Chunk.of(log_q, log_k, v, self.largest)
        seen = chunk.weights @ chunk.values + chunk.from_start * (chunk.q @ self.sums)
        sums = self.sums * chunk.start_to_end + chunk.k.mT @ (chunk.values * chunk.to_end)
        return seen, PrefixSum(sums, chunk.largest)


@dataclass
class _Chunk:
    """One chunk's features and weights."""

    q: Tensor  # (b, h, c, f), the largest of each token 1
    k: Tensor  # (b, h, c, f), likewise
    values: Tensor  # (b, h, c, e + 1), the last column of ones adds up the weights
    relative: Tensor  # (b, h, c, c), exp(size of key j / largest up to query i), 0 where j > i
    weights: Tensor  # (b, h, c, c), A_ij inside the chunk
    from_start: Tensor  # (b, h, c, 1), scale of the sum at the start, as query i sees it
    to_end: Tensor  # (b, h, c, 1), scale of key j in the sum at the end
    start_to_end: Tensor  # (b, h, 1, 1)
    largest: Tensor  # (b, h, 1) at the end

    @classmethod
    def of(cls, log_q: Tensor, log_k: Tensor, v: Tensor, largest: Tensor) -> "_Chunk":
        """From log features and the largest before the chunk."""
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


def divided(sums: Tensor, itself: Tensor) -> Tensor:
    """(..., e + 1) sums of weighted values and of weights -> (..., e) means; the token itself where weights vanish."""
    total = sums[..., -1:]
    there = _is_there(total)
    return torch.where(there, sums[..., :-1] / torch.where(there, total, 1), itself)


def _is_there(total: Tensor) -> Tensor:
    """Whether a sum of weights has not vanished; NaN has not, or a number that is not finite would be hidden."""
    return ~(total <= torch.finfo(total.dtype).tiny)


def _masked(log_k: Tensor, mask: Tensor | None) -> Tensor:
    return log_k if mask is None else log_k.masked_fill(~mask[:, None, :, None], torch.finfo(log_k.dtype).min)


def _all_if_none(mask: Tensor | None) -> Tensor | None:
    """The mask (b, m), but all of a sample that has no real key: sums of nothing have no mean."""
    return None if mask is None else mask | ~mask.any(dim=1, keepdim=True)


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
    for i, own in enumerate(v.split(size, dim=2)):
        log_q, log_k = log_phi_q(_part(q, i, size)), log_phi_k(_part(k, i, size))
        log_k = _masked(log_k, _part_of_mask(mask, i, size))
        start = start or PrefixSum.empty(v, log_k.shape[-1])
        starts.append(start)
        seen, start = start.attend(log_q, log_k, own)
        outs.append(divided(seen, own))
    return torch.cat(outs, dim=2), starts


def _part(x: Tensor, i: int, size: int) -> Tensor:
    return x[:, :, i * size : (i + 1) * size]


def _part_of_mask(mask: Tensor | None, i: int, size: int) -> Tensor | None:
    return None if mask is None else mask[:, i * size : (i + 1) * size]


class _Causal(torch.autograd.Function):
    """All chunks as one node that keeps no features: backward walks from the last chunk to the first."""

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
    @_without_autocast
    def backward(ctx: Any, saved: tuple[Tensor | None, ...], grad: Tensor) -> Any:
        q, k, v, out, mask, *starts = saved
        size, grads, (log_phi_q, log_phi_k) = ctx.size, ([], [], []), ctx.log_phi
        after = None  # gradient of the sum at the chunk's end
        for i in reversed(range(len(starts) // 2)):
            with torch.enable_grad():
                own_q, own_k = (_part(x, i, size).detach().requires_grad_() for x in (q, k))
                log_q, log_k = log_phi_q(own_q), _masked(log_phi_k(own_k), _part_of_mask(mask, i, size))
            sums, largest = starts[2 * i : 2 * i + 2]
            chunk = _Chunk.of(log_q.detach(), log_k.detach(), _part(v, i, size), largest)
            grad_q, grad_k, grad_v, after = _backward_of_chunk(
                chunk, sums, after, _part(out, i, size), _part(grad, i, size)
            )
            found = torch.autograd.grad([log_q, log_k], [own_q, own_k], [grad_q, grad_k])
            for of_all, of_chunk in zip(grads, (*found, grad_v), strict=True):
                of_all.append(of_chunk)
        return *(torch.cat(parts[::-1], dim=2) for parts in grads), None, None, None, None


def _backward_of_chunk(
    chunk: _Chunk, sums: Tensor, after: Tensor | None, out: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of log q, log k, v and of the sums before the chunk, given those of its output and the sums after."""
    total = chunk.weights.sum(-1, keepdim=True) + chunk.from_start * (chunk.q @ sums[..., -1:])
    there = _is_there(total)
    scaled = torch.where(there, grad / torch.where(there, total, 1), 0)
    seen = torch.cat((scaled, -(scaled * out).sum(-1, keepdim=True)), dim=-1)  # of attend's first result
    weights = (seen @ chunk.values.mT).mul_(chunk.relative)
    from_start = seen * chunk.from_start
    grad_q = weights @ chunk.k
    grad_q += from_start @ sums.mT
    grad_k = weights.mT @ chunk.q
    grad_values = chunk.weights.mT @ seen
    before = chunk.q.mT @ from_start
    if after is not None:
        grad_k += (chunk.values * chunk.to_end) @ after.mT
        grad_values += (chunk.k @ after) * chunk.to_end
        before += after * chunk.start_to_end
    grad_v = torch.where(there, grad_values[..., :-1], grad_values[..., :-1] + grad)
    return grad_q.mul_(chunk.q), grad_k.mul_(chunk.k), grad_v, before
