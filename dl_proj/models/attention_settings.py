"""Schemas that validate the settings of attention mechanisms, derived from their dataclasses in my_transformers."""

import types
import typing
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, create_model
from pydantic.fields import FieldInfo

from dl_proj.settings.base import Strict, null_is_none
from my_transformers.registry import SETTINGS
from my_transformers.settings import MechanismSettings


class AttentionSchema(Strict):
    """The settings of a mechanism; fields, defaults, bounds and help texts are taken from its dataclass."""

    declared: ClassVar[type[MechanismSettings]]

    if TYPE_CHECKING:  # every generated class has these fields
        kind: str = ""
        dropout: float = 0.0

    @classmethod
    def of(cls, settings: MechanismSettings) -> "AttentionSchema":
        """Convert a mechanism's dataclass to its schema."""
        given = {field.name: getattr(settings, field.name) for field in fields(settings)}
        defaults = {field.name: field.default for field in fields(settings)}
        return SCHEMAS[settings.kind](**{name: value for name, value in given.items() if value != defaults[name]})

    @property
    def settings(self) -> MechanismSettings:
        """The same values as the dataclass of my_transformers."""
        return self.declared(**{field.name: getattr(self, field.name) for field in fields(self.declared)})

    @property
    def title(self) -> str:
        """A short name for tables."""
        return self.settings.title

    @property
    def slug(self) -> str:
        """A short name for folders and files."""
        return self.settings.slug

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self.settings.mistakes()

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: pickle could not find the generated class by its name."""
        return _of_kind, (self.kind, self.model_dump(exclude_unset=True))


def _of_kind(kind: str, values: dict[str, Any]) -> AttentionSchema:
    return SCHEMAS[kind](**values)


class _Bounds(TypedDict, total=False):
    """The bounds that :func:`my_transformers.settings.setting` records for a field, under pydantic's names."""

    ge: float
    lt: float
    multiple_of: int


def _schema(declared: type[MechanismSettings]) -> type[AttentionSchema]:
    """Generate the schema of a dataclass; ``kind`` comes after inherited fields and before its own."""
    inherited = {field.name for base in declared.__mro__[1:] if is_dataclass(base) for field in fields(base)}
    hints = typing.get_type_hints(declared)
    own = {field.name: _field(hints[field.name], field.default, **field.metadata) for field in fields(declared)}
    kind = (Literal[declared.kind], Field(declared.kind, description="attention mechanism"))
    old, new = ({name: own[name] for name in own if (name in inherited) is known} for known in (True, False))
    ordered: dict[str, Any] = {**old, "kind": kind, **new}  # create_model is typed with Any
    name = declared.__name__.removesuffix("Settings") + "Config"
    schema = create_model(name, __base__=AttentionSchema, __module__=__name__, __doc__=declared.__doc__, **ordered)
    schema.declared = declared
    return schema


def _field(hint: Any, default: Any, *, help: str, bounds: _Bounds) -> tuple[Any, FieldInfo]:
    """Convert a dataclass's field to pydantic's; the bounds of a tuple apply to its numbers."""
    numbers = next((part for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None)
    if numbers is None:
        return hint, Field(default, description=help, **bounds)
    number: Any = Annotated[get_args(numbers)[0], Field(**bounds)]
    entries: Any = types.GenericAlias(tuple, (number, ...))
    if types.NoneType in get_args(hint):
        return Annotated[entries | None, BeforeValidator(null_is_none)], Field(default, description=help)
    return Annotated[entries, BeforeValidator(_one_or_several)], Field(default, description=help)


def _one_or_several(value: Any) -> Any:
    """Accept a single number for a tuple; flags always pass a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


SCHEMAS: dict[str, type[AttentionSchema]] = {declared.kind: _schema(declared) for declared in SETTINGS}
"""The schema of each kind, in the order of the registry."""

if TYPE_CHECKING:
    AttentionConfig = AttentionSchema
    AnyOrNoAttention = AttentionSchema | None
else:
    AttentionConfig = Annotated[Union[*SCHEMAS.values()], Field(discriminator="kind")]
    AnyOrNoAttention = Annotated[Union[*SCHEMAS.values(), None], Field(discriminator="kind")]
