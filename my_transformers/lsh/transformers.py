"""LSH attention as the transformers library and Trax compute it, for models trained with them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.cache import Cache
from my_transformers.checks import check_heads
from my_transformers.dropout import check_dropout, drop
from my_transformers.lsh.hashing import (
    bucket_of,
    choose_n_buckets,
    draw_rotations,
    seeded_rotations,
    sort_by_bucket,
    undo_sort,
)
from my_transformers.lsh.settings import TransformersLSHSettings
from my_transformers.masks import boolean_mask
from my_transformers.mechanism import Mechanism
from my_transformers.replay import decide

# Scores of hidden keys, and of a query's own key, which matters only if all others are hidden. The values are those of
# the transformers library, including their rounding error, with which its models were trained: next to 1e5, log 2 is
# rounded in float32, so a token that sees only itself in several rounds returns its value up to 0.4 % too large or too
# small.
_HIDDEN, _ITSELF = -1e9, -1e5
_SMALLEST = 1e-12  # squared lengths are clamped to this, so that keys are finite


class TransformersLSHAttention(Mechanism, settings=TransformersLSHSettings):
    """Shared query-key attention among neighbours in hash order, O(n_rounds * n * chunk_size * d) time.

    It exists to run models trained with the transformers library; for new models use
    :class:`~my_transformers.LSHAttention`. Each round hashes the queries, sorts the tokens by (bucket, position) and
    cuts them into chunks. A query sees all tokens of its own chunk and of the previous one, whatever their buckets, and
    itself only if it sees no other token. The chunks of all rounds form one circle: the chunk before the first chunk of
    a round is the last chunk of the previous round, and the chunk before the very first is the very last. A key counts
    once for every round in which it is seen. A sequence of a single chunk gets full attention.

    Causal masking is by position, but chunk boundaries depend on all tokens: *later* tokens decide which earlier ones a
    query sees. So it is not strictly causal, and cannot decode step by step.

    Saved for backward, by autograd: all scores, 2 * chunk_size * n_rounds per token and head.

    Args:
        chunk_size: tokens per chunk.
        n_rounds: independent hash rounds per forward.
        n_buckets: number of buckets, 1 or even; default: such that a chunk is expected to hold two buckets.
        bucket_factors: instead of n_buckets, even numbers whose product it is, each with a hash of its own
            (:func:`bucket_by_factors`).
        multiple_of: pad a sequence of more than one chunk to a multiple of this many tokens; default chunk_size.
        epsilon: k = q / sqrt(||q||^2 + epsilon).
        causal: a token attends only to itself and earlier tokens.
        dropout: probability of dropping an attention weight in training, independently in each round.
        seed: seed of the fixed rotations of eval mode; give each layer its own. In training each forward draws new
            ones from the global generator.
        rotations: (h, n_rounds, head_dim, m), with m half of n_buckets or of the sum of the factors. If given, they
            are used in training and evaluation, and stored as a buffer in the state dict.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    rotations: Tensor | None

    def __init__(
        self,
        *,
        chunk_size: int = 64,
        n_rounds: int = 4,
        n_buckets: int | None = None,
        bucket_factors: tuple[int, ...] | None = None,
        multiple_of: int | None = None,
        epsilon: float = 0.0,
        causal: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
        rotations: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.chunk_size = chunk_size
        self.n_rounds = n_rounds
        self.n_buckets = n_buckets
        self.bucket_factors = bucket_factors
        self.multiple_of = chunk_size if multiple_of is None else multiple_of
        self.epsilon = epsilon
        self.causal = causal
        self.dropout = dropout
        self.seed = seed
        self.register_buffer("rotations", rotations)
        self._check()
        self._check_buckets()
        self._check_rotations()

    def _check(self) -> None:
        for name in ("chunk_size", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.multiple_of < 1 or self.multiple_of % self.chunk_size:
            raise ValueError(f"multiple_of is {self.multiple_of}, must be a multiple of chunk_size {self.chunk_size}")
        if self.epsilon < 0:
            raise ValueError(f"epsilon is {self.epsilon}, must be at least 0")

    def _check_buckets(self) -> None:
        n, factors = self.n_buckets, self.bucket_factors
        if n is not None and n != 1 and (n < 1 or n % 2):
            raise ValueError(f"n_buckets is {n}, must be 1 or even: each direction makes two buckets")
        if factors is None:
            return
        if n is not None:
            raise ValueError(f"n_buckets is {n} and bucket_factors are {factors}; give only one of them")
        if not factors or any(factor < 2 or factor % 2 for factor in factors):
            raise ValueError(f"bucket_factors are {factors}, must be even numbers: each direction makes two buckets")

    def _check_rotations(self) -> None:
        if self.rotations is None:
            return
        if self._fixed_factors is None:
            raise ValueError("rotations need n_buckets or bucket_factors: otherwise their shape depends on the length")
        shape, directions = tuple(self.rotations.shape), sum(self._fixed_factors) // 2
        if (len(shape), *shape[1::2]) != (4, self.n_rounds, directions):
            raise ValueError(f"rotations have shape {shape}, must be (h, {self.n_rounds}, head_dim, {directions})")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"chunk_size={self.chunk_size}, n_rounds={self.n_rounds}, causal={self.causal}"

    def forward(self, qk: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map qk (b, h, n, d) and v (b, h, n, e) to (b, h, n, e); mask (b, n) is True where a token is real."""
        check_heads(qk, qk, v, heads=None if self.rotations is None else len(self.rotations))
        mask = boolean_mask(mask, qk)
        if qk.shape[2] == 0:
            return v
        factors = self._fixed_factors or (choose_n_buckets(qk.shape[2], max(1, self.chunk_size // 2)),)
        n_buckets = math.prod(factors)
        rotations = self._rotations(qk, sum(factors))  # half as many directions as the sum, for each factor its half
        buckets = decide(lambda: bucket_by_factors(qk, rotations, factors))
        if mask is not None:  # padding goes to an extra bucket that sorts after all others
            buckets = buckets.masked_fill(~mask[:, None, None, :], n_buckets)
        return attend_in_circle(
            qk,
            v,
            buckets,
            n_buckets=n_buckets,
            chunk_size=self.chunk_size,
            multiple_of=self.multiple_of,
            causal=self.causal,
            epsilon=self.epsilon,
            dropout=self.dropout if self.training else 0.0,
        )

    @property
    def _fixed_factors(self) -> tuple[int, ...] | None:
        """The factors of the number of buckets, or None if it depends on the length."""
        return self.bucket_factors if self.n_buckets is None else (self.n_buckets,)

    def _rotations(self, qk: Tensor, n_buckets: int) -> Tensor:
        if self.rotations is not None:
            return self.rotations
        heads, head_dim = qk.shape[1], qk.shape[3]
        if self.training:
            return draw_rotations(heads, self.n_rounds, head_dim, n_buckets, like=qk)
        return seeded_rotations(qk.detach(), heads, self.n_rounds, head_dim, n_buckets, self.seed)

    def new_cache(self, like: Tensor, max_len: int) -> Cache:
        """Not supported.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "step-by-step decoding needs LSHAttention with causal=True and rule='bucket': here later tokens move the "
            "chunk boundaries of earlier ones"
        )


def bucket_by_factors(qk: Tensor, rotations: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Combine one hash per factor into a bucket number: sum_i (product of the factors before i) * bucket_i.

    A large number of buckets then needs few directions: half of the factors' sum instead of half of their product.

    Args:
        qk: (b, h, n, d).
        rotations: (h, r, d, sum of the factors / 2), the rotations of :func:`bucket_of` for each factor, concatenated.
        factors: number of buckets of each hash, 1 or even.

    Returns:
        int32 (b, h, r, n), each in [0, product of the factors).
    """
    parts = rotations.split([factor // 2 for factor in factors], dim=-1)
    found, size = bucket_of(qk, parts[0]), factors[0]
    for factor, own in zip(factors[1:], parts[1:], strict=True):
        found = found + size * bucket_of(qk, own)
        size *= factor
    return found


def attend_in_circle(
    qk: Tensor,
    v: Tensor,
    buckets: Tensor,
    *,
    n_buckets: int,
    chunk_size: int,
    multiple_of: int,
    causal: bool,
    epsilon: float = 0.0,
    dropout: float = 0.0,
) -> Tensor:
    """LSH attention for given buckets, in one circle of the chunks of all rounds.

    Args:
        qk: (b, h, n, d).
        v: (b, h, n, e).
        buckets: (b, h, r, n), each in [0, n_buckets), or n_buckets for padding.
        n_buckets: the number of buckets.
        chunk_size: as in :class:`TransformersLSHAttention`.
        multiple_of: pad the sequence to a multiple of this many tokens.
        causal: a token attends only to itself and earlier tokens.
        epsilon: k = q / sqrt(||q||^2 + epsilon).
        dropout: probability of dropping a weight.

    Returns:
        (b, h, n, e).
    """
    n = qk.shape[2]
    missing = -n % multiple_of
    if n <= chunk_size:  # full attention: a single chunk, so further rounds would see the same keys again
        buckets, chunk_size, missing = buckets[:, :, :1], n, 0
    buckets = F.pad(buckets, (0, missing), value=n_buckets)
    order = sort_by_bucket(buckets)  # (b, h, r, L)

    # the chunks of all rounds lie on one axis, so that rolling by one chunk joins the rounds to a circle
    def chunks(x: Tensor) -> Tensor:  # (b, h, 1 or r, L, ·) -> sorted (b, h, r * L / chunk_size, chunk_size, ·)
        return _rows_at(x, order.unsqueeze(-1)).flatten(2, 3).unflatten(2, (-1, chunk_size))

    def rounds(x: Tensor) -> Tensor:  # sorted chunks -> (b, h, r, L, ·)
        return x.flatten(2, 3).unflatten(2, (order.shape[2], -1))

    queries, values = (chunks(F.pad(x, (0, 0, 0, missing)).unsqueeze(2)) for x in (qk, v))
    positions = order.flatten(2).unflatten(2, (-1, chunk_size)).unsqueeze(-1)
    real = chunks((buckets < n_buckets).unsqueeze(-1))
    scores = _scores_of_chunks(queries, real, positions, causal, epsilon)
    log_sum_exp = scores.logsumexp(-1, keepdim=True)
    out = drop((scores - log_sum_exp).exp(), dropout).to(v.dtype) @ _with_chunk_before(values)
    back = undo_sort(order)[..., :n].unsqueeze(-1)
    return _merge_rounds(*(_rows_at(rounds(x), back) for x in (out, log_sum_exp))).to(v.dtype)


def _rows_at(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x (b, h, 1 or r, L, d) at places (b, h, r, n, 1) -> (b, h, r, n, d).

    ``torch.take_along_dim`` does the same, but a graph exported with it is fixed to one batch size.
    """
    return x.expand(*places.shape[:3], -1, -1).gather(3, places.expand(-1, -1, -1, -1, x.shape[-1]))


def _merge_rounds(out: Tensor, log_sum_exp: Tensor) -> Tensor:
    """sum_r exp(z_r - z) o_r with z = logsumexp_r z_r: (b, h, r, n, e) and (b, h, r, n, 1) -> (b, h, n, e)."""
    return (out * (log_sum_exp - log_sum_exp.logsumexp(2, keepdim=True)).exp()).sum(2)


def _scores_of_chunks(queries: Tensor, real: Tensor, positions: Tensor, causal: bool, epsilon: float) -> Tensor:
    """Scores of each chunk's c queries with the keys of the previous chunk and of its own, in float32 or better.

    queries (b, h, chunks, c, d), real and positions (b, h, chunks, c, 1) -> (b, h, chunks, c, 2 c), or (..., c) if
    there is only one chunk.
    """
    seen, key_positions = _with_chunk_before(real).mT, _with_chunk_before(positions).mT
    if causal:
        seen = seen & (key_positions < positions)
    scores = queries @ _with_chunk_before(_keys(queries, epsilon)).mT
    scores = scores.to(torch.promote_types(queries.dtype, torch.float32)) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~seen, _HIDDEN).masked_fill(key_positions == positions, _ITSELF)


def _with_chunk_before(x: Tensor) -> Tensor:
    """Each chunk's rows, preceded by those of the previous chunk: (b, h, chunks, c, ·) -> (b, h, chunks, 2 c, ·)."""
    return torch.cat((x.roll(1, dims=2), x), dim=3) if x.shape[2] > 1 else x


def _keys(queries: Tensor, epsilon: float) -> Tensor:
    wide = queries.to(torch.promote_types(queries.dtype, torch.float32))
    return (wide * (wide.square().sum(-1, keepdim=True) + epsilon).clamp_min(_SMALLEST).rsqrt()).to(queries.dtype)
