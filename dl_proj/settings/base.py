"""What every schema inherits."""

from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

_LARGEST = 2**40  # of whole numbers: more than any machine can count or hold
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, of usual file systems
_NAMES_OR_PATHS = {"experiment_name", "init_from", "checkpoint", "checkpoints", "judge", "source"}  # settings, of words


class Strict(BaseModel):
    """A schema that knows all its keys, never changes, and documents its fields by their docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    def mistakes(self) -> list[str]:
        """What is wrong between settings that are right one by one: a line each, with the keys and their values."""
        return []

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """What counts of the settings ``values`` in the file ``path``, before ``flags`` are laid over them."""
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := self.mistakes():
            raise ValueError("\n".join(found))
        return self

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        """No machine counts further, and no file system has longer names."""
        for item in value if isinstance(value, tuple) else [value]:
            if isinstance(item, int) and abs(item) > _LARGEST:
                raise PydanticCustomError("too_large", f"must be at most {_LARGEST} in size")
            if isinstance(item, Path) or (info.field_name in _NAMES_OR_PATHS and isinstance(item, str)):
                _check_path(str(item))
        return value

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """As a word it is refused where a number belongs; as python's True it would count as 1."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _holds(field.annotation, int, float)}
        return {name: _spelled_out(value) if name in numbers else value for name, value in values.items()}

    @model_validator(mode="before")
    @classmethod
    def _tilde_is_the_home_folder(cls, values: Any) -> Any:
        """In a path, which comes from a file or a quoted flag: no shell has expanded it."""
        if not isinstance(values, dict):
            return values
        paths = {name for name, field in cls.model_fields.items() if _holds(field.annotation, Path)}
        return {name: _expanded(value) if name in paths else value for name, value in values.items()}


def expanded(path: Path | str) -> Path:
    """A path with the home folder in place of ``~`` or ``~user`` at its start; an unknown user's stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _check_path(path: str) -> None:
    if "\0" in path:
        raise PydanticCustomError("null_in_path", "must be a path without a null character")
    parts = [part.encode(errors="surrogateescape") for part in Path(path).parts]
    if any(len(part) > _LONGEST_NAME for part in parts) or sum(len(part) + 1 for part in parts) > _LONGEST_PATH:
        raise PydanticCustomError(
            "long_path", f"must have names of at most {_LONGEST_NAME} bytes, {_LONGEST_PATH} in all"
        )


def null_is_none(value: Any) -> Any:
    """For a list that may be null, which a flag brings as [null]."""
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
