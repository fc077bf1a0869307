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
    the landmarks of queries and keys. A^+ is its pseudo-inverse, found by a few products of matrices. With as many
    landmarks as tokens and an A that is inverted exactly, the output is full attention's.

    Segments divide the real tokens of each sample as evenly as can be, so any length will do, and padding is invisible,
    wherever it stands. A sample with fewer real tokens than landmarks has one for each token.

    Bidirectional self-attention alone: a landmark is a mean of tokens from all places, of queries as well. So it cannot
    be causal, and from a decoder's tokens to a context it would let earlier tokens see later ones. Rows of F A^+ B do
    not add up to exactly one, for the pseudo-inverse is approximate.

    All is computed in float32 at least, also under autocast: the pseudo-inverse magnifies rounding. Saved for backward:
    by autograd, F and B, 2 n m numbers a head, and 4 n_iterations m^2 for the pseudo-inverse.

    Definition: my_transformers/reference.py, nystrom_attention.

    Args:
        n_landmarks: m, at most.
        n_iterations: of the pseudo-inverse.
        kernel_size: tokens, odd; a learned convolution of each head's values over so many is added to the output, as
            in the paper's models (figure 2); 0: none.
        heads: number of heads; the convolution needs it.
        dropout: probability of dropping a value in training, for all queries of a head at once.
        causal: must be False; it is here to say so.

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
        """Q and k (b, h, n, d), v (b, h, n, e), mask (b, n) True where a token is real -> (b, h, n, e).

        A padded query's output is finite and of no meaning.

        Raises:
            ValueError: not as many keys as queries.
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
        means, there = segment_means(mask, min(self.n_landmarks, q.shape[2]), q.dtype)
        landmarks_q, landmarks_k = means @ q, means @ k  # (b, h, m, d)
        q, landmarks_q = q * q.shape[-1] ** -0.5, landmarks_q * q.shape[-1] ** -0.5
        among = _softmax(landmarks_q @ landmarks_k.mT, there)
        # a landmark without tokens is a block of its own, which meets no other in the inverse
        missing = torch.diag_embed((~there).to(q.dtype)).unsqueeze(1)
        among = among * there[:, None, :, None] + missing
        left = _softmax(q @ landmarks_k.mT, there) @ pseudo_inverse(among, self.n_iterations)
        return left @ (_softmax(landmarks_q @ k.mT, mask) @ v)


def segment_means(mask: Tensor, m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The matrix that makes landmarks of tokens: real token number i of c belongs to segment floor(i min(m, c) / c).

    Args:
        mask: (b, n), True where a token is real, at least one per sample.
        m: segments.
        dtype: of the matrix.

    Returns:
        (b, 1, m, n), whose rows add up to 1, or to 0 where a sample has too few tokens for so many segments; and
        (b, m), True where a segment has tokens.
    """
    number, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
    segment = number * count.clamp_max(m) // count
    segments = torch.arange(m, device=mask.device)
    inside = (segment.unsqueeze(1) == segments[:, None]) & mask.unsqueeze(1)  # (b, m, n)
    size = inside.sum(2, keepdim=True)
    return (inside.to(dtype) / size.clamp_min(1)).unsqueeze(1), size.squeeze(2) > 0


def pseudo_inverse(a: Tensor, n_iterations: int) -> Tensor:
    """The pseudo-inverse of matrices (..., m, m) whose rows are softmax's, by a third-order iteration of products.

    Z_0 = A^T / (|A|_1 |A|_inf) and Z_{j+1} = Z_j (13 I - A Z_j (15 I - A Z_j (7 I - A Z_j))) / 4. Rows add up to one,
    so |A|_inf is 1. What singular values near 0 become stays bounded: each iteration magnifies it by 13 / 4 at most.
    """
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.mT / a.sum(-2, keepdim=True).amax(-1, keepdim=True)
    for _ in range(n_iterations):
        product = a @ z
        z = 0.25 * z @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product)))
    return z


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Over the visible keys: scores (b, h, ·, m), visible (b or 1, m) -> the same shape, 0 for the others."""
    return scores.masked_fill(~visible[:, None, None, :], -torch.inf).softmax(-1)
