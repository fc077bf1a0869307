"""What an attention mechanism declares of itself: what it can do, its settings, and how these become modules.

Whoever offers a choice of mechanisms (a command line, a table, a test) reads it here, and asks what a mechanism can do
instead of listing some. registry.py lists them all. No file of settings imports torch, so that a command line is read
at once; modules are imported when they are built.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from my_transformers.mechanism import Mechanism

CAPABILITIES = ("directions", "steps", "cross", "shared_query_key", "needs_max_len")
"""What the settings' and the module's class both have."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a sequence stand.

    Args:
        max_len: tokens at most.
        columns: of the grid that the sequence goes through row by row; None: a line.
        off_grid: so many tokens at the start have no place.
    """

    max_len: int
    columns: int | None = None
    off_grid: int = 0

    @property
    def longest(self) -> float:
        """Tokens: twice the longest side."""
        n = self.max_len - self.off_grid
        return max(4, 2 * (n if self.columns is None else max(self.columns, -(-n // self.columns))))


@dataclass(frozen=True)
class Site:
    """Where mechanisms are to work: layers of one model that have the same settings.

    Args:
        heads: number of heads.
        head_dim: of queries, keys and values.
        causal: a token must attend only to itself and earlier tokens.
        places: where the tokens stand whose keys and values are attended to.
        seeds: of each layer's random numbers, one per layer.
    """

    heads: int
    head_dim: int
    causal: bool
    places: Places
    seeds: tuple[int, ...] = (0,)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.seeds)


def setting(
    default: Any,
    *,
    help: str,
    at_least: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """A field of :class:`MechanismSettings`.

    Args:
        default: if it is left out.
        help: its meaning, for ``--help``.
        at_least: smallest value allowed; of a tuple, of each number in it.
        below: all values are less than this.
        multiple_of: whole numbers that this divides; of a tuple, each number in it.
    """
    bounds = {"ge": at_least, "lt": below, "multiple_of": multiple_of}
    metadata = {"help": help, "bounds": {name: bound for name, bound in bounds.items() if bound is not None}}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MechanismSettings:
    """Base of every mechanism's settings: plain values with bounds and meanings, which the module is built of.

    A field's type says what it can be: ``int``, ``float``, ``bool``, a ``Literal`` of words, each of these ``| None``,
    or a tuple of numbers. Its bounds are checked by whoever reads values from outside; what is wrong beyond a single
    field is what :meth:`mistakes` and :meth:`mistakes_at` return.
    """

    kind: ClassVar[str]
    """the mechanism's name in files and on command lines"""
    module: ClassVar[str]
    """where its class is, such as my_transformers.linear.LinearAttention"""

    directions: ClassVar[tuple[bool, ...]] = (False, True)
    """what ``causal`` can be"""
    steps: ClassVar[bool] = True
    """if causal, it can decode step by step; False: it can never"""
    cross: ClassVar[bool] = False
    """if not causal, it can attend to a context: keys and values of other tokens than the queries'"""
    shared_query_key: ClassVar[bool] = False
    """queries serve as keys too: it takes qk and v"""
    needs_max_len: ClassVar[bool] = False
    """it is built for a greatest length, and refuses more tokens"""
    one_place_per_token: ClassVar[bool] = False
    """it tells tokens apart by where they stand, so no two may stand at one place"""
    one_way: ClassVar[str] = ""
    """why it lacks a direction: a predicate after the kind's name; only where ``directions`` is not both"""
    instead: ClassVar[tuple[str, ...]] = ()
    """kinds that the error message suggests for the direction that it lacks; empty: all that have it"""

    @classmethod
    def mechanism(cls) -> "type[Mechanism]":
        """The module's class; asking for it imports torch."""
        path, name = cls.module.rsplit(".", 1)
        return getattr(import_module(path), name)

    dropout: float = setting(0.0, at_least=0, below=1, help="probability of dropping an attention weight in training")

    @property
    def title(self) -> str:
        """A short name for tables."""
        return self.kind

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return self.kind.replace("_", "-")

    @property
    def leak(self) -> tuple[str, str] | None:
        """Of a mechanism with steps: the setting, "key: value", with which later tokens change what earlier ones see.

        And the setting to use instead. With it there are no steps. None: later tokens change nothing.
        """
        return None

    @property
    def sees_padding(self) -> str | None:
        """A line on the setting that lets a sequence's output depend on how far it is padded; None: it does not."""
        return None

    @property
    def exports_any_length(self) -> bool:
        """A graph of torch.export serves all lengths; False: it serves the one that it was made for."""
        return True

    def mistakes(self) -> list[str]:
        """What is wrong between settings that are right one by one: a line each, with the names and their values."""
        return []

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """What does not fit a site, beyond a direction that there is not: a line each.

        Args:
            site: ``site.places.max_len`` is the length of its sequences.
            key: what a message calls a setting of this mechanism, or the model's ``heads`` or ``depth``.
        """
        return []

    def build(self, site: Site) -> "list[Mechanism]":
        """The modules, one per layer; layers that share something share the submodule.

        Raises:
            ValueError: what the module's class raises.
        """
        return [self.mechanism()(**self.arguments(site, seed)) for seed in site.seeds]

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """What the module's class is called with for a layer: every setting by its name, and ``causal``."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"causal": site.causal}
