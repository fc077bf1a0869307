"""The base class of every schema."""

from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

_LARGEST = 2**40  # bound of whole numbers: more than any count or size on any machine
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes; limits of common file systems
# string settings that become, or may be, a path
_NAMES_OR_PATHS = {"experiment_name", "init_from", "checkpoint", "checkpoints", "judge", "source"}


class Strict(BaseModel):
    """A frozen schema that rejects unknown keys and documents its fields by their docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    def mistakes(self) -> list[str]:
        """Return cross-field validation errors, one line each, with the keys and their values."""
        return []

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """Return the values of the file at ``path`` that apply, adjusted to ``flags``, which are merged afterwards."""
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := self.mistakes():
            raise ValueError("\n".join(found))
        return self

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject numbers and paths too large for any machine or file system."""
        for item in value if isinstance(value, tuple) else [value]:
            if isinstance(item, int) and abs(item) > _LARGEST:
                raise PydanticCustomError("too_large", f"must be at most {_LARGEST} in size")
            if isinstance(item, Path) or (info.field_name in _NAMES_OR_PATHS and isinstance(item, str)):
                _check_path(str(item))
        return value

    @model_validator(mode="before")
    @classmethod
    def _reject_booleans_for_numbers(cls, values: Any) -> Any:
        """Reject booleans for numeric fields: pydantic would take True as 1, but refuses the string "true"."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _holds(field.annotation, int, float)}
        return {name: _spelled_out(value) if name in numbers else value for name, value in values.items()}

    @model_validator(mode="before")
    @classmethod
    def _expand_tilde(cls, values: Any) -> Any:
        """Expand ``~`` in paths: in a file or a quoted flag, no shell has expanded it."""
        if not isinstance(values, dict):
            return values
        paths = {name for name, field in cls.model_fields.items() if _holds(field.annotation, Path)}
        return {name: _expanded(value) if name in paths else value for name, value in values.items()}


def expanded(path: Path | str) -> Path:
    """Expand ``~`` or ``~user`` at the start of a path; an unknown user's is left unchanged."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _check_path(path: str) -> None:
    if "\0" in path:
        raise PydanticCustomError("null_in_path", "must be a path without null characters")
    parts = [part.encode(errors="surrogateescape") for part in Path(path).parts]
    if any(len(part) > _LONGEST_NAME for part in parts) or sum(len(part) + 1 for part in parts) > _LONGEST_PATH:
        raise PydanticCustomError(
            "long_path", f"must be at most {_LONGEST_PATH} bytes long, and each name in it {_LONGEST_NAME}"
        )


def null_is_none(value: Any) -> Any:
    """Turn [None] into None: pydantic-settings parses the flag value null of a list as [null]."""
    return None if value == [None] else value


def _holds(annotation: Any, *types: type) -> bool:
    return annotation in types or any(_holds(part, *types) for part in get_args(annotation))


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return str(expanded(value)) if isinstance(value, str) and value.startswith("~") else value


def _spelled_out(value: Any) -> Any:
    if isinstance(value, list):
        return [_spelled_out(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value
