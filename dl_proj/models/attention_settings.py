"""The attention mechanisms' settings as schemas: my_transformers declares them, files and flags are checked here."""

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
    """One mechanism's settings: fields, defaults, bounds and meanings are those of its dataclass."""

    declared: ClassVar[type[MechanismSettings]]

    if TYPE_CHECKING:  # every made class has these among its fields
        kind: str = ""
        dropout: float = 0.0

    @classmethod
    def of(cls, settings: MechanismSettings) -> "AttentionSchema":
        """The schema of settings that are given in code."""
        given = {field.name: getattr(settings, field.name) for field in fields(settings)}
        usual = {field.name: field.default for field in fields(settings)}
        return SCHEMAS[settings.kind](**{name: value for name, value in given.items() if value != usual[name]})

    @property
    def settings(self) -> MechanismSettings:
        """The same values as my_transformers takes them."""
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
        """For pickle, which would look for the made class by its name."""
        return _of_kind, (self.kind, self.model_dump(exclude_unset=True))


def _of_kind(kind: str, values: dict[str, Any]) -> AttentionSchema:
    return SCHEMAS[kind](**values)


class _Bounds(TypedDict, total=False):
    """What :func:`my_transformers.settings.setting` notes of a field, by pydantic's names."""

    ge: float
    lt: float
    multiple_of: int


def _schema(declared: type[MechanismSettings]) -> type[AttentionSchema]:
    """A field for each of the dataclass's, and ``kind`` before those that it adds to its base class's."""
    inherited = {field.name for base in declared.__mro__[1:] if is_dataclass(base) for field in fields(base)}
    hints = typing.get_type_hints(declared)
    made = {field.name: _field(hints[field.name], field.default, **field.metadata) for field in fields(declared)}
    kind = (Literal[declared.kind], Field(declared.kind, description="attention mechanism"))
    old, new = ({name: made[name] for name in made if (name in inherited) is known} for known in (True, False))
    ordered: dict[str, Any] = {**old, "kind": kind, **new}  # create_model's type has no narrower one
    name = declared.__name__.removesuffix("Settings") + "Config"
    schema = create_model(name, __base__=AttentionSchema, __module__=__name__, __doc__=declared.__doc__, **ordered)
    schema.declared = declared
    return schema


def _field(hint: Any, default: Any, *, help: str, bounds: _Bounds) -> tuple[Any, FieldInfo]:
    """A dataclass's field as pydantic has it; bounds of a tuple are those of its numbers."""
    numbers = next((part for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None)
    if numbers is None:
        return hint, Field(default, description=help, **bounds)
    number: Any = Annotated[get_args(numbers)[0], Field(**bounds)]
    entries: Any = types.GenericAlias(tuple, (number, ...))
    if types.NoneType in get_args(hint):
        return Annotated[entries | None, BeforeValidator(null_is_none)], Field(default, description=help)
    return Annotated[entries, BeforeValidator(_one_or_several)], Field(default, description=help)


def _one_or_several(value: Any) -> Any:
    """A number where several may stand; a flag brings a list always."""
    return list(value) if isinstance(value, list | tuple) else [value]


SCHEMAS: dict[str, type[AttentionSchema]] = {declared.kind: _schema(declared) for declared in SETTINGS}
"""Each kind's schema, in the registry's order."""

if TYPE_CHECKING:
    AttentionConfig = AttentionSchema
    AnyOrNoAttention = AttentionSchema | None
else:
    AttentionConfig = Annotated[Union[*SCHEMAS.values()], Field(discriminator="kind")]
    AnyOrNoAttention = Annotated[Union[*SCHEMAS.values(), None], Field(discriminator="kind")]
