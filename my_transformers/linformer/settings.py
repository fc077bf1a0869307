"""Settings of both Linformers: the projection, and how heads, keys and values, and layers share it."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from my_transformers.settings import MechanismSettings, Site, setting

if TYPE_CHECKING:
    from my_transformers.linformer.projection import LengthProjection
    from my_transformers.mechanism import Mechanism


@dataclass(frozen=True)
class _ProjectedSettings(MechanismSettings, abc.ABC):
    rank: tuple[int, ...] = setting(
        (32,),
        at_least=1,
        help="linformer: number of tokens that keys and values are projected to, the paper's k (per block, if causal); "
        "one value, or one per layer",
    )
    projection: Literal["learned", "mean", "max", "convolution"] = setting(
        "learned", help="linformer: learned matrices, or a mean, a maximum or a convolution over windows"
    )
    sharing: Literal["none", "headwise", "key_value", "layerwise"] | None = setting(
        None,
        help="linformer: parameter sharing of learned projections: none; headwise, across heads; key_value, also "
        "between keys and values; layerwise, also across layers; null: headwise",
    )
    start: Literal["noise", "identity"] = setting(
        "noise",
        help="linformer: initial learned matrices: noise; or identity, which maps token j to projected token j mod "
        "rank and so keeps tokens apart from the start",
    )

    def ranks(self, depth: int) -> tuple[int, ...]:
        """One per layer."""
        return self.rank * depth if len(self.rank) == 1 else self.rank

    @abc.abstractmethod
    def _projected(self, site: Site) -> int:
        """The maximum number of tokens that a projection takes."""

    def mistakes(self) -> list[str]:
        """See the base class."""
        if self.projection in ("mean", "max") and self.sharing is not None:
            return [
                f"sharing: {self.sharing} needs projection: learned or convolution (projection is {self.projection})"
            ]
        if self.projection != "learned" and self.start != "noise":
            return [f"start: {self.start} needs projection: learned (projection is {self.projection})"]
        if self.sharing == "layerwise" and len(set(self.rank)) > 1:
            return [f"sharing: layerwise needs the same rank in all layers (got {list(self.rank)})"]
        return []

    def _mistakes_of(self, site: Site, of_what: str, key: Callable[[str], str]) -> list[str]:
        """Ranks that do not fit the number of layers or of tokens; messages call these the tokens of ``of_what``."""
        rank_key, projected = key("rank"), self._projected(site)
        if len(self.rank) not in (1, site.depth):
            return [f"{rank_key} has {len(self.rank)} values, but there are {site.depth} layers ({key('depth')})"]
        found = []
        for rank in sorted(set(self.rank)):
            if rank > projected:
                found.append(f"{rank_key} {rank} is more than the {projected} tokens of {of_what}")
                continue
            window = math.ceil(projected / rank)
            filled = math.ceil(projected / window)
            if self.projection != "learned" and filled < rank:
                found.append(
                    f"{rank_key} {rank} is more than the {filled} windows of {window} tokens that the {projected} "
                    f"tokens of {of_what} fill; use {filled}"
                )
        return found

    def build(self, site: Site) -> "list[Mechanism]":
        """See the base class."""
        ranks = self.ranks(site.depth)
        keys = [self._projection(site, rank) for rank in ranks]
        if self.sharing == "layerwise":
            keys = keys[:1] * site.depth
        values: list[LengthProjection | None] = [None] * site.depth
        if self.sharing in (None, "none", "headwise") and self.projection in ("learned", "convolution"):
            values = [self._projection(site, rank) for rank in ranks]
        common: dict[str, Any] = {"dropout": self.dropout, "causal": site.causal}
        return [self.mechanism()(e, f, **common) for e, f in zip(keys, values, strict=True)]

    def _projection(self, site: Site, rank: int) -> "LengthProjection":
        from my_transformers.linformer import projection  # only when a model is built: settings are read without torch

        max_len, heads = self._projected(site), site.heads if self.sharing == "none" else None
        match self.projection:
            case "learned":
                return projection.LearnedProjection(max_len, rank, heads=heads, start=self.start)
            case "mean":
                return projection.MeanProjection(max_len, rank)
            case "max":
                return projection.MaxProjection(max_len, rank)
        return projection.ConvolutionProjection(max_len, rank, head_dim=site.head_dim, heads=heads)


@dataclass(frozen=True)
class LinformerSettings(_ProjectedSettings):
    """Attention to keys and values projected to fewer tokens (Linformer); never causal."""

    kind: ClassVar = "linformer"
    module: ClassVar = "my_transformers.linformer.attention.LinformerAttention"
    directions: ClassVar = (False,)
    steps: ClassVar = False
    cross: ClassVar = True
    needs_max_len: ClassVar = True
    one_way: ClassVar = "mixes all positions"

    @property
    def title(self) -> str:
        """See the base class."""
        return "Linformer"

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """See the base class."""
        return self._mistakes_of(site, "a sequence", key)

    def _projected(self, site: Site) -> int:
        return site.places.max_len


@dataclass(frozen=True)
class CausalLinformerSettings(_ProjectedSettings):
    """Linformer variant: exact attention in the current block, projections of earlier blocks; always causal."""

    kind: ClassVar = "causal_linformer"
    module: ClassVar = "my_transformers.linformer.attention.BlockCausalLinformerAttention"
    directions: ClassVar = (True,)
    one_way: ClassVar = "is always causal"
    instead: ClassVar = ("linformer",)

    rank: tuple[int, ...] = setting(
        (8,),
        at_least=1,
        help="causal_linformer: number of tokens that each block's keys and values are projected to; one value, or one "
        "per layer",
    )
    block_size: int = setting(32, at_least=1, help="causal_linformer: tokens per block")

    @property
    def title(self) -> str:
        """See the base class."""
        return "block-causal Linformer"

    @property
    def exports_any_length(self) -> bool:
        """See the base class: the number of its blocks is part of the graph."""
        return False

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """See the base class."""
        return self._mistakes_of(site, key("block_size"), key)

    def _projected(self, site: Site) -> int:
        return self.block_size
