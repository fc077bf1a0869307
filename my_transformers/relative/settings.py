"""Settings of the mechanisms with relative positions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from my_transformers.mechanism import Mechanism, Places, Site, setting
from my_transformers.performer.settings import FeatureSettings, ProjectedOrExact
from my_transformers.relative.attention import RelativeAttention, extended_dim
from my_transformers.relative.clipped import ClippedRelativeAttention


@dataclass(frozen=True)
class RelativeSettings(FeatureSettings):
    """A Performer whose weights depend on distances (translation-equivariant)."""

    kind: ClassVar = "relative"
    mechanism: ClassVar = RelativeAttention
    one_place_per_token: ClassVar = True

    kernel: ProjectedOrExact = setting(
        "softmax", help="relative: as for performer, or exact: softmax attention over all keys"
    )
    n_scales: int = setting(4, at_least=1, help="relative: learned frequencies along each axis")
    content: bool = setting(True, help="relative: let what is looked for at a distance depend on the query")

    @property
    def title(self) -> str:
        """See the base class."""
        return "relative, exact" if self.kernel == "exact" else "relative Performer"

    def mistakes(self) -> list[str]:
        """See the base class."""
        return self.feature_mistakes(turned=True)

    def build(self, site: Site) -> list[Mechanism]:
        """See the base class."""
        places = site.places
        turned = extended_dim(site.head_dim, self.n_scales, places.columns) - site.head_dim
        own = {"n_scales": self.n_scales, "content": self.content, "longest": places.longest}
        return [
            RelativeAttention(
                self.performer(site, seed, turned=turned),
                heads=site.heads,
                head_dim=site.head_dim,
                **_grid(places),
                **own,
            )
            for seed in site.seeds
        ]


@dataclass(frozen=True)
class ClippedRelativeSettings(FeatureSettings):
    """Half of the heads a Performer without positions, half attend by clipped distance (translation-equivariant)."""

    kind: ClassVar = "clipped_relative"
    mechanism: ClassVar = ClippedRelativeAttention
    one_place_per_token: ClassVar = True

    kernel: ProjectedOrExact = setting(
        "softmax",
        help="clipped_relative: of the heads without positions: as for performer, or exact: softmax over all keys",
    )
    distance: int = setting(
        8,
        at_least=1,
        help="clipped_relative: displacements along each axis are told apart up to this; the cost grows with its "
        "square",
    )

    @property
    def title(self) -> str:
        """See the base class."""
        return "clipped relative"

    def mistakes(self) -> list[str]:
        """See the base class."""
        return self.feature_mistakes(turned=False)

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """See the base class."""
        if site.heads >= 2:
            return []
        return [f"{key('heads')} {site.heads} must be 2 at least for {key('kind')}: {self.kind}"]

    def build(self, site: Site) -> list[Mechanism]:
        """See the base class."""
        own = {"distance": self.distance, "dropout": self.dropout}
        return [
            ClippedRelativeAttention(
                self.performer(site, seed), heads=site.heads, head_dim=site.head_dim, **_grid(site.places), **own
            )
            for seed in site.seeds
        ]


def _grid(places: Places) -> dict[str, int | None]:
    return {"columns": places.columns, "off_grid": places.off_grid}
