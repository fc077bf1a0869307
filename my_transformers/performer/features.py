"""Positive random features: kernels as products of feature maps (Choromanski et al. 2021, "Performers", section 2).

Attention with weights A_ij = phi(q_i) . phi(k_j) costs O(n) given phi, since sum_j A_ij v_j is
phi(q_i) . (sum_j phi(k_j) v_j^T). All maps here return the *logarithm* of phi. Features can be very
large or small; with logarithms, a common scale is subtracted before they are exponentiated and summed. So nothing
overflows, and no constant has to be added to keep sums away from zero.

Read next: bidirectional.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from my_transformers.performer.settings import Kernel

_GENERALISED: dict[str, Callable[[Tensor], Tensor]] = {  # section 2.2: any non-negative function
    "relu": F.relu,
    "elu": lambda x: F.elu(x) + 1,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
}


def draw_projection(
    n_projections: int,
    head_dim: int,
    *,
    orthogonal: bool = True,
    turned: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random directions omega, each distributed as N(0, I).

    Args:
        n_projections: the number of directions; a multiple of 4 if ``turned``.
        head_dim: size of queries and keys.
        orthogonal: make each group of head_dim directions orthogonal, which keeps the distribution of each one and
            lowers the variance of the estimate (section 2.4, theorem 2). Otherwise they are independent.
        turned: the number of trailing components that are position features, first cosines and then sines (see
            :class:`~my_transformers.RelativeAttention`). Each direction is then used four times, with these components
            rotated by 0, 90, 180 and 270 degrees. A translation rotates the position features as well, so the terms
            of the error that change sign under a half turn cancel, and the rest depends less on absolute position.
            Each rotated direction is still distributed as N(0, I).
        generator: generator of the random numbers; None: the global one.

    Returns:
        (n_projections, head_dim), float32.

    Raises:
        ValueError: ``turned``, and n_projections is not a multiple of 4.
    """
    if turned:
        if n_projections % 4:
            raise ValueError(f"n_projections is {n_projections}, must be a multiple of 4 with turned={turned}")
        fewer = draw_projection(n_projections // 4, head_dim, orthogonal=orthogonal, generator=generator)
        return _turned(fewer, turned)
    gaussian = torch.randn(n_projections, head_dim, generator=generator, dtype=torch.float64)
    if not orthogonal:
        return gaussian.float()
    blocks = math.ceil(n_projections / head_dim)
    square = torch.randn(blocks, head_dim, head_dim, generator=generator, dtype=torch.float64)
    rotations, upper = torch.linalg.qr(square)
    # QR fixes signs by convention; these signs make the rotations uniformly distributed
    rotations = rotations * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return (rotations.flatten(0, 1)[:n_projections] * gaussian.norm(dim=-1, keepdim=True)).float()


def _turned(directions: Tensor, turned: int) -> Tensor:
    """Four copies of directions (p, d), the trailing components rotated by quarter turns: (4 p, d)."""
    kept, cos, sin = directions.split((directions.shape[-1] - turned, turned // 2, turned // 2), dim=-1)
    quarters = ((cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos))
    return torch.cat([torch.cat((kept, *quarter), dim=-1) for quarter in quarters])


def log_features(
    x: Tensor,
    projection: Tensor | None,
    *,
    kernel: Kernel = "softmax",
    epsilon: float = 0.0,
    up_to_a_factor: bool = False,
) -> Tensor:
    """Log phi(x), where phi(q) . phi(k) estimates the kernel or equals it.

    With x' = x / d^(1/4), m features and directions omega_r:

    * ``softmax``: phi_r = exp(omega_r . x' - |x'|^2 / 2) / sqrt(m), an unbiased estimate of exp(q . k / sqrt(d))
      (lemma 1, SM+).
    * ``hyperbolic``: the same for omega_r and -omega_r, two features per direction, with lower variance (SM hyp+).
    * ``relu``, ``elu`` (elu + 1), ``softplus``, ``sigmoid``, ``abs``: phi_r = f(omega_r . x') + epsilon, which are
      kernels in their own right, not estimates of softmax.
    * ``unprojected``: phi_r = exp(x_r), without random numbers; for queries this amounts to a softmax over head_dim.

    Args:
        x: (..., d), queries or keys.
        projection: (p, d); None for ``unprojected``.
        kernel: the feature map.
        epsilon: numerical stabiliser. The generalised maps need it because their features can be 0. The exponential
            maps do not; with them, epsilon times the token's largest feature is added to each of its features.
        up_to_a_factor: omit exp(-|x'|^2 / 2) / sqrt(m), a factor common to all features of a token. For queries it
            cancels in attention.

    Returns:
        (..., m), m = p, or 2 p for hyperbolic, or d for unprojected.

    Raises:
        ValueError: the kernel needs a projection, and there is none.
    """
    if kernel == "unprojected":
        return _add_epsilon(x, epsilon)
    if projection is None:
        raise ValueError(f"kernel {kernel!r} needs a projection; only 'unprojected' has none")
    scale = x.shape[-1] ** -0.25
    projection = projection.to(x.dtype) * scale
    if kernel in _GENERALISED:
        return (_GENERALISED[kernel](x @ projection.mT) + epsilon).log()
    if kernel == "hyperbolic":
        projection = _both_ways(projection)
    if up_to_a_factor:
        return _add_epsilon(x @ projection.mT, epsilon)
    # omega . x' - (|x'|^2 + log m) / 2 as a single matrix product, of vectors with one more component
    constant = (x.square().sum(-1, keepdim=True) * scale**2 + math.log(projection.shape[-2])) / -2
    longer = torch.cat((projection, torch.ones_like(projection[..., :1])), dim=-1)
    return _add_epsilon(torch.cat((x, constant), dim=-1) @ longer.mT, epsilon)


@dataclass(frozen=True, eq=False)  # eq=False: torch.compile hashes callables, in torch 2.11 before the fields are set
class FeatureMap:
    """:func:`log_features` with fixed settings."""

    projection: Tensor | None
    kernel: Kernel
    epsilon: float
    up_to_a_factor: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Log phi(x)."""
        return log_features(
            x, self.projection, kernel=self.kernel, epsilon=self.epsilon, up_to_a_factor=self.up_to_a_factor
        )

    def directions(self) -> Tensor | None:
        """Omega (m, d) if phi_r = exp(omega_r . x' - |x'|^2 / 2) / sqrt(m), which Triton kernels support; else None."""
        if self.projection is None or self.kernel in _GENERALISED or self.epsilon:
            return None
        return _both_ways(self.projection) if self.kernel == "hyperbolic" else self.projection


def _both_ways(projection: Tensor) -> Tensor:
    return torch.cat((projection, -projection), dim=-2)


def _add_epsilon(logs: Tensor, epsilon: float) -> Tensor:
    """Add to each feature, given as a logarithm, ``epsilon`` times its token's largest feature."""
    if epsilon == 0:
        return logs
    return torch.logaddexp(logs, logs.amax(-1, keepdim=True) + math.log(epsilon))
