"""Settings of the Performer, and of mechanisms that contain one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from my_transformers.settings import MechanismSettings, Site, setting

if TYPE_CHECKING:
    from my_transformers.mechanism import Mechanism

Kernel = Literal["softmax", "hyperbolic", "relu", "elu", "softplus", "sigmoid", "abs", "unprojected"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

ProjectedOrExact = Literal["softmax", "hyperbolic", "relu", "elu", "softplus", "sigmoid", "abs", "exact"]
"""Kernels of a Performer inside another mechanism; "exact" replaces it by softmax attention."""


@dataclass(frozen=True)
class FeatureSettings(MechanismSettings):
    """Settings common to all mechanisms with random features; each subclass adds its ``kernel``."""

    if TYPE_CHECKING:  # every subclass defines this field, with its own choice of kernels
        kernel: str = ""

    n_features: int | None = setting(
        None,
        at_least=1,
        help="performer: random features; more reduce the error; null: 256, or head_dim for kernel unprojected",
    )
    orthogonal: bool = setting(True, help="performer: orthogonal random directions; false: independent ones")
    epsilon: float | None = setting(
        None,
        at_least=0,
        help="performer: numerical stabiliser; null: 0.001 for kernels whose features can be 0, otherwise 0",
    )
    redraw_every: int | None = setting(
        None, at_least=1, help="performer: training forwards between new random directions; null: never"
    )
    chunk_size: int = setting(
        128, at_least=1, help="performer: causal models: tokens per chunk; inside it weights are computed pair by pair"
    )

    def feature_mistakes(self, *, turned: bool) -> list[str]:
        """Errors between these settings and the kernel; ``turned``: each direction is used four times."""
        found = []
        n_features = 256 if self.n_features is None else self.n_features
        features_per_draw = (2 if self.kernel == "hyperbolic" else 1) * (4 if turned else 1)
        if self.kernel != "exact" and n_features % features_per_draw:
            found.append(
                f"n_features {self.n_features} must be a multiple of {features_per_draw} for this kind and kernel: "
                f"{self.kernel}"
            )
        if self.epsilon == 0 and self.kernel not in ("softmax", "hyperbolic", "unprojected", "exact"):
            found.append(f"epsilon 0 needs an exponential kernel: features of kernel: {self.kernel} can be 0")
        return found + [
            f"{name} is for kernels with random features (kernel is {self.kernel})"
            for name in _WITHOUT_EFFECT.get(self.kernel, ())
            if getattr(self, name) != self.__dataclass_fields__[name].default
        ]

    def performer(self, site: Site, seed: int, *, turned: int = 0) -> "Mechanism":
        """One layer's Performer, or exact attention, for queries and keys extended by ``turned`` position features."""
        from my_transformers.full import FullAttention  # only when a model is built: settings are read without torch
        from my_transformers.performer.attention import PerformerAttention

        if self.kernel == "exact":
            return FullAttention(causal=site.causal, dropout=self.dropout)
        names = ("kernel", "n_features", "orthogonal", "epsilon", "redraw_every", "chunk_size", "dropout")
        own: dict[str, Any] = {name: getattr(self, name) for name in names}
        return PerformerAttention(site.head_dim + turned, **own, turned=turned, causal=site.causal, seed=seed)


_WITHOUT_EFFECT = {
    "unprojected": ("n_features", "orthogonal", "redraw_every"),
    "exact": ("n_features", "orthogonal", "redraw_every", "epsilon", "chunk_size"),
}


@dataclass(frozen=True)
class PerformerSettings(FeatureSettings):
    """Attention by positive random features, in time linear in the length (Performer)."""

    kind: ClassVar = "performer"
    module: ClassVar = "my_transformers.performer.attention.PerformerAttention"
    cross: ClassVar = True

    kernel: Kernel = setting("softmax", help="performer: kernel that products of features estimate or equal")

    @property
    def title(self) -> str:
        """See the base class."""
        return "Performer"

    def mistakes(self) -> list[str]:
        """See the base class."""
        return self.feature_mistakes(turned=False)

    def build(self, site: Site) -> "list[Mechanism]":
        """See the base class."""
        return [self.performer(site, seed) for seed in site.seeds]
