"""Settings of another configuration that a script may be told anew, such as where a trained model's data is now."""

from typing import Annotated, Any, ClassVar, Union

from pydantic import BaseModel, Field, SkipValidation, create_model
from pydantic.fields import FieldInfo

from dl_proj.settings.base import Strict
from dl_proj.settings.help import Nested, models_in


class Changes(Strict):
    """Settings with the names that they have elsewhere; what is not given stays as it is there."""

    UNSET: ClassVar[str] = "as trained"

    @property
    def given(self) -> Nested:
        """The settings that were given, nested as in a file; the schema that they are for checks their values."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: value.given if isinstance(value, Changes) else value for name, value in values.items()}


def changes_to(*schemas: type[BaseModel], without: tuple[str, ...] = ()) -> type[Changes]:
    """A schema with every setting of ``schemas``, none of them needed and none checked, but for those in ``without``.

    A section becomes a section, one of several kinds as well: with the settings of all kinds.
    """
    fields: dict[str, list[FieldInfo]] = {}
    for schema in schemas:
        for name, field in schema.model_fields.items():
            if name not in without:
                fields.setdefault(name, []).append(field)
    made: dict[str, Any] = {name: _optional(same) for name, same in fields.items()}
    return create_model("Changes", __base__=Changes, __module__=__name__, __doc__=Changes.__doc__, **made)


def _optional(fields: list[FieldInfo]) -> tuple[Any, Any]:
    """One field for those of a name; its type says only how a flag is read: as a word, a list or a section."""
    members = [member for field in fields for member in models_in(field.annotation)]
    meanings = dict.fromkeys(field.description or "" for field in fields)
    default = Field(None, description="; ".join(meanings))
    if members:
        return changes_to(*members) | None, default
    annotation: Any = Union[*(field.annotation for field in fields), None]
    return Annotated[annotation, SkipValidation], default
