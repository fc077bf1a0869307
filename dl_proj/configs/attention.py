"""One schema an attention mechanism, told apart by ``kind``."""

from typing import Annotated, Literal

from pydantic import Field

from dl_proj.configs.base import Strict


class _AttentionConfig(Strict):
    dropout: float = Field(0.0, ge=0, lt=1)
    """probability of dropping an attention weight in training"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return self.kind


class FullConfig(_AttentionConfig):
    """Softmax over all keys."""

    kind: Literal["full"] = "full"
    """attention mechanism"""


class SharedQKConfig(_AttentionConfig):
    """Full attention whose keys are the unit-length queries."""

    kind: Literal["shared_qk"] = "shared_qk"
    """attention mechanism"""


class LSHConfig(_AttentionConfig):
    """Shared query-key attention inside hash buckets (Reformer)."""

    kind: Literal["lsh"] = "lsh"
    """attention mechanism"""
    bucket_size: int = Field(28, ge=1)
    """lsh: expected tokens a bucket"""
    n_rounds: int = Field(4, ge=1)
    """lsh: independent hash rounds; the cost grows in step"""
    eval_rounds: int | None = Field(None, ge=1)
    """lsh: hash rounds in evaluation; null: n_rounds"""
    n_buckets: int | None = Field(None, ge=1)
    """lsh: fixed number of buckets (1 or even); null: from the length and bucket_size"""
    window: int | None = Field(None, ge=1)
    """lsh: tokens of its bucket that a query sees on one side, or tokens a chunk; null: 2 * bucket_size"""
    rule: Literal["bucket", "chunk"] = "bucket"
    """lsh: strictly causal within-bucket windows, or the paper's chunks"""
    attend_across_buckets: bool = False
    """lsh: chunk rule only: see the other buckets in a chunk too"""
    deduplicate: bool = True
    """lsh: count a key once that several rounds show"""
    fresh_rotations: bool = True
    """lsh: new rotations in each training forward; evaluation keeps one set"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return f"LSH-{self.n_rounds}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = []
        if self.n_buckets is not None and self.n_buckets > 1 and self.n_buckets % 2:
            found.append(f"n_buckets {self.n_buckets} must be 1 or even: a rotation gives two buckets")
        if self.attend_across_buckets and self.rule != "chunk":
            found.append(f"attend_across_buckets: true needs rule: chunk (got {self.rule!r})")
        return found


AttentionConfig = Annotated[FullConfig | SharedQKConfig | LSHConfig, Field(discriminator="kind")]
