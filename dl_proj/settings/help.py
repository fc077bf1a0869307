"""What ``--help`` says of each setting: its meaning and its value in the file that a command starts from."""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Nested = dict[str, Any]
"""Settings as a file has them: a section is a mapping of its own."""

_LONG = 100  # characters of a list or mapping that are shown


def explain(parser: argparse.ArgumentParser, schema: type[BaseModel], values: Nested, path: Path) -> None:
    """Give the flags of ``schema`` their help, with the values that they have without a flag.

    Of a section that has kinds, the settings of the kind in ``values`` are shown, ``kind`` first.

    Args:
        parser: has a flag for each setting, and for each section one that takes JSON.
        schema: the settings.
        values: what the file at ``path`` and the other flags say, nested; defaults fill in what they lack.
        path: the file.
    """
    shown = dict(_settings(schema, values))
    for flag, action in parser._option_string_actions.items():
        if flag in shown:
            action.help = shown[flag].replace("%", "%%")
        elif flag.startswith("--") and ("." in flag or action.nargs == "?"):
            action.help = argparse.SUPPRESS  # another kind's, or a whole section
    for group in parser._action_groups:
        group._group_actions.sort(key=lambda action: not action.option_strings[0].endswith(".kind"))
    kinds = [flag for flag in shown if flag.endswith(".kind")]
    hints = [f"Defaults are those of {path} and of the flags beside --help."]
    if kinds:
        hints.append(f"Where there are kinds, the chosen one's settings are listed: try {kinds[-1]} KIND --help.")
    hints.append("A section can be given as JSON, too: --optimizer '{\"lr\": 0.001}'." if "optimizer" in values else "")
    parser.description = "\n".join([(schema.__doc__ or "").strip(), "", *filter(None, hints)])
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)


def _settings(
    schema: type[BaseModel], values: Nested, default: Any = None, prefix: str = "--"
) -> Iterator[tuple[str, str]]:
    """Flag and help of each setting; of a union's, those of the kind that ``values`` has.

    A section that ``values`` lacks is the one of ``default``, if that is of this schema.
    """
    kind = getattr(schema.model_fields.get("kind"), "default", "")
    unset = getattr(schema, "UNSET", None)  # what null means in this schema
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
            text = "needed" if needed else f"default: {unset if unset and value is None else _as_flag(value)}"
            yield prefix + name, f"{meaning} ({text})"


def is_of(value: Any, schema: type[BaseModel]) -> bool:
    """Whether a section, a schema's or as a file has it, is of this kind; one without kinds is."""
    if not isinstance(value, dict):
        return isinstance(value, schema)
    return "kind" not in schema.model_fields or value.get("kind") == schema.model_fields["kind"].default


def _as_flag(value: Any) -> str:
    plain = to_jsonable_python(value)
    text = plain if isinstance(plain, str) and plain else json.dumps(plain)
    long = isinstance(plain, list | dict) and len(text) > _LONG
    return f"{len(plain)} entries, see the file" if long else text


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that an annotation allows: one, the members of a union, or none; a list of them is one setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple):
        return []
    return [model for part in get_args(annotation) for model in models_in(part)]
