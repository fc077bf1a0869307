"""Settings of full attention, and of full attention with shared queries and keys."""

from dataclasses import dataclass
from typing import ClassVar

from my_transformers.settings import MechanismSettings


@dataclass(frozen=True)
class FullSettings(MechanismSettings):
    """Softmax over all keys."""

    kind: ClassVar = "full"
    module: ClassVar = "my_transformers.full.FullAttention"
    cross: ClassVar = True


@dataclass(frozen=True)
class SharedQKSettings(MechanismSettings):
    """Full attention whose keys are the unit-length queries."""

    kind: ClassVar = "shared_qk"
    module: ClassVar = "my_transformers.full.SharedQKAttention"
    shared_query_key: ClassVar = True
