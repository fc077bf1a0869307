"""What an attention mechanism declares about itself: its capabilities, its settings, and how to build its modules.

Code that offers a choice of mechanisms (a command line, a table, a test) queries these capabilities instead of keeping
a list of its own. registry.py lists all mechanisms. No settings file imports torch, so that command lines are parsed
without delay; a module is imported when it is built.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from my_transformers.mechanism import Mechanism

CAPABILITIES = ("directions", "steps", "cross", "shared_query_key", "needs_max_len")
"""Attributes that :class:`~my_transformers.mechanism.Mechanism` copies from the settings class."""


@dataclass(frozen=True)
class Places:
    """Positions of a sequence's tokens, on a line or on a grid.

    Args:
        max_len: the maximum number of tokens.
        columns: width of the grid that the sequence fills row by row; None: a line.
        off_grid: the number of leading tokens that are not on the grid.
    """

    max_len: int
    columns: int | None = None
    off_grid: int = 0

    @property
    def longest(self) -> float:
        """Longest initial wavelength of relative positions, in tokens: twice the longest side, at least 4."""
        n = self.max_len - self.off_grid
        return max(4, 2 * (n if self.columns is None else max(self.columns, -(-n // self.columns))))


@dataclass(frozen=True)
class Site:
    """The layers of one model that mechanisms are built for; all have the same settings.

    Args:
        heads: the number of heads.
        head_dim: size of queries, keys and values.
        causal: a token must attend only to itself and earlier tokens.
        places: positions of the keys and values.
        seeds: seeds of the random numbers, one per layer.
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
        default: the default value.
        help: its meaning, for ``--help``.
        at_least: smallest allowed value; in a tuple, of each number.
        below: values must be less than this.
        multiple_of: values must be multiples of this; in a tuple, each number.
    """
    bounds = {"ge": at_least, "lt": below, "multiple_of": multiple_of}
    metadata = {"help": help, "bounds": {name: bound for name, bound in bounds.items() if bound is not None}}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MechanismSettings:
    """Base of every mechanism's settings: plain values, with bounds and help texts, from which the module is built.

    A field's type is ``int``, ``float``, ``bool``, a ``Literal`` of strings, any of these ``| None``, or a tuple of
    numbers. The code that parses user input checks each field's bounds; :meth:`mistakes` and :meth:`mistakes_at`
    return errors that involve several fields or the model.
    """

    kind: ClassVar[str]
    """the mechanism's name in files and on command lines"""
    module: ClassVar[str]
    """import path of its class, such as my_transformers.linear.LinearAttention"""

    directions: ClassVar[tuple[bool, ...]] = (False, True)
    """supported values of ``causal``"""
    steps: ClassVar[bool] = True
    """whether it can decode step by step when causal"""
    cross: ClassVar[bool] = False
    """whether it can attend to a context when not causal: keys and values of another sequence"""
    shared_query_key: ClassVar[bool] = False
    """queries also serve as keys: it is called with qk and v"""
    needs_max_len: ClassVar[bool] = False
    """it is built for a maximum length, and refuses longer sequences"""
    one_place_per_token: ClassVar[bool] = False
    """it distinguishes tokens by position alone, so no two may share one"""
    one_way: ClassVar[str] = ""
    """why it supports one direction only, as a predicate after the kind's name; empty if it supports both"""
    instead: ClassVar[tuple[str, ...]] = ()
    """kinds that the error message suggests for the missing direction; empty: all that support it"""

    @classmethod
    def mechanism(cls) -> "type[Mechanism]":
        """The module's class; this call imports torch."""
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
        """The setting that makes causal attention leak, and the one to use instead, each as "key: value".

        With such a setting later tokens change what earlier ones attend to, so there is no step-by-step decoding.
        None: causal attention is strict.
        """
        return None

    @property
    def sees_padding(self) -> str | None:
        """A line that names the setting by which the amount of padding changes outputs; None: padding never does."""
        return None

    @property
    def exports_any_length(self) -> bool:
        """Whether a graph from torch.export works for all lengths; False: only for the length of the example."""
        return True

    def mistakes(self) -> list[str]:
        """Cross-field validation errors, one line each, with the names and values of the settings."""
        return []

    def mistakes_at(self, site: Site, key: Callable[[str], str]) -> list[str]:
        """Settings that do not fit a site, one line each. An unsupported direction is checked elsewhere.

        Args:
            site: ``site.places.max_len`` is the length of its sequences.
            key: returns the name that a message uses for a setting of this mechanism, or for ``heads`` or ``depth``.
        """
        return []

    def build(self, site: Site) -> "list[Mechanism]":
        """The modules, one per layer; layers that share parameters share the submodule.

        Raises:
            ValueError: raised by the module's class.
        """
        return [self.mechanism()(**self.arguments(site, seed)) for seed in site.seeds]

    def arguments(self, site: Site, seed: int) -> dict[str, Any]:
        """Keyword arguments of the module's class for one layer: every setting by its name, and ``causal``."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"causal": site.causal}
