"""Settings of both Linformers: which projections there are, and what heads, keys and values, and layers share."""

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
        help="linformer: tokens that keys and values are projected to, the paper's k (a block's, if causal); a list of "
        "several has one a layer",
    )
    projection: Literal["learned", "mean", "max", "convolution"] = setting(
        "learned", help="linformer: matrices, or a mean, a maximum or a convolution over windows"
    )
    sharing: Literal["none", "headwise", "key_value", "layerwise"] | None = setting(
        None,
        help="linformer: which of the learned projections are one: none; headwise, all heads'; key_value, also those "
        "of keys and values; layerwise, also all layers'; null: headwise",
    )
    start: Literal["noise", "identity"] = setting(
        "noise",
        help="linformer: what learned matrices are at first: noise; identity, token j goes to projected token j mod "
        "rank; so tokens are told apart from the beginning",
    )

    def ranks(self, depth: int) -> tuple[int, ...]:
        """One per layer."""
        return self.rank * depth if len(self.rank) == 1 else self.rank

    @abc.abstractmethod
    def _projected(self, site: Site) -> int:
        """Tokens that a projection takes."""

    def mistakes(self) -> list[str]:
        """See the base class."""
        if self.projection in ("mean", "max") and self.sharing is not None:
            return [f"sharing: {self.sharing} is for projections that are learned (projection is {self.projection})"]
        if self.projection != "learned" and self.start != "noise":
            return [f"start: {self.start} is for projection: learned (projection is {self.projection})"]
        if self.sharing == "layerwise" and len(set(self.rank)) > 1:
            return [f"sharing: layerwise needs the same rank in all layers (got {list(self.rank)})"]
        return []

    def _mistakes_of(self, site: Site, of_what: str, key: Callable[[str], str]) -> list[str]:
        """What does not fit the layers, and the projected tokens, which are those ``of_what``."""
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
                    f"tokens of {of_what} fill; take {filled}"
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
        from my_transformers.linformer import projection  # when it is built: settings are read without torch

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
    """Attention over keys and values whose length is projected (Linformer); not for causal models."""

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
    """Exact inside a block, projections of the blocks before it; for causal models alone."""

    kind: ClassVar = "causal_linformer"
    module: ClassVar = "my_transformers.linformer.attention.BlockCausalLinformerAttention"
    directions: ClassVar = (True,)
    one_way: ClassVar = "is always causal"
    instead: ClassVar = ("linformer",)

    rank: tuple[int, ...] = setting(
        (8,),
        at_least=1,
        help="causal_linformer: tokens that the keys and values of a block are projected to; a list of several has one "
        "a layer",
    )
    block_size: int = setting(32, at_least=1, help="causal_linformer: tokens a block")

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
