"""Settings of linear attention."""

from dataclasses import dataclass
from typing import ClassVar

from my_transformers.settings import MechanismSettings, setting


@dataclass(frozen=True)
class LinearSettings(MechanismSettings):
    """Attention with the features elu(x) + 1, linear in the length (Transformers are RNNs)."""

    kind: ClassVar = "linear"
    module: ClassVar = "my_transformers.linear.LinearAttention"
    cross: ClassVar = True

    chunk_size: int = setting(128, at_least=1, help="linear: as for performer")
