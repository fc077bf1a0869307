"""Linear attention with the features elu(x) + 1 (Katharopoulos et al. 2020, "Transformers are RNNs")."""

import torch
from torch import Tensor

from my_transformers.linear_settings import LinearSettings
from my_transformers.performer.base import KernelAttention
from my_transformers.performer.recompute import LogFeatures


class LinearAttention(KernelAttention, settings=LinearSettings):
    """Weights phi(q_i) . phi(k_j) with phi(x) = elu(x) + 1, so that sums over keys can be shared by all queries.

    Bidirectional: equations 4 to 7, O(n d^2) time. Causal: equations 8 to 12 in O(n (chunk_size + d) d) time; the
    running sums S_i and Z_i are updated once per chunk. When decoding, these sums are the whole cache, the paper's
    recurrent form (equations 16 to 20). No epsilon is needed: features are kept as logarithms, log(elu(x) + 1) being x
    for x <= 0 and log(1 + x) above, so that small ones do not underflow before they are rescaled.

    Saved for backward: the same as for a Performer with d features (performer/bidirectional.py, performer/causal.py).

    Definition: my_transformers/reference.py, linear_attention.

    Args:
        causal: a token attends only to itself and earlier tokens.
        chunk_size: causal only: the number of tokens whose weights are computed pair by pair.
        dropout: probability of dropping a value in training, for all queries of a head at once.

    Raises:
        ValueError: arguments out of range.
    """

    def __init__(self, *, causal: bool = False, chunk_size: int = 128, dropout: float = 0.0) -> None:
        super().__init__(causal=causal, chunk_size=chunk_size, dropout=dropout)

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"causal={self.causal}, chunk_size={self.chunk_size}, dropout={self.dropout}"

    def feature_maps(self, *, training: bool) -> tuple[LogFeatures, LogFeatures]:
        """See the base class."""
        return log_elu_plus_one, log_elu_plus_one

    def number_of_features(self, head_dim: int) -> int:
        """See the base class."""
        return head_dim

    def key_width(self, n_features: int) -> int:
        """See the base class."""
        return n_features


def log_elu_plus_one(x: Tensor) -> Tensor:
    """Log(elu(x) + 1), elementwise: x for x <= 0, log(1 + x) above (equation 7)."""
    return torch.where(x > 0, x.clamp_min(0).log1p(), x)
