"""Settings of the mechanisms with relative positions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from my_transformers.performer.settings import FeatureSettings, ProjectedOrExact
from my_transformers.settings import Site, setting

if TYPE_CHECKING:
    from my_transformers.mechanism import Mechanism


@dataclass(frozen=True)
class RelativeSettings(FeatureSettings):
    """A Performer whose weights depend on relative positions (translation-equivariant)."""

    kind: ClassVar = "relative"
    module: ClassVar = "my_transformers.relative.attention.RelativeAttention"
    one_place_per_token: ClassVar = True

    kernel: ProjectedOrExact = setting(
        "softmax", help="relative: as for performer, or exact: softmax attention over all keys"
    )
    n_scales: int = setting(4, at_least=1, help="relative: learned frequencies along each axis")
    content: bool = setting(True, help="relative: let the weight of a distance depend on the query")

    @property
    def title(self) -> str:
        """See the base class."""
        return "relative, exact" if self.kernel == "exact" else "relative Performer"

    def mistakes(self) -> list[str]:
        """See the base class."""
        return self.feature_mistakes(turned=True)

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """See the base class."""
        from my_transformers.relative.attention import extended_dim  # only to build a model: no torch to read settings

        turned = extended_dim(site.head_dim, self.n_scales, site.places.columns) - site.head_dim
        own = {"n_scales": self.n_scales, "content": self.content, "longest": site.places.longest}
        return _around(self.performer(site, seed, turned=turned), site) | own


@dataclass(frozen=True)
class ClippedRelativeSettings(FeatureSettings):
    """Half of the heads: a Performer without positions; the others: clipped displacement (translation-equivariant)."""

    kind: ClassVar = "clipped_relative"
    module: ClassVar = "my_transformers.relative.clipped.ClippedRelativeAttention"
    one_place_per_token: ClassVar = True

    kernel: ProjectedOrExact = setting(
        "softmax",
        help="clipped_relative: for the heads without positions: as for performer, or exact: softmax over all keys",
    )
    distance: int = setting(
        8,
        at_least=1,
        help="clipped_relative: displacements along each axis are distinguished up to this; on a grid, the cost grows "
        "with its square",
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
        return [f"{key('heads')} {site.heads} must be at least 2 for {key('kind')}: {self.kind}"]

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """See the base class."""
        return _around(self.performer(site, seed), site) | {"distance": self.distance, "dropout": self.dropout}


def _around(mechanism: "Mechanism", site: Site) -> dict[str, Any]:
    grid = {"columns": site.places.columns, "off_grid": site.places.off_grid}
    return {"mechanism": mechanism, "heads": site.heads, "head_dim": site.head_dim, **grid}
