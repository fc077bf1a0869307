"""One schema an attention mechanism, told apart by ``kind``."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dl_proj.settings.base import Strict, null_is_none
from my_transformers.performer.settings import Kernel


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
    """lsh: number of buckets (1 or even); null: from bucket_size and the model's greatest length"""
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


class LocalConfig(_AttentionConfig):
    """Softmax over a query's own chunk of the sequence and its neighbours."""

    kind: Literal["local"] = "local"
    """attention mechanism"""
    chunk_size: int = Field(64, ge=1)
    """local: tokens a chunk"""
    back: int = Field(1, ge=0)
    """local: chunks before its own that a query sees"""
    ahead: int | None = Field(None, ge=0)
    """local: chunks behind it; null: as many as back, or none in causal models"""
    circle: int | None = Field(None, ge=1)
    """local: not for causal models: pad to a multiple of so many tokens and let the ends meet; null: they do not"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        return _no_multiple("circle", self.circle, self.chunk_size)


def _no_multiple(name: str, tokens: int | None, chunk_size: int) -> list[str]:
    if tokens is None or tokens % chunk_size == 0:
        return []
    return [f"{name} {tokens} must be a multiple of chunk_size {chunk_size}"]


Factors = Annotated[tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...] | None, BeforeValidator(null_is_none)]


class TransformersLSHConfig(_AttentionConfig):
    """LSH attention of the transformers library, for models that are imported; later tokens move what earlier see."""

    kind: Literal["transformers_lsh"] = "transformers_lsh"
    """attention mechanism"""
    chunk_size: int = Field(64, ge=1)
    """transformers_lsh: sorted tokens a chunk; a query sees its own chunk and the one before"""
    n_rounds: int = Field(4, ge=1)
    """transformers_lsh: independent hash rounds"""
    n_buckets: int | None = Field(None, ge=1)
    """transformers_lsh: fixed number of buckets (1 or even); null: from the length and chunk_size"""
    bucket_factors: Factors = None
    """transformers_lsh: instead of n_buckets: even numbers whose product it is, each hashed by itself"""
    multiple_of: int | None = Field(None, ge=1)
    """transformers_lsh: pad to a multiple of so many tokens; null: chunk_size"""
    epsilon: float = Field(0.0, ge=0)
    """transformers_lsh: added to a query's squared length before a key is made of it"""
    keep_rotations: bool = False
    """transformers_lsh: draw rotations once and keep them with the weights; with n_buckets or bucket_factors; false:
    new ones in each training forward; evaluation keeps one set"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return f"LSH-{self.n_rounds} (transformers)"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = _no_multiple("multiple_of", self.multiple_of, self.chunk_size)
        if self.n_buckets is not None and self.n_buckets > 1 and self.n_buckets % 2:
            found.append(f"n_buckets {self.n_buckets} must be 1 or even: a rotation gives two buckets")
        if self.bucket_factors == ():
            found.append("bucket_factors is empty, needs one at least")
        if self.n_buckets is not None and self.bucket_factors is not None:
            found.append(f"n_buckets {self.n_buckets} and bucket_factors {list(self.bucket_factors)}: give one of them")
        if self.keep_rotations and self.n_buckets is None and self.bucket_factors is None:
            found.append("keep_rotations: true needs n_buckets or bucket_factors")
        return found


class _PerformerSettings(_AttentionConfig):
    n_features: int | None = Field(None, ge=1)
    """performer: random features; more are more exact; null: 256, or for kernel unprojected the head's width"""
    orthogonal: bool = True
    """performer: orthogonal random directions; false: independent ones"""
    epsilon: float | None = Field(None, ge=0)
    """performer: numerical stabiliser; null: 0.001 for the kernels that can vanish, 0 for the others"""
    redraw_every: int | None = Field(None, ge=1)
    """performer: new random directions after so many training forwards; null: never"""
    chunk_size: int = Field(128, ge=1)
    """performer: causal models: tokens a chunk, inside which weights are computed one by one"""

    @property
    def _n_features(self) -> int:
        return 256 if self.n_features is None else self.n_features

    def _feature_mistakes(self, kernel: str, turned: bool) -> list[str]:
        found = []
        alike = (2 if kernel == "hyperbolic" else 1) * (4 if turned else 1)
        if kernel != "exact" and self._n_features % alike:
            found.append(
                f"n_features {self.n_features} must be a multiple of {alike} for this kind and kernel: {kernel}"
            )
        if self.epsilon == 0 and kernel not in ("softmax", "hyperbolic", "unprojected", "exact"):
            found.append(f"epsilon 0 needs an exponential kernel: features of kernel: {kernel} can vanish")
        if kernel in ("unprojected", "exact"):
            unused = ("n_features", "orthogonal", "redraw_every") + (
                ("epsilon", "chunk_size") if kernel == "exact" else ()
            )
            found += [
                f"{name} is for kernels with random features (kernel is {kernel})"
                for name in unused
                if getattr(self, name) != type(self).model_fields[name].default
            ]
        return found


class PerformerConfig(_PerformerSettings):
    """Attention by positive random features, linear in the length (Performer)."""

    kind: Literal["performer"] = "performer"
    """attention mechanism"""
    kernel: Kernel = "softmax"
    """performer: what the features' products estimate, or are"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return "Performer"

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self._feature_mistakes(self.kernel, turned=False)


_ProjectedOrExact = Literal["softmax", "hyperbolic", "relu", "elu", "softplus", "sigmoid", "abs", "exact"]


class RelativeConfig(_PerformerSettings):
    """A Performer whose weights depend on distances (translation-equivariant)."""

    kind: Literal["relative"] = "relative"
    """attention mechanism"""
    kernel: _ProjectedOrExact = "softmax"
    """relative: as for performer, or exact: softmax attention over all keys"""
    n_scales: int = Field(4, ge=1)
    """relative: learned frequencies along each axis"""
    content: bool = True
    """relative: let what is looked for at a distance depend on the query"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return "relative, exact" if self.kernel == "exact" else "relative Performer"

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self._feature_mistakes(self.kernel, turned=True)


class ClippedRelativeConfig(_PerformerSettings):
    """Half of the heads a Performer without positions, half attend by clipped distance (translation-equivariant)."""

    kind: Literal["clipped_relative"] = "clipped_relative"
    """attention mechanism"""
    kernel: _ProjectedOrExact = "softmax"
    """clipped_relative: of the heads without positions: as for performer, or exact: softmax over all keys"""
    distance: int = Field(8, ge=1)
    """clipped_relative: displacements along each axis are told apart up to this; the cost grows with its square"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return "clipped relative"

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self._feature_mistakes(self.kernel, turned=False)


Sharing = Literal["none", "headwise", "key_value", "layerwise"]


def _all_alike(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else [value]


Ranks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_all_alike)]  # a flag brings a list always


class _LinformerSettings(_AttentionConfig):
    rank: Ranks = (32,)
    """linformer: tokens that keys and values are projected to, the paper's k (a block's, if causal); a list of several
    has one a layer"""
    projection: Literal["learned", "mean", "max", "convolution"] = "learned"
    """linformer: matrices, or a mean, a maximum or a convolution over windows"""
    sharing: Sharing | None = None
    """linformer: which of the learned projections are one: none; headwise, all heads'; key_value, also those of keys
    and values; layerwise, also all layers'; null: headwise"""
    start: Literal["noise", "identity"] = "noise"
    """linformer: what learned matrices are at first: noise; identity, token j goes to projected token j mod rank; so
    tokens are told apart from the beginning"""

    def ranks(self, depth: int) -> tuple[int, ...]:
        """One a layer."""
        return self.rank * depth if len(self.rank) == 1 else self.rank

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.projection in ("mean", "max") and self.sharing is not None:
            return [f"sharing: {self.sharing} is for projections that are learned (projection is {self.projection})"]
        if self.projection != "learned" and self.start != "noise":
            return [f"start: {self.start} is for projection: learned (projection is {self.projection})"]
        if self.sharing == "layerwise" and len(set(self.rank)) > 1:
            return [f"sharing: layerwise needs the same rank in all layers (got {list(self.rank)})"]
        return []

    def mistakes_at(self, depth: int, projected: int, name: str) -> list[str]:
        """What does not fit ``depth`` layers and projections of so many tokens, that ``name`` gives."""
        if len(self.rank) not in (1, depth):
            return [f"model.attention.rank has {len(self.rank)} values, but there are {depth} layers (model.depth)"]
        found = []
        for rank in sorted(set(self.ranks(depth))):
            if rank > projected:
                found.append(f"model.attention.rank {rank} is more than the {projected} tokens of {name}")
                continue
            window = math.ceil(projected / rank)
            filled = math.ceil(projected / window)
            if self.projection != "learned" and filled < rank:
                found.append(
                    f"model.attention.rank {rank} is more than the {filled} windows of {window} tokens that the "
                    f"{projected} tokens of {name} fill; take {filled}"
                )
        return found


class LinformerConfig(_LinformerSettings):
    """Attention over keys and values whose length is projected (Linformer); not for causal models."""

    kind: Literal["linformer"] = "linformer"
    """attention mechanism"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return "Linformer"


class CausalLinformerConfig(_LinformerSettings):
    """Exact inside a block, projections of the blocks before it; for causal models alone."""

    kind: Literal["causal_linformer"] = "causal_linformer"
    """attention mechanism"""
    block_size: int = Field(32, ge=1)
    """causal_linformer: tokens a block"""
    rank: Ranks = (8,)
    """causal_linformer: tokens that the keys and values of a block are projected to; a list of several has one a
    layer"""

    @property
    def title(self) -> str:
        """A short name for tables."""
        return "block-causal Linformer"


AttentionConfig = Annotated[
    FullConfig
    | SharedQKConfig
    | LSHConfig
    | LocalConfig
    | TransformersLSHConfig
    | PerformerConfig
    | RelativeConfig
    | ClippedRelativeConfig
    | LinformerConfig
    | CausalLinformerConfig,
    Field(discriminator="kind"),
]
