"""Schemas of the models."""

import math
from typing import Annotated, Literal

from pydantic import Field

from dl_proj.configs.attention import AttentionConfig, LSHConfig
from dl_proj.configs.base import Strict
from dl_proj.configs.images import ClassifierDataConfig


class LearnedPositionsConfig(Strict):
    """A learned vector for each position."""

    kind: Literal["learned"] = "learned"
    """positional encoding"""


class SinusoidalPositionsConfig(Strict):
    """Fixed sines and cosines."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    """positional encoding"""


class AxialPositionsConfig(Strict):
    """A learned vector for each row and each column of a grid."""

    kind: Literal["axial"] = "axial"
    """positional encoding"""
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """axial: rows,columns; their product is the number of positions"""


PositionsConfig = Annotated[
    LearnedPositionsConfig | SinusoidalPositionsConfig | AxialPositionsConfig, Field(discriminator="kind")
]


class StackConfig(Strict):
    """A stack of encoder layers around any attention."""

    dim: int = Field(128, ge=1)
    """width of the activations"""
    heads: int = Field(4, ge=1)
    """attention heads"""
    head_dim: int | None = Field(None, ge=1)
    """width of a head; null: dim / heads"""
    depth: int = Field(1, ge=1)
    """layers"""
    ffn_dim: int = Field(512, ge=1)
    """hidden width of the feed-forward network"""
    ffn_chunk_size: int = Field(0, ge=0)
    """positions that the feed-forward network works on together; 0: all"""
    activation: Literal["gelu", "relu"] = "gelu"
    """of the feed-forward network"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """on the embedding, in the feed-forward network and on each sublayer's output"""
    norm: Literal["pre", "post"] = "pre"
    """layer normalisation before or after each sublayer"""
    reversible: bool = False
    """reversible residual streams: activation memory that does not grow with depth"""
    attention: AttentionConfig = LSHConfig()
    """the attention mechanism, chosen by kind"""
    positions: PositionsConfig = LearnedPositionsConfig()
    """the positional encoding, chosen by kind"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.head_dim is None and self.dim % self.heads:
            found.append(f"dim {self.dim} is not divisible by heads {self.heads}; change one, or set head_dim")
        if self.reversible and self.norm == "post":
            found.append("reversible: true needs norm: pre (norm: post cannot be inverted)")
        return found

    def mistakes_at(self, length: int) -> list[str]:
        """What does not fit sequences of ``length`` tokens."""
        found = []
        if isinstance(self.positions, AxialPositionsConfig) and math.prod(self.positions.shape) < length:
            rows, columns = self.positions.shape
            found.append(f"model.positions.shape {rows} x {columns} has fewer positions than the {length} tokens")
        attention = self.attention
        if isinstance(attention, LSHConfig) and attention.n_buckets is None and attention.bucket_size > length:
            found.append(
                f"model.attention.bucket_size {attention.bucket_size} is larger than the sequence of {length} tokens, "
                "so everything shares one bucket; use kind: shared_qk for that"
            )
        return found


class ClassifierConfig(StackConfig):
    """A stack between embedded patches and logits."""

    pooling: Literal["mean", "class_token"] = "mean"
    """what is classified: the mean over all outputs, or a learned token's; under lsh that sees one bucket a round"""
    embedding: Literal["linear", "lookup"] = "linear"
    """of a patch: a linear map of its values, or a learned vector for each level (patches of one value)"""

    def length(self, data: ClassifierDataConfig) -> int:
        """Tokens of a sequence."""
        return data.length + (self.pooling == "class_token")

    def mistakes_on(self, data: ClassifierDataConfig) -> list[str]:
        """What does not fit these images."""
        found = self.mistakes_at(self.length(data))
        if self.embedding == "lookup" and data.values != 1:
            found.append(
                f"model.embedding: lookup needs patches of one value (data.patch_size 1, and one channel or "
                f"data.split_channels: true); these have {data.values}"
            )
        return found
