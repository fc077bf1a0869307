"""Settings of local attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from my_transformers.settings import MechanismSettings, Site, setting


@dataclass(frozen=True)
class LocalSettings(MechanismSettings):
    """Softmax over a query's own chunk of the sequence and its neighbours."""

    kind: ClassVar = "local"
    module: ClassVar = "my_transformers.local.LocalAttention"

    chunk_size: int = setting(64, at_least=1, help="local: tokens per chunk")
    back: int = setting(1, at_least=0, help="local: number of earlier chunks that a query attends to")
    ahead: int | None = setting(
        None, at_least=0, help="local: number of later chunks; null: as many as back, or 0 in causal models"
    )
    circle: int | None = setting(
        None,
        at_least=1,
        help="local: wrap around: pad to a multiple of this many tokens, then join the ends; not in causal models",
    )

    @property
    def sees_padding(self) -> str | None:
        """See the base class."""
        if self.circle is None:
            return None
        return f"circle {self.circle} must be null: how far a batch is padded decides where the sequence wraps around"

    @property
    def exports_any_length(self) -> bool:
        """See the base class: not with ``circle``, which makes the amount of padding matter."""
        return self.circle is None

    def mistakes(self) -> list[str]:
        """See the base class."""
        if self.circle is None or self.circle % self.chunk_size == 0:
            return []
        return [f"circle {self.circle} must be a multiple of chunk_size {self.chunk_size}"]

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """See the base class."""
        if site.causal and self.ahead:
            return [f"{key('ahead')} {self.ahead} must be 0 or null in a causal model, which hides later tokens"]
        if site.causal and self.circle:
            return [f"{key('circle')} {self.circle} must be null in a causal model: the start would see the end"]
        return []
