"""Settings of LSH attention, and of its variant from the transformers library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from my_transformers.settings import MechanismSettings, Site, setting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LSHSettings(MechanismSettings):
    """Shared query-key attention within hash buckets (Reformer)."""

    kind: ClassVar = "lsh"
    module: ClassVar = "my_transformers.lsh.attention.LSHAttention"
    shared_query_key: ClassVar = True

    bucket_size: int = setting(28, at_least=1, help="lsh: expected tokens per bucket")
    n_rounds: int = setting(4, at_least=1, help="lsh: independent hash rounds; the cost is proportional")
    eval_rounds: int | None = setting(None, at_least=1, help="lsh: hash rounds in evaluation; null: n_rounds")
    n_buckets: int | None = setting(
        None,
        at_least=1,
        help="lsh: number of buckets (1 or even); null: from bucket_size and the model's maximum length",
    )
    window: int | None = setting(
        None,
        at_least=1,
        help="lsh: tokens of its bucket that a query sees on each side, or tokens per chunk; null: 2 * bucket_size",
    )
    rule: Literal["bucket", "chunk"] = setting(
        "bucket", help="lsh: strictly causal within-bucket windows, or the paper's chunks"
    )
    attend_across_buckets: bool = setting(False, help="lsh: chunk rule only: also see a chunk's other buckets")
    deduplicate: bool = setting(True, help="lsh: count a key once if several rounds find it")
    fresh_rotations: bool = setting(True, help="lsh: new rotations in each training forward; evaluation keeps one set")

    @property
    def title(self) -> str:
        """See the base class."""
        return f"LSH-{self.n_rounds}"

    @property
    def slug(self) -> str:
        """See the base class."""
        return f"{super().slug}-r{self.n_rounds}"

    @property
    def leak(self) -> tuple[str, str] | None:
        """See the base class."""
        return ("rule: chunk", "rule: bucket") if self.rule == "chunk" else None

    def mistakes(self) -> list[str]:
        """See the base class."""
        found = _odd_buckets(self.n_buckets)
        if self.attend_across_buckets and self.rule != "chunk":
            found.append(f"attend_across_buckets: true needs rule: chunk (got {self.rule!r})")
        return found

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """See the base class."""
        length = site.places.max_len
        if self.n_buckets is not None or self.bucket_size <= length:
            return []
        return [
            f"{key('bucket_size')} {self.bucket_size} is larger than the sequence of {length} tokens, so all tokens "
            "share one bucket; use kind: shared_qk for that"
        ]

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """See the base class."""
        return super().arguments(site, seed) | {"max_len": site.places.max_len, "seed": seed}


@dataclass(frozen=True)
class TransformersLSHSettings(MechanismSettings):
    """LSH attention of the transformers library, for imported models; not strictly causal."""

    kind: ClassVar = "transformers_lsh"
    module: ClassVar = "my_transformers.lsh.transformers.TransformersLSHAttention"
    shared_query_key: ClassVar = True
    steps: ClassVar = False

    chunk_size: int = setting(
        64, at_least=1, help="transformers_lsh: sorted tokens per chunk; a query sees its own and the previous chunk"
    )
    n_rounds: int = setting(4, at_least=1, help="transformers_lsh: independent hash rounds")
    n_buckets: int | None = setting(
        None,
        at_least=1,
        help="transformers_lsh: fixed number of buckets (1 or even); null: from the length and chunk_size",
    )
    bucket_factors: tuple[int, ...] | None = setting(
        None,
        at_least=2,
        multiple_of=2,
        help="transformers_lsh: instead of n_buckets: even numbers with that product, one hash each",
    )
    multiple_of: int | None = setting(
        None, at_least=1, help="transformers_lsh: pad to a multiple of this many tokens; null: chunk_size"
    )
    epsilon: float = setting(
        0.0, at_least=0, help="transformers_lsh: added to a query's squared length when it is normalised to a key"
    )
    keep_rotations: bool = setting(
        False,
        help="transformers_lsh: draw rotations once and save them with the weights (needs n_buckets or "
        "bucket_factors); false: new ones in each training forward; evaluation keeps one set",
    )

    @property
    def title(self) -> str:
        """See the base class."""
        return f"LSH-{self.n_rounds} (transformers)"

    @property
    def slug(self) -> str:
        """See the base class."""
        return f"{super().slug}-r{self.n_rounds}"

    @property
    def leak(self) -> tuple[str, str] | None:
        """See the base class."""
        return f"kind: {self.kind}", "kind: lsh"

    @property
    def sees_padding(self) -> str | None:
        """See the base class."""
        return f"kind: {self.kind} depends on how far a batch is padded; use kind: lsh"

    @property
    def exports_any_length(self) -> bool:
        """See the base class: the number of its chunks is part of the graph."""
        return False

    def mistakes(self) -> list[str]:
        """See the base class."""
        found = []
        if self.multiple_of is not None and self.multiple_of % self.chunk_size:
            found.append(f"multiple_of {self.multiple_of} must be a multiple of chunk_size {self.chunk_size}")
        found += _odd_buckets(self.n_buckets)
        if self.bucket_factors == ():
            found.append("bucket_factors is empty, needs at least one factor")
        if self.n_buckets is not None and self.bucket_factors is not None:
            found.append(f"n_buckets {self.n_buckets} and bucket_factors {list(self.bucket_factors)}: set only one")
        if self.keep_rotations and self.n_buckets is None and self.bucket_factors is None:
            found.append("keep_rotations: true needs n_buckets or bucket_factors")
        return found

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """See the base class."""
        given = super().arguments(site, seed) | {"seed": seed}
        return given | {"rotations": self._rotations(site, seed) if given.pop("keep_rotations") else None}

    def _rotations(self, site: Site, seed: int) -> "Tensor":
        import torch  # only when a model is built: settings are read without torch

        from my_transformers.lsh.hashing import draw_rotations

        n_buckets = sum(self.bucket_factors or (self.n_buckets or 1,))  # two per direction, in each factor
        generator = torch.Generator().manual_seed(seed)
        sizes = (site.heads, self.n_rounds, site.head_dim, n_buckets)
        return draw_rotations(*sizes, like=torch.empty(0), generator=generator)


def _odd_buckets(n_buckets: int | None) -> list[str]:
    if n_buckets is None or n_buckets == 1 or n_buckets % 2 == 0:
        return []
    return [f"n_buckets {n_buckets} must be 1 or even: each direction makes two buckets"]
