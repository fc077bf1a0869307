"""Nystrom attention: softmax attention approximated through landmarks (Xiong et al. 2021, "Nystromformer")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.checks import check_heads
from my_transformers.dropout import check_dropout, drop_values
from my_transformers.masks import boolean_mask
from my_transformers.mechanism import Mechanism
from my_transformers.nystrom_settings import NystromSettings


class NystromAttention(Mechanism, settings=NystromSettings):
    """F A^+ B v in O(n m d), with m landmarks, each the mean of a segment of the sequence (algorithm 1).

    F = softmax(q k~^T / sqrt(d)), A = softmax(q~ k~^T / sqrt(d)) and B = softmax(q~ k^T / sqrt(d)), where q~ and k~ are
    the landmarks of queries and keys. The pseudo-inverse A^+ is approximated by a few matrix products. With as many
    landmarks as tokens, and A inverted exactly, the output equals that of full attention.

    Segments divide the real tokens of each sample as evenly as possible, so any length works, and padding is invisible
    wherever it is. A sample with fewer real tokens than landmarks has one landmark per token.

    Bidirectional self-attention only. A landmark averages tokens from the whole sequence, queries included: it cannot
    be causal, and in cross-attention from a decoder it would let earlier tokens see later ones. Rows of F A^+ B do not
    sum to exactly one, since the pseudo-inverse is approximate.

    Computed in float32 at least, also under autocast, because the pseudo-inverse amplifies rounding errors. Saved for
    backward, by autograd: F and B, 2 n m numbers per head, and 4 n_iterations m^2 for the pseudo-inverse.

    Definition: my_transformers/reference.py, nystrom_attention.

    Args:
        n_landmarks: m, the maximum number of landmarks.
        n_iterations: iterations of the pseudo-inverse.
        kernel_size: adds to the output a learned convolution of each head's values over this many tokens, an odd
            number, as in the paper's models (figure 2); 0: none.
        heads: the number of heads; required for the convolution.
        dropout: probability of dropping a value in training, for all queries of a head at once.
        causal: must be False; accepted only to give a clear error.

    Raises:
        ValueError: causal, or arguments that contradict each other or are out of range.
    """

    causal = False

    def __init__(
        self,
        *,
        n_landmarks: int = 64,
        n_iterations: int = 6,
        kernel_size: int = 0,
        heads: int | None = None,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        if causal:
            raise ValueError(
                "a landmark of nystrom attention is a mean of tokens from all places, so it cannot be causal; use "
                "LinearAttention, PerformerAttention or LSHAttention"
            )
        for name, least, value in (("n_landmarks", 1, n_landmarks), ("n_iterations", 1, n_iterations)):
            if value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        if kernel_size < 0 or (kernel_size and kernel_size % 2 == 0):
            raise ValueError(f"kernel_size is {kernel_size}, must be odd, or 0 for no convolution")
        if kernel_size and heads is None:
            raise ValueError(f"kernel_size is {kernel_size}, so heads must be given: each has a kernel of its own")
        self.n_landmarks = n_landmarks
        self.n_iterations = n_iterations
        self.kernel_size = kernel_size
        self.dropout = dropout
        bound = kernel_size**-0.5 if kernel_size else 0.0
        kernel = torch.empty(heads or 0, 1, kernel_size, 1).uniform_(-bound, bound)
        self.convolution = nn.Parameter(kernel) if kernel_size else None

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"n_landmarks={self.n_landmarks}, n_iterations={self.n_iterations}, kernel_size={self.kernel_size}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map q and k (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real.

        The output at a padded query is finite but meaningless.

        Raises:
            ValueError: the number of keys differs from the number of queries.
        """
        check_heads(q, k, v, heads=None if self.convolution is None else len(self.convolution))
        mask = boolean_mask(mask, k)
        if q.shape[2] != k.shape[2]:
            raise ValueError(
                f"nystrom attention needs as many keys as queries, got {q.shape[2]} queries and {k.shape[2]} keys; for "
                "a context use FullAttention, LinformerAttention or PerformerAttention"
            )
        if q.shape[2] == 0:
            return v
        dtype = v.dtype
        mask = q.new_ones(1, q.shape[2], dtype=torch.bool) if mask is None else mask | ~mask.any(1, keepdim=True)
        v = drop_values(v, self.dropout if self.training else 0.0)
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
            v = v.masked_fill(~mask[:, None, :, None], 0)
            out = self._through_landmarks(q, k, v, mask)
            if self.convolution is not None:
                kernel = self.convolution.to(v.dtype)
                out = out + F.conv2d(v, kernel, padding=(self.kernel_size // 2, 0), groups=len(kernel))
        return out.to(dtype)

    def _through_landmarks(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        means, used = segment_means(mask, min(self.n_landmarks, q.shape[2]), q.dtype)
        landmarks_q, landmarks_k = means @ q, means @ k  # (b, h, m, d)
        q, landmarks_q = q * q.shape[-1] ** -0.5, landmarks_q * q.shape[-1] ** -0.5
        a = _softmax(landmarks_q @ landmarks_k.mT, used)
        # an unused landmark gets a row of the identity, which makes A block-diagonal: the inverse keeps it separate
        unused = torch.diag_embed((~used).to(q.dtype)).unsqueeze(1)
        a = a * used[:, None, :, None] + unused
        left = _softmax(q @ landmarks_k.mT, used) @ pseudo_inverse(a, self.n_iterations)
        return left @ (_softmax(landmarks_q @ k.mT, mask) @ v)


def segment_means(mask: Tensor, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The matrix that maps tokens to landmarks: of c real tokens, token i belongs to segment floor(i min(m, c) / c).

    Args:
        mask: (b, n), True where a token is real, at least one per sample.
        m: the number of segments.
        dtype: dtype of the matrix.

    Returns:
        (b, 1, m, n), whose rows sum to 1, or to 0 for the segments that a sample with fewer than m tokens leaves
        empty; and (b, m), True where a segment has tokens.
    """
    index, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)  # index among the real tokens
    segment = index * count.clamp_max(m) // count
    segments = torch.arange(m, device=mask.device)
    inside = (segment.unsqueeze(1) == segments[:, None]) & mask.unsqueeze(1)  # (b, m, n)
    size = inside.sum(2, keepdim=True)
    return (inside.to(dtype) / size.clamp_min(1)).unsqueeze(1), size.squeeze(2) > 0


def pseudo_inverse(a: Tensor, n_iterations: int) -> Tensor:
    """Approximate pseudo-inverse of row-stochastic matrices (..., m, m), by a third-order iteration.

    Z_0 = A^T / (|A|_1 |A|_inf) and Z_{j+1} = Z_j (13 I - A Z_j (15 I - A Z_j (7 I - A Z_j))) / 4. Rows sum to one, so
    |A|_inf is 1. Directions with singular values near 0 stay bounded: an iteration amplifies them at most 13 / 4 times.
    """
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.mT / a.sum(-2, keepdim=True).amax(-1, keepdim=True)
    for _ in range(n_iterations):
        product = a @ z
        z = 0.25 * z @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product)))
    return z


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the visible keys, 0 for the others: scores (b, h, ·, m), visible (b or 1, m) -> (b, h, ·, m)."""
    return scores.masked_fill(~visible[:, None, None, :], -torch.inf).softmax(-1)
