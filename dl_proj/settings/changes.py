"""Settings that override those of another configuration, such as the location of a trained model's data."""

from typing import Annotated, Any, ClassVar, Union

from pydantic import BaseModel, Field, SkipValidation, create_model
from pydantic.fields import FieldInfo

from dl_proj.settings.base import Strict
from dl_proj.settings.help import Nested, models_in


class Changes(Strict):
    """Overrides, under their names in the other configuration; those not given keep their value there."""

    UNSET: ClassVar[str] = "as trained"

    @property
    def given(self) -> Nested:
        """The overrides that were given, nested as in a file; their target's schema validates the values."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: value.given if isinstance(value, Changes) else value for name, value in values.items()}


def changes_to(*schemas: type[BaseModel], without: tuple[str, ...] = ()) -> type[Changes]:
    """Return a schema with all settings of ``schemas`` except ``without``, all of them optional and unvalidated.

    A section becomes a section; a union of kinds becomes one section with the settings of all kinds.
    """
    fields: dict[str, list[FieldInfo]] = {}
    for schema in schemas:
        for name, field in schema.model_fields.items():
            if name not in without:
                fields.setdefault(name, []).append(field)
    made: dict[str, Any] = {name: _optional(same) for name, same in fields.items()}
    return create_model("Changes", __base__=Changes, __module__=__name__, __doc__=Changes.__doc__, **made)


def _optional(fields: list[FieldInfo]) -> tuple[Any, Any]:
    """Merge fields of the same name; the type only decides how a flag is parsed: as a string, list or section."""
    members = [member for field in fields for member in models_in(field.annotation)]
    meanings = dict.fromkeys(field.description or "" for field in fields)
    default = Field(None, description="; ".join(meanings))
    if members:
        return changes_to(*members) | None, default
    annotation: Any = Union[*(field.annotation for field in fields), None]
    return Annotated[annotation, SkipValidation], default
