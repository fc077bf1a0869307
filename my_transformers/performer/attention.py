"""Performer: attention by random features, linear in the length (Choromanski et al. 2021, FAVOR+)."""

import torch
from torch import Tensor

from my_transformers.eager import eager
from my_transformers.performer.base import KernelAttention
from my_transformers.performer.features import FeatureMap, draw_projection
from my_transformers.performer.recompute import LogFeatures
from my_transformers.performer.settings import KERNELS, Kernel, PerformerSettings
from my_transformers.replay import decide

_EPSILON = 1e-3  # default for the generalised kernels, as in the paper's code


class PerformerAttention(KernelAttention, settings=PerformerSettings):
    """softmax(q k^T / sqrt(d)) v, or attention with another kernel, estimated with m random features in O(n m d).

    The estimate of each unnormalised weight is unbiased. Its error falls as 1 / sqrt(m), and grows with
    exp(|q + k|^2 / (2 sqrt(d))), so large queries and keys need many features.

    Definition: my_transformers/reference.py, performer_attention.

    Args:
        head_dim: size of queries and keys.
        n_features: m; default 256, or head_dim for the kernel "unprojected".
        kernel: see :func:`~my_transformers.performer.features.log_features`.
        orthogonal: draw orthogonal random directions rather than independent ones.
        turned: the number of trailing components of queries and keys that are position features: see
            :func:`~my_transformers.performer.features.draw_projection` and :class:`~my_transformers.RelativeAttention`.
        epsilon: numerical stabiliser (see log_features); default 1e-3 for the generalised kernels, 0 for the
            exponential ones.
        redraw_every: draw new random directions after this many training forwards; None keeps the first. They depend
            only on ``seed`` and the number of redraws, so all processes of a training use the same ones. The buffer
            ``projection`` and the count are in the state dict, so a resumed training continues with the same ones.
            Recomputation in backward (a reversible stack, torch.utils.checkpoint) does not count as a forward. Under
            torch.utils.checkpoint it uses the newest directions: run backward before the next training forward, or
            the gradient may belong to other directions than the output.
        causal: a token attends only to itself and earlier tokens; see
            :func:`~my_transformers.performer.causal.causal_kernel_attention`.
        chunk_size: causal only: the number of tokens whose weights are computed pair by pair. It does not change the
            result; Triton kernels use their own.
        dropout: probability of dropping a value in training, for all queries of a head at once; single weights are
            never computed.
        seed: seed of the random directions; give each layer its own.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    projection: Tensor | None
    """Random directions, one per row; None for the kernel "unprojected"."""

    def __init__(
        self,
        head_dim: int,
        *,
        n_features: int | None = None,
        kernel: Kernel = "softmax",
        orthogonal: bool = True,
        turned: int = 0,
        epsilon: float | None = None,
        redraw_every: int | None = None,
        causal: bool = False,
        chunk_size: int = 128,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(causal=causal, chunk_size=chunk_size, dropout=dropout)
        self.head_dim = head_dim
        self.kernel = kernel
        self.orthogonal = orthogonal
        self.turned = turned
        self.redraw_every = redraw_every
        self.seed = seed
        exponential = kernel in ("softmax", "hyperbolic", "unprojected")
        self.epsilon = (0.0 if exponential else _EPSILON) if epsilon is None else epsilon
        self.n_features = (head_dim if kernel == "unprojected" else 256) if n_features is None else n_features
        self._check(exponential, n_features)
        self._forwards = 0  # training forwards so far
        self.register_buffer("projection", None if kernel == "unprojected" else self._draw(0))

    def _check(self, exponential: bool, n_features: int | None) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel is {self.kernel!r}, must be one of {', '.join(KERNELS)}")
        for name in ("head_dim", "n_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.turned % 2 or not 0 <= self.turned <= self.head_dim:
            raise ValueError(f"turned is {self.turned}, must be even, at least 0 and at most head_dim {self.head_dim}")
        features_per_draw = (2 if self.kernel == "hyperbolic" else 1) * (4 if self.turned else 1)
        if self.n_features % features_per_draw:
            raise ValueError(
                f"n_features is {self.n_features}, must be a multiple of {features_per_draw} with these settings"
            )
        if self.redraw_every is not None and self.redraw_every < 1:
            raise ValueError(f"redraw_every is {self.redraw_every}, must be at least 1, or None for never")
        if self.kernel == "unprojected" and (n_features is not None or self.redraw_every is not None or self.turned):
            raise ValueError(
                "kernel='unprojected' has head_dim features and no random directions: it takes no n_features, "
                "redraw_every or turned"
            )
        if self.epsilon < 0 or (self.epsilon == 0 and not exponential):
            raise ValueError(f"epsilon is {self.epsilon}, must be positive: features of {self.kernel!r} can be 0")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"kernel={self.kernel}, n_features={self.n_features}, causal={self.causal}"

    def _current_projection(self) -> Tensor | None:
        projection, redraw_every = self.projection, self.redraw_every
        if projection is None or redraw_every is None:
            return projection
        return decide(lambda: self._counted_projection(projection, redraw_every))

    @eager  # the count changes from call to call, which a compiled graph cannot express
    def _counted_projection(self, newest: Tensor, redraw_every: int) -> Tensor:
        if torch._C._current_graph_task_id() >= 0:  # inside backward: torch.utils.checkpoint is repeating a forward
            return newest
        if self._forwards and self._forwards % redraw_every == 0:
            newest = self.projection = self._draw(self._forwards // redraw_every).to(newest)
        self._forwards += 1
        return newest

    def _draw(self, redraw: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + redraw)
        n_projections = self.n_features // 2 if self.kernel == "hyperbolic" else self.n_features
        return draw_projection(
            n_projections, self.head_dim, orthogonal=self.orthogonal, turned=self.turned, generator=generator
        )

    def get_extra_state(self) -> Tensor:
        """The number of training forwards so far, for the state dict."""
        return torch.tensor(self._forwards)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of training forwards from a state dict."""
        self._forwards = int(state)

    def feature_maps(self, *, training: bool) -> tuple[LogFeatures, LogFeatures]:
        """See the base class; counts training forwards for ``redraw_every``."""
        projection = self._current_projection() if training else self.projection
        shared = projection, self.kernel, self.epsilon
        return FeatureMap(*shared, up_to_a_factor=True), FeatureMap(*shared)

    def number_of_features(self, head_dim: int) -> int:
        """See the base class."""
        return self.n_features

    def key_width(self, n_features: int) -> int:
        """See the base class."""
        return self.head_dim
