"""What ``--help`` says of each setting: its meaning and its value in the file that a command starts from."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Nested = dict[str, Any]
"""Settings as a file has them: a section is a mapping of its own."""

_LONG = 100  # characters of a list or mapping that are shown


def explain(parser: argparse.ArgumentParser, schema: type[BaseModel], values: Nested, path: Path) -> None:
    """Give the flags of ``schema`` their help, with the values that they have without a flag.

    Args:
        parser: has a flag for each setting, and for each section one that takes JSON.
        schema: the settings.
        values: what the file at ``path`` gives, nested; defaults fill in what it lacks.
        path: the file.
    """
    parser.description = f"{(schema.__doc__ or '').strip()}\n\nDefaults are those of {path}."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    found: dict[str, list[tuple[str, str, str]]] = {}
    for flag, kind, meaning, default in _settings(schema, values):
        found.setdefault(flag, []).append((kind, meaning, default))
    for flag, action in parser._option_string_actions.items():
        if flag in found:
            action.help = _entry(flag, found[flag]).replace("%", "%%")
        elif action.nargs == "?":
            action.help = "the whole section at once"


def _entry(flag: str, kinds: list[tuple[str, str, str]]) -> str:
    """Meanings and defaults under every kind, what is usual first; what several share is said once."""
    (_, _, usual), *others = kinds
    meanings = "; ".join(dict.fromkeys(meaning for _, meaning, _ in kinds))
    different: dict[str, list[str]] = {}
    for kind, _, text in others:
        if text != usual and not flag.endswith(".kind"):
            different.setdefault(text.removeprefix("default: "), []).append(kind)
    if len(others) > 1 and [len(names) for names in different.values()] == [len(others)]:
        different = {text: ["other kinds"] for text in different}
    usual = "; ".join([usual, *(f"{', '.join(names)}: {text}" for text, names in different.items())])
    return f"{meanings} ({usual})"


def _settings(
    schema: type[BaseModel], values: Nested, default: Any = None, prefix: str = "--"
) -> Iterator[tuple[str, str, str, str]]:
    """Flag, kind, meaning and default of each setting; of a union's, first those of the kind that ``values`` has.

    A section that ``values`` lacks is the one of ``default``, if that is of this schema.
    """
    kind = getattr(schema.model_fields.get("kind"), "default", "")
    unset = getattr(schema, "UNSET", None)  # what null means in this schema
    for name, field in schema.model_fields.items():
        value = getattr(default, name) if isinstance(default, schema) else field.default
        value = values.get(name, value)
        members = models_in(field.annotation)
        for member in sorted(members, key=lambda member: not is_of(value, member)):
            given = value if isinstance(value, dict) and is_of(value, member) else {}
            yield from _settings(member, given, value, f"{prefix}{name}.")
        if not members:
            needed = field.is_required() and name not in values and not isinstance(default, schema)
            text = "needed" if needed else f"default: {unset if unset and value is None else _as_flag(value)}"
            yield prefix + name, kind, field.description or "", text


def is_of(value: Any, schema: type[BaseModel]) -> bool:
    """Whether a section, a schema's or as a file has it, is of this kind; one without kinds is."""
    if not isinstance(value, dict):
        return isinstance(value, schema)
    return "kind" not in schema.model_fields or value.get("kind") == schema.model_fields["kind"].default


def _as_flag(value: Any) -> str:
    plain = to_jsonable_python(value)
    text = plain if isinstance(plain, str) else json.dumps(plain)
    long = isinstance(plain, list | dict) and len(text) > _LONG
    return f"{len(plain)} entries, see the file" if long else text


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that an annotation allows: one, the members of a union, or none; a list of them is one setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple):
        return []
    return [model for part in get_args(annotation) for model in models_in(part)]
