"""Base class of mechanisms with a feature map: forward, step-by-step decoding and its cache."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from my_transformers.cache import Cache, check_causal
from my_transformers.checks import check_heads
from my_transformers.derivatives import exporting, transformed
from my_transformers.dropout import check_dropout, drop_values
from my_transformers.kernels import use_triton
from my_transformers.masks import boolean_mask
from my_transformers.mechanism import Mechanism
from my_transformers.performer.bidirectional import bidirectional_kernel_attention, masses_and_means, mixture_of_means
from my_transformers.performer.causal import PrefixSum, causal_kernel_attention, divide_by_weights
from my_transformers.performer.features import FeatureMap
from my_transformers.performer.recompute import LogFeatures


class KernelAttention(Mechanism, abc.ABC):
    """Attention whose weights are products of features, A_ij = phi(q_i) . phi(k_j), in time linear in the length.

    Features are rescaled separately for each sample and head, so that these cannot influence each other. Features and
    sums are in float32 at least, also under autocast. Subclasses define phi.

    Args:
        causal: a token attends only to itself and earlier tokens; see
            :func:`~my_transformers.performer.causal.causal_kernel_attention`.
        chunk_size: causal only: the number of tokens whose weights are computed pair by pair.
        dropout: probability of dropping a value in training, for all queries of a head at once; single weights are
            never computed.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(self, *, causal: bool, chunk_size: int, dropout: float) -> None:
        super().__init__()
        check_dropout(dropout)
        if chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size}, must be at least 1")
        self.causal = causal
        self.chunk_size = chunk_size
        self.dropout = dropout

    @abc.abstractmethod
    def feature_maps(self, *, training: bool) -> tuple[LogFeatures, LogFeatures]:
        """The maps log phi for queries and for keys; that for queries may omit a factor common to a query's features.

        ``training``: whether this is a forward in training mode, which a subclass may count.
        """

    @abc.abstractmethod
    def number_of_features(self, head_dim: int) -> int:
        """The number of features of a query or key of ``head_dim`` numbers."""

    @abc.abstractmethod
    def key_width(self, n_features: int) -> int:
        """Size of the queries and keys that have ``n_features`` features: the inverse of number_of_features."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend from q (b, h, n, d) to k (b, h, m, d) and v (b, h, m, e) -> (b, h, n, e).

        ``mask`` (b, m) is True where a key is real. The output at a padded query is finite but meaningless.

        Raises:
            ValueError: causal, and the number of keys differs from the number of queries.
        """
        check_heads(q, k, v, head_dim=self.key_width(self.number_of_features(q.shape[-1])))
        mask = boolean_mask(mask, k)
        if self.causal and q.shape[2] != k.shape[2]:
            raise ValueError(
                f"causal attention needs as many keys as queries, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        if q.shape[2] == 0:
            return v[:, :, :0]
        phi_q, phi_k = self.feature_maps(training=self.training)
        v = drop_values(v, self.dropout if self.training else 0.0)
        directions = phi_k.directions() if isinstance(phi_k, FeatureMap) else None
        plain = exporting() or transformed()  # these do not support the Triton operators
        if directions is not None and not plain and use_triton(q, k, v, largest_dim=256):
            from my_transformers.performer import triton_attention  # Triton may be missing, and takes time to import

            return triton_attention.exponential_attention(q, k, v, directions, causal=self.causal, mask=mask)
        with torch.autocast(q.device.type, enabled=False):
            q, k, exact = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
            if self.causal:
                out = causal_kernel_attention(q, k, exact, phi_q, phi_k, mask=mask, chunk_size=self.chunk_size)
            else:
                out = bidirectional_kernel_attention(q, k, exact, phi_q, phi_k, mask=mask)
        return out.to(v.dtype)

    def summarize(self, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Summarise keys (b, h, m, d) and values (b, h, m, e) for :meth:`attend`, in a size that does not grow with m.

        Features are computed once for many calls. Autograd saves them for backward, while :meth:`forward` recomputes
        them.

        Args:
            k: keys.
            v: values.
            mask: (b, m), True where a key is real.

        Returns:
            (b, h, 1, n_features) and (b, h, n_features, e), in float32 at least.

        Raises:
            ValueError: causal, where each query has its own set of keys.
        """
        if self.causal:
            raise ValueError("causal=True: no summary of the keys is the same for all queries; use causal=False")
        v = drop_values(v, self.dropout if self.training else 0.0)
        with torch.autocast(k.device.type, enabled=False):
            k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (k, v))
            mask = boolean_mask(mask, k)
            return masses_and_means(self.feature_maps(training=False)[1](k), v, mask)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, *, mask: None = None) -> Tensor:
        """Attend from q (b, h, n, d) to the results of :meth:`summarize`, which include the mask -> (b, h, n, e)."""
        with torch.autocast(q.device.type, enabled=False):
            log_phi_q, _ = self.feature_maps(training=False)
            return mixture_of_means(log_phi_q(q.to(keys.dtype)), keys, values).to(q.dtype)

    def new_cache(self, like: Tensor, max_len: int) -> "FeatureCache":
        """An empty cache for decoding up to ``max_len`` tokens: f (d + 1) numbers per head; a step costs O(f d).

        Neither depends on the length; f is the number of features.

        Args:
            like: (b, h, any, d), for sizes and device.
            max_len: the maximum number of tokens.

        Raises:
            ValueError: not causal.
        """
        check_causal(self.causal)
        exact = like.to(torch.promote_types(like.dtype, torch.float32))
        return FeatureCache(PrefixSum.empty(exact, self.number_of_features(like.shape[-1])), 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "FeatureCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the sum.

        Raises:
            ValueError: the inputs do not fit the cache, or it has no room for t more tokens.
        """
        batch, heads, n_features, width = cache.so_far.sums.shape  # width: the values, and one column for the weights
        key_width = self.key_width(n_features)
        cache.check(q, k, v, batch=batch, heads=heads, widths=(key_width, key_width, width - 1))
        with torch.autocast(q.device.type, enabled=False):
            q, k, exact = (x.to(cache.so_far.sums.dtype) for x in (q, k, v))
            log_phi_q, log_phi_k = self.feature_maps(training=False)
            chunks = zip(*(x.split(self.chunk_size, dim=2) for x in (q, k, exact)), strict=True)
            out = [cache.attend(log_phi_q(q), log_phi_k(k), exact) for q, k, exact in chunks]
            return torch.cat(out, dim=2).to(v.dtype)


@dataclass
class FeatureCache(Cache):
    """The prefix sum of all tokens so far."""

    so_far: PrefixSum
    length: int
    max_len: int

    def attend(self, log_q: Tensor, log_k: Tensor, value: Tensor) -> Tensor:
        """Add a chunk of c tokens, (b, h, c, ·) each, and attend with them: (b, h, c, e)."""
        seen, self.so_far = self.so_far.attend(log_q, log_k, value)
        self.length += value.shape[2]
        return divide_by_weights(seen, value)
