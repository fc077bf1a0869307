"""Settings of Nystrom attention."""

from dataclasses import dataclass
from typing import Any, ClassVar

from my_transformers.settings import MechanismSettings, Site, setting


@dataclass(frozen=True)
class NystromSettings(MechanismSettings):
    """Softmax attention approximated through landmarks, the means of segments (Nystromformer); never causal."""

    kind: ClassVar = "nystrom"
    module: ClassVar = "my_transformers.nystrom.NystromAttention"
    directions: ClassVar = (False,)
    steps: ClassVar = False
    one_way: ClassVar = "mixes all positions"

    n_landmarks: int = setting(64, at_least=1, help="nystrom: landmarks, the means of segments of queries and keys")
    n_iterations: int = setting(6, at_least=1, help="nystrom: iterations of the pseudo-inverse")
    kernel_size: int = setting(
        0, at_least=0, help="nystrom: add a learned convolution of the values over this many tokens (odd); 0: none"
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
