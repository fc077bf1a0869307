"""Definitions: every mechanism of this library as its paper writes it. Read this first.

Dense, O(n^2), plain torch: no optimisation, no caches, no dropout. The classes compute the same functions faster, and
tests compare their outputs and gradients with these. From simple to complex: full, local, shared query-key, LSH,
Linformer, Performer, linear, Nystrom, relative positions, the reversible block (rev_layers.py). Read next: the
mechanism's own file, such as full.py or lsh/attention.py.

Letters, in shapes and formulas:

    b batch, h heads, r rounds (the reversible block works on (b, n, dim), without heads)
    n queries, m keys          i is a query, j a key; in self-attention n = m
    d head_dim, e value size   q (b, h, n, d), k (b, h, m, d), v (b, h, m, e), qk (b, h, n, d); outputs (b, h, n, e)
    mask (b, m)                True where a key is real, False where it is padding
    visible (b, h or 1, n, m)  True where query i may see key j, from :func:`visible_keys`

**A query that sees no key sees itself.** This one rule (:func:`or_itself`) keeps every row finite: the first token of
causal shared query-key attention, a token alone in its buckets, padding before the first real token. The output of a
padded query is meaningless. In attention to another sequence at least one key must be real.

Random tensors (rotations, directions) are arguments here. The whole of LSH attention is

    hashes = buckets(qk, rotations)
    out = lsh_attention(qk, v, hashes, mask, window=2 * bucket_size, causal=True)

Papers:

    Vaswani et al. 2017        Attention Is All You Need
    Kitaev et al. 2020         Reformer: The Efficient Transformer
    Wang et al. 2020           Linformer: Self-Attention with Linear Complexity
    Choromanski et al. 2021    Rethinking Attention with Performers
    Katharopoulos et al. 2020  Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention
    Xiong et al. 2021          Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention
    Horn et al. 2021           Translational Equivariance in Kernelizable Attention
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Visibility


def visible_keys(n: int, mask: Tensor, *, causal: bool) -> Tensor:
    """Real keys, if ``causal`` only those at or before the query: mask (b, m) -> (b, 1, n, m)."""
    visible = mask[:, None, None, :].expand(-1, 1, n, -1)
    return visible.tril() if causal else visible


def or_itself(visible: Tensor) -> Tensor:
    """Let a query that sees no key see the key at its own position."""
    return visible | (_diagonal(visible) & ~visible.any(-1, keepdim=True))


def _diagonal(visible: Tensor) -> Tensor:
    return torch.eye(*visible.shape[-2:], dtype=torch.bool, device=visible.device)


# Softmax attention


def softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the visible keys, 0 elsewhere: scores (b, h, n, m) -> weights (b, h, n, m)."""
    return scores.masked_fill(~or_itself(visible), -torch.inf).softmax(-1)


def full_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, equation 1) -> (b, h, n, e)."""
    return softmax(q @ k.mT / math.sqrt(q.shape[-1]), visible) @ v


def local_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *, chunk_size: int, back: int, ahead: int
) -> Tensor:
    """Full attention to the query's own chunk of the sequence, ``back`` chunks before it and ``ahead`` after it."""
    chunk = torch.arange(q.shape[2], device=q.device) // chunk_size
    chunks_back = chunk[:, None] - chunk  # negative where the key's chunk is later
    return full_attention(q, k, v, visible & (-ahead <= chunks_back) & (chunks_back <= back))


def shared_qk_attention(qk: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """k_j = q_j / ||q_j||, and a token sees itself only if it sees no other (Kitaev et al. 2020, section 2)."""
    return full_attention(qk, _unit(qk), v, visible & ~_diagonal(visible))


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


# LSH attention (Kitaev et al. 2020, section 2 and appendix A)


def n_buckets(length: int, bucket_size: int) -> int:
    """1 if one bucket holds all tokens, else the smallest even number with <= ``bucket_size`` expected tokens each."""
    return 1 if length <= bucket_size else 2 * math.ceil(length / (2 * bucket_size))


def buckets(qk: Tensor, rotations: Tensor) -> Tensor:
    """h(x) = argmax([x R; -x R]) in each round (section 2, "Locality sensitive hashing").

    qk (b, h, n, d), rotations R (h, r, d, buckets / 2) -> (b, h, r, n). With no directions there is one bucket.
    """
    projected = torch.einsum("bhnd,hrdk->bhrnk", qk, rotations)
    if projected.shape[-1] == 0:
        return torch.zeros(projected.shape[:-1], dtype=torch.long, device=qk.device)
    return torch.cat((projected, -projected), dim=-1).argmax(-1)


def buckets_by_length(qk: Tensor, rotations: Tensor, mask: Tensor, bucket_size: int) -> Tensor:
    """:func:`buckets`, with each sample's number of buckets set by its number of real tokens: (b, h, r, n).

    Not for causal attention: later tokens would change the number of buckets, so there it is fixed in advance. All
    samples share the rotations; a sample with B buckets uses the first B / 2 directions of each round.
    """
    counts = [n_buckets(real, bucket_size) for real in mask.sum(-1).tolist()]
    return torch.cat([buckets(x[None], rotations[..., : B // 2]) for x, B in zip(qk, counts, strict=True)])


def sorted_places(hashes: Tensor, mask: Tensor) -> Tensor:
    """s_i, the rank of token i when each round is sorted by (bucket, position), padding last: (b, h, r, n)."""
    padding_last = hashes.masked_fill(~mask[:, None, None, :], hashes.max() + 1)
    return padding_last.argsort(dim=-1, stable=True).argsort(dim=-1)


def bucket_rule(hashes: Tensor, s: Tensor, window: int) -> Tensor:
    """P_i in each round: h(q_i) = h(q_j) (equation 4), at most ``window`` apart in sorted order. (b, h, r, n, n)."""
    same = hashes[..., :, None] == hashes[..., None, :]
    return same & ((s[..., :, None] - s[..., None, :]).abs() <= window)


def chunk_rule(hashes: Tensor, s: Tensor, m: int) -> Tensor:
    """P_i in each round: h(q_i) = h(q_j), floor(s_i / m) - 1 <= floor(s_j / m) <= floor(s_i / m) (equation 16)."""
    same = hashes[..., :, None] == hashes[..., None, :]
    chunks_back = (s // m)[..., :, None] - (s // m)[..., None, :]
    return same & (chunks_back >= 0) & (chunks_back <= 1)


def lsh_attention(qk: Tensor, v: Tensor, hashes: Tensor, mask: Tensor, *, window: int, causal: bool) -> Tensor:
    """Shared query-key attention to the keys found in any round: P_i is the union over rounds (equation 6).

    Hash, sort by (bucket, position), and attend to the tokens of the same bucket at most ``window`` away in sorted
    order; if causal, only to earlier ones. The window replaces the paper's chunks: no later token changes what a query
    sees, so attention is strictly causal. One softmax over the union counts a key once, in however many rounds it is
    found. ``hashes`` (b, h, r, n) are the bucket numbers from :func:`buckets` or :func:`buckets_by_length`.
    """
    shown = bucket_rule(hashes, sorted_places(hashes, mask), window)
    return attention_over_rounds(qk, v, shown, visible_keys(qk.shape[2], mask, causal=causal), once=True)


def lsh_chunk_attention(
    qk: Tensor, v: Tensor, hashes: Tensor, mask: Tensor, *, chunk: int, causal: bool, once: bool = True
) -> Tensor:
    """:func:`lsh_attention` with the paper's chunks of m = ``chunk`` sorted tokens instead of the window.

    Not strictly causal: later tokens change where chunks begin and end, and so what earlier queries see.
    ``once=False`` leaves out N_ij (equation 15), so that a key counts once for every round that finds it.
    """
    shown = chunk_rule(hashes, sorted_places(hashes, mask), chunk)
    return attention_over_rounds(qk, v, shown, visible_keys(qk.shape[2], mask, causal=causal), once=once)


def attention_over_rounds(qk: Tensor, v: Tensor, shown: Tensor, visible: Tensor, *, once: bool) -> Tensor:
    """Rounds weighted by their log-sum-exp (equations 12 to 15), written as one softmax; shown (b, h, r, n, n).

    N_ij is the number of rounds in which query i finds key j. The sum over rounds adds exp(q_i . k_j) N_ij times.
    Subtracting log N_ij from the score in each round (m_ij) adds it once. A token sees itself only if it sees no other.
    """
    N = shown.sum(2)
    scores = qk @ _unit(qk).mT / math.sqrt(qk.shape[-1])
    return softmax(scores if once else scores + N.to(scores.dtype).log(), visible & (N > 0) & ~_diagonal(visible)) @ v


# Linformer (Wang et al. 2020). A projection is a function of x (b, h, m, d) and its mask (b, m) that returns fewer
# tokens (b, h, rank, d) and which of them are real (b, rank).

Projection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def matrix_projection(x: Tensor, mask: Tensor, E: Tensor) -> tuple[Tensor, Tensor]:
    """E x with a learned E (h or 1, rank, max_len); m < max_len tokens use its first m columns, padding counts as 0."""
    projected = E[..., : x.shape[2]] @ x.masked_fill(~mask[:, None, :, None], 0)
    return projected, mask.any(-1, keepdim=True).expand(-1, E.shape[-2])


def window_projection(
    x: Tensor, mask: Tensor, reduce: Callable[[Tensor, Tensor], Tensor], *, rank: int, window: int
) -> tuple[Tensor, Tensor]:
    """Projected token r reduces window r by mean, maximum or convolution ("general projections", section 4).

    ``reduce`` takes the real tokens (h, w, d) and their indices in the window (w,), and returns (h, d). A window
    without a real token is projected to padding.
    """
    out = x.new_zeros(*x.shape[:2], rank, x.shape[3])
    real = mask.new_zeros(len(x), rank)
    for b in range(len(x)):
        for r in range(rank):
            index = mask[b, r * window : (r + 1) * window].nonzero().squeeze(-1)
            if len(index):
                out[b, :, r], real[b, r] = reduce(x[b, :, r * window + index], index), True
    return out, real


def mean(tokens: Tensor, index: Tensor) -> Tensor:
    """For :func:`window_projection`: mean pooling."""
    return tokens.mean(1)


def maximum(tokens: Tensor, index: Tensor) -> Tensor:
    """For :func:`window_projection`: max pooling."""
    return tokens.amax(1)


def convolution(tokens: Tensor, index: Tensor, W: Tensor) -> Tensor:
    """For :func:`window_projection`: sum_p x_p W_p with a kernel W (h or 1, window, d, d); the stride is one window."""
    return torch.einsum("hpd,hpde->he", tokens, W[:, index].expand(len(tokens), -1, -1, -1))


def linformer_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, E: Projection, F: Projection) -> Tensor:
    """softmax(Q (E K)^T / sqrt(d)) F V (equation 7); cannot be causal, for each projected token mixes all positions."""
    keys, real = E(k, mask)
    values, _ = F(v, mask)
    return full_attention(q, keys, values, visible_keys(q.shape[2], real, causal=False))


def block_causal_linformer_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, E: Projection, F: Projection, *, block_size: int
) -> Tensor:
    """Causal attention in the query's own block and to the projections of all earlier blocks, in one softmax."""
    n = q.shape[2]
    block = torch.arange(n, device=q.device) // block_size
    keys, values = [k], [v]
    visible = [visible_keys(n, mask, causal=True) & (block[:, None] == block)]
    for c in range(n // block_size):  # complete blocks only
        inside = slice(c * block_size, (c + 1) * block_size)
        projected, real = E(k[:, :, inside], mask[:, inside])
        keys.append(projected)
        values.append(F(v[:, :, inside], mask[:, inside])[0])
        visible.append(visible_keys(n, real, causal=False) & (block[:, None] > c))
    return full_attention(q, torch.cat(keys, 2), torch.cat(values, 2), torch.cat(visible, -1))


# Performer (Choromanski et al. 2021): weights phi(q_i) . phi(k_j) with features phi >= 0, (b, h, n, features).
# Directions omega (p, d) are random.


def softmax_features(x: Tensor, omega: Tensor) -> Tensor:
    """exp(omega_r . x' - |x'|^2 / 2) / sqrt(p), x' = x / d^(1/4): estimates exp(q . k / sqrt(d)) (lemma 1, SM+)."""
    x = x / x.shape[-1] ** 0.25
    return (x @ omega.mT - x.square().sum(-1, keepdim=True) / 2).exp() / math.sqrt(len(omega))


def hyperbolic_features(x: Tensor, omega: Tensor) -> Tensor:
    """The same for omega_r and -omega_r, two features per direction (lemma 1, SM hyp+)."""
    return softmax_features(x, torch.cat((omega, -omega)))


def generalised_features(x: Tensor, omega: Tensor, f: Callable[[Tensor], Tensor], epsilon: float) -> Tensor:
    """f(omega_r . x') + epsilon with any f >= 0 (section 2.2, "generalized attention")."""
    return f(x / x.shape[-1] ** 0.25 @ omega.mT) + epsilon


def numerator(phi_q: Tensor, phi_k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """sum_j phi(q_i) . phi(k_j) v_j over the visible keys (equation 4: Q' (K'^T V)) -> (b, h, n, e)."""
    return (phi_q @ phi_k.mT * or_itself(visible)) @ v


def denominator(phi_q: Tensor, phi_k: Tensor, visible: Tensor) -> Tensor:
    """sum_j phi(q_i) . phi(k_j) over the visible keys (equation 4: D) -> (b, h, n, 1)."""
    return (phi_q @ phi_k.mT * or_itself(visible)).sum(-1, keepdim=True)


def performer_attention(phi_q: Tensor, phi_k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """D^-1 (Q' (K'^T V)), attention with the kernel phi(q) . phi(k) (equation 4) -> (b, h, n, e)."""
    return numerator(phi_q, phi_k, v, visible) / denominator(phi_q, phi_k, visible)


# Linear attention (Katharopoulos et al. 2020)


def elu_features(x: Tensor) -> Tensor:
    """phi(x) = elu(x) + 1 (equation 7)."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def linear_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j) (equation 4; causal, over j <= i: equation 8)."""
    weights = elu_features(q) @ elu_features(k).mT * or_itself(visible)
    return weights @ v / weights.sum(-1, keepdim=True)


# Nystrom attention (Xiong et al. 2021). Each sample's landmarks are means of its own real tokens.


def landmarks(x: Tensor, m: int) -> Tensor:
    """Means of at most m segments of the tokens (h, c, d): token i of c belongs to segment floor(i m / c)."""
    c = x.shape[1]
    m = min(m, c)
    segment = torch.arange(c, device=x.device) * m // c
    return torch.stack([x[:, segment == s].mean(1) for s in range(m)], dim=1)


def pseudo_inverse(A: Tensor, iterations: int) -> Tensor:
    """Z = A^T / (|A|_1 |A|_inf), then Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4, which tends to A^+."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    one, infinity = (A.abs().sum(axis).amax(-1)[..., None, None] for axis in (-2, -1))
    Z = A.mT / (one * infinity)
    for _ in range(iterations):
        Z = Z @ (13 * eye - A @ Z @ (15 * eye - A @ Z @ (7 * eye - A @ Z))) / 4
    return Z


def nystrom_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, m: int, iterations: int) -> Tensor:
    """softmax(Q K~^T) softmax(Q~ K~^T)^+ softmax(Q~ K^T) V with landmarks Q~ and K~, all / sqrt(d) (algorithm 1)."""
    root, outs = math.sqrt(q.shape[-1]), []
    for Q, K, V, real in zip(q, k, v, mask, strict=True):
        Q_mean, K_mean = landmarks(Q[:, real], m), landmarks(K[:, real], m)
        F = (Q @ K_mean.mT / root).softmax(-1)
        A = (Q_mean @ K_mean.mT / root).softmax(-1)
        B = (Q_mean @ K[:, real].mT / root).softmax(-1)
        outs.append(F @ pseudo_inverse(A, iterations) @ B @ V[:, real])
    return torch.stack(outs)


def convolution_of_values(v: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    """Optional term: sum_p w_p v_(i + p - size // 2) with one kernel w per head (h, size); padding counts as 0."""
    place, size = torch.arange(v.shape[2], device=v.device), w.shape[1]
    p = place - place[:, None] + size // 2  # (n, n)
    return (w[:, p.clamp(0, size - 1)] * ((p >= 0) & (p < size))) @ v.masked_fill(~mask[:, None, :, None], 0)


# Relative positions (Horn et al. 2021). Token i is at x_i, an integer on a line or (row, column) on a grid.


def places(n: int, columns: int | None, off_grid: int) -> tuple[Tensor, Tensor]:
    """Coordinates x (n, axes), and (n,) True where a token has any: the first ``off_grid`` tokens have none.

    The others fill a grid of ``columns`` columns row by row, or a line if ``columns`` is None.
    """
    place = torch.arange(n) - off_grid
    x = place[:, None] if columns is None else torch.stack((place // columns, place % columns), dim=-1)
    return x, place >= 0


def relative_logits(
    q: Tensor, k: Tensor, x: Tensor, placed: Tensor, w: Tensor, constant: Tensor, by_content: Tensor
) -> Tensor:
    """q_i . k_j / sqrt(d) + sum over waves of a cos(w t) + b sin(w t), with t = x_i - x_j along the wave's axis.

    w (axes, scales) are frequencies of W = axes * scales waves. a and b are constant + by_content . q_i, with shapes
    constant (h, 2, W) and by_content (h, d, 2 W). Nothing is added where i or j has no coordinates.
    """
    t = x[:, None] - x
    angle = (t[..., None] * w).flatten(-2)  # (n, n, W)
    a, b = (constant[:, None] + (q @ by_content).unflatten(-1, (2, -1))).unbind(-2)  # (b, h, n, W)
    waves = torch.einsum("bhiw,ijw->bhij", a, angle.cos()) + torch.einsum("bhiw,ijw->bhij", b, angle.sin())
    return q @ k.mT / math.sqrt(q.shape[-1]) + waves * (placed[:, None] & placed)


def relative_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *positions: Tensor) -> Tensor:
    """Softmax attention with :func:`relative_logits`, whose last five arguments are ``positions``."""
    return softmax(relative_logits(q, k, *positions), visible) @ v


def clipped_relative_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, x: Tensor, placed: Tensor, e: Tensor, u: Tensor, *, distance: int
) -> Tensor:
    """Weights exp(q_i . e_c / sqrt(d)) gate(k_j), where c is x_j - x_i, clipped to ``distance`` on each axis.

    gate(k) = max(sigmoid(u . k / sqrt(d)), 1e-4), u (h, d, 1). e (h, d, (2 distance + 1)^axes + 2) has a vector for
    each c in row-major order, one for keys off the grid, and one for queries off the grid and keys on it.
    """
    span, axes = 2 * distance + 1, x.shape[-1]
    t = (x - x[:, None]).clamp(-distance, distance) + distance  # (n, n, axes)
    c = t[..., 0] if axes == 1 else t[..., 0] * span + t[..., 1]
    c = torch.where(placed[:, None], c, span**axes + 1)
    c = torch.where(placed, c, span**axes)
    root = math.sqrt(q.shape[-1])
    logits = (q @ e / root).gather(-1, c.expand(*q.shape[:2], -1, -1))
    gate = (k @ u / root).sigmoid().clamp(min=1e-4)
    return softmax(logits + gate.log().mT, visible) @ v


# The reversible block (Kitaev et al. 2020, section 3): F is attention and G the feed-forward layer (equation 9).

Sublayer = Callable[[Tensor], Tensor]


def reversible_block(x1: Tensor, x2: Tensor, F: Sublayer, G: Sublayer) -> tuple[Tensor, Tensor]:
    """y1 = x1 + F(x2), y2 = x2 + G(y1) (equation 7)."""
    y1 = x1 + F(x2)
    y2 = x2 + G(y1)
    return y1, y2


def inverse_of_reversible_block(y1: Tensor, y2: Tensor, F: Sublayer, G: Sublayer) -> tuple[Tensor, Tensor]:
    """x2 = y2 - G(y1), x1 = y1 - F(x2) (equation 8)."""
    x2 = y2 - G(y1)
    x1 = y1 - F(x2)
    return x1, x2
