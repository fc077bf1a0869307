"""Performer: attention by random features, linear in the length (Choromanski et al. 2021, FAVOR+)."""

import torch
from torch import Tensor

from my_transformers.eager import eager
from my_transformers.performer.base import KernelAttention
from my_transformers.performer.features import FeatureMap, draw_projection
from my_transformers.performer.recompute import LogFeatures
from my_transformers.performer.settings import KERNELS, Kernel, PerformerSettings
from my_transformers.replay import decide

_EPSILON = 1e-3  # of the generalised kernels, as in the paper's code


class PerformerAttention(KernelAttention, settings=PerformerSettings):
    """softmax(q k^T / sqrt(d)) v estimated with m random features, or another kernel's attention, in O(n m d).

    The estimate of each weight before normalising is unbiased, and its error falls as 1 / sqrt(m); it grows with
    exp(|q + k|^2 / (2 sqrt(d))), so large queries and keys need many features.

    Definition: my_transformers/reference.py, performer_attention.

    Args:
        head_dim: of queries and keys.
        n_features: m; default 256, or head_dim if unprojected.
        kernel: see :func:`~my_transformers.performer.features.log_features`.
        orthogonal: orthogonal random directions rather than independent ones.
        turned: numbers at the end of queries and keys that are position features: see
            :func:`~my_transformers.performer.features.draw_projection` and :class:`~my_transformers.RelativeAttention`.
        epsilon: numerical stabiliser, see there; default 1e-3 for the generalised kernels, 0 for the exponential ones.
        redraw_every: new random directions after so many training forwards; None keeps the first. They follow from
            ``seed`` and the number of the drawing alone, so all processes of a training draw the same, and a resumed
            one continues with those it had: the buffer ``projection`` and the count are in the state dict. What
            is recomputed in backward, in a reversible stack or under torch.utils.checkpoint, is not counted. Under
            the latter it uses the newest directions: run backward before the next training forward, or the gradient
            may be another function's.
        causal: a token attends only to itself and earlier tokens; see
            :func:`~my_transformers.performer.causal.causal_kernel_attention`.
        chunk_size: of the causal form: tokens whose weights are computed one by one. It changes no result, and Triton
            kernels have their own.
        dropout: probability of dropping a value in training, for all queries of a head at once: single weights are
            never computed.
        seed: of the directions; give each layer its own.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    projection: Tensor | None
    """Random directions, one per row; None for the kernel that uses none."""

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
        self._forwards = 0  # in training
        self.register_buffer("projection", None if kernel == "unprojected" else self._drawn(0))

    def _check(self, exponential: bool, n_features: int | None) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel is {self.kernel!r}, must be one of {', '.join(KERNELS)}")
        for name in ("head_dim", "n_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.turned % 2 or not 0 <= self.turned <= self.head_dim:
            raise ValueError(f"turned is {self.turned}, must be even, and at most head_dim {self.head_dim}")
        alike = (2 if self.kernel == "hyperbolic" else 1) * (4 if self.turned else 1)
        if self.n_features % alike:
            raise ValueError(f"n_features is {self.n_features}, must be a multiple of {alike} with these settings")
        if self.redraw_every is not None and self.redraw_every < 1:
            raise ValueError(f"redraw_every is {self.redraw_every}, must be at least 1, or None for never")
        if self.kernel == "unprojected" and (n_features is not None or self.redraw_every is not None or self.turned):
            raise ValueError(
                "kernel='unprojected' has head_dim features and draws none: no n_features, no redraw_every, no turned"
            )
        if self.epsilon < 0 or (self.epsilon == 0 and not exponential):
            raise ValueError(f"epsilon is {self.epsilon}, must be positive: features of {self.kernel!r} can vanish")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"kernel={self.kernel}, n_features={self.n_features}, causal={self.causal}"

    def _current_projection(self) -> Tensor | None:
        projection, redraw_every = self.projection, self.redraw_every
        if projection is None or redraw_every is None:
            return projection
        return decide(lambda: self._counted_projection(projection, redraw_every))

    @eager  # counts, which a graph cannot
    def _counted_projection(self, newest: Tensor, redraw_every: int) -> Tensor:
        if torch._C._current_graph_task_id() >= 0:  # in a backward pass, so torch.utils.checkpoint repeats a forward
            return newest
        if self._forwards and self._forwards % redraw_every == 0:
            newest = self.projection = self._drawn(self._forwards // redraw_every).to(newest)
        self._forwards += 1
        return newest

    def _drawn(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        n_projections = self.n_features // 2 if self.kernel == "hyperbolic" else self.n_features
        return draw_projection(
            n_projections, self.head_dim, orthogonal=self.orthogonal, turned=self.turned, generator=generator
        )

    def get_extra_state(self) -> Tensor:
        """Training forwards so far, for the state dict."""
        return torch.tensor(self._forwards)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on counting from a state dict."""
        self._forwards = int(state)

    def feature_maps(self, *, training: bool) -> tuple[LogFeatures, LogFeatures]:
        """See the base class; training forwards are counted, for ``redraw_every``."""
        projection = self._current_projection() if training else self.projection
        shared = projection, self.kernel, self.epsilon
        return FeatureMap(*shared, up_to_a_factor=True), FeatureMap(*shared)

    def number_of_features(self, head_dim: int) -> int:
        """See the base class."""
        return self.n_features

    def key_width(self, n_features: int) -> int:
        """See the base class."""
        return self.head_dim
