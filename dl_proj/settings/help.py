"""The text of ``--help``: each setting's meaning and its value in the file that a command starts from."""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Nested = dict[str, Any]
"""Settings as in a file: a section is a mapping."""

_LONG = 100  # characters; longer lists and mappings are summarised


def explain(parser: argparse.ArgumentParser, schema: type[BaseModel], values: Nested, path: Path) -> None:
    """Set the help of the flags of ``schema``: their meaning and current value.

    In a section with kinds, only the settings of the kind in ``values`` are shown, ``kind`` first.

    Args:
        parser: has a flag for each setting, and a flag for each section, which takes JSON.
        schema: the schema of the settings.
        values: nested settings from the file at ``path`` and from the other flags; missing ones have their defaults.
        path: the file.
    """
    shown = dict(_settings(schema, values))
    for flag, action in parser._option_string_actions.items():
        if flag in shown:
            action.help = shown[flag].replace("%", "%%")
        elif flag.startswith("--") and ("." in flag or action.nargs == "?"):
            action.help = argparse.SUPPRESS  # a setting of another kind, or a whole section
    for group in parser._action_groups:
        group._group_actions.sort(key=lambda action: not action.option_strings[0].endswith(".kind"))
    kinds = [flag for flag in shown if flag.endswith(".kind")]
    hints = [f"Defaults are taken from {path} and from the other flags."]
    if kinds:
        hints.append(f"Only the settings of the chosen kinds are listed; for another kind: {kinds[-1]} KIND --help.")
    hints.append("A section can be given as JSON: --optimizer '{\"lr\": 0.001}'." if "optimizer" in values else "")
    parser.description = "\n".join([(schema.__doc__ or "").strip(), "", *filter(None, hints)])
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)


def _settings(
    schema: type[BaseModel], values: Nested, default: Any = None, prefix: str = "--"
) -> Iterator[tuple[str, str]]:
    """Yield flag and help of each setting; in a union, of the settings of the kind in ``values``.

    A section missing from ``values`` is taken from ``default``, if that is an instance of this schema.
    """
    kind = getattr(schema.model_fields.get("kind"), "default", "")
    unset = getattr(schema, "UNSET", None)  # how this schema describes null
    for name, field in schema.model_fields.items():
        value = getattr(default, name) if isinstance(default, schema) else field.default
        value = values.get(name, value)
        if members := models_in(field.annotation):
            member = next((member for member in members if is_of(value, member)), members[0])
            given = value if isinstance(value, dict) and is_of(value, member) else {}
            yield from _settings(member, given, value, f"{prefix}{name}.")
        else:
            needed = field.is_required() and name not in values and not isinstance(default, schema)
            meaning = (field.description or "").removeprefix(f"{kind}: ")
            text = "required" if needed else f"default: {unset if unset and value is None else _as_flag(value)}"
            yield prefix + name, f"{meaning} ({text})"


def is_of(value: Any, schema: type[BaseModel]) -> bool:
    """Whether a section (a model, or a mapping as in a file) is of this schema's kind; always true without kinds."""
    if not isinstance(value, dict):
        return isinstance(value, schema)
    return "kind" not in schema.model_fields or value.get("kind") == schema.model_fields["kind"].default


def _as_flag(value: Any) -> str:
    plain = to_jsonable_python(value)
    text = plain if isinstance(plain, str) and plain else json.dumps(plain)
    long = isinstance(plain, list | dict) and len(text) > _LONG
    return f"{len(plain)} entries, see the file" if long else text


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the schemas that an annotation allows, such as a union's members; a list of schemas is one setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple):
        return []
    return [model for part in get_args(annotation) for model in models_in(part)]
