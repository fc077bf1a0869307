"""Settings of Nystrom attention."""

from dataclasses import dataclass
from typing import Any, ClassVar

from my_transformers.settings import MechanismSettings, Site, setting


@dataclass(frozen=True)
class NystromSettings(MechanismSettings):
    """Softmax attention through landmarks, the means of segments (Nystromformer); not for causal models."""

    kind: ClassVar = "nystrom"
    module: ClassVar = "my_transformers.nystrom.NystromAttention"
    directions: ClassVar = (False,)
    steps: ClassVar = False
    one_way: ClassVar = "mixes all positions"

    n_landmarks: int = setting(64, at_least=1, help="nystrom: means of segments that stand for queries and keys")
    n_iterations: int = setting(6, at_least=1, help="nystrom: steps of the iteration that inverts a matrix")
    kernel_size: int = setting(
        0, at_least=0, help="nystrom: tokens, odd, of a learned convolution of the values that is added; 0: none"
    )

    @property
    def title(self) -> str:
        """See the base class."""
        return "Nystromformer"

    def mistakes(self) -> list[str]:
        """See the base class."""
        if self.kernel_size == 0 or self.kernel_size % 2:
            return []
        return [f"kernel_size {self.kernel_size} must be odd, or 0 for no convolution"]

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """See the base class."""
        return super().arguments(site, seed) | {"heads": site.heads}
