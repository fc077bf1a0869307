"""What ``--help`` says of each setting: its meaning and its default, that of each kind where kinds differ."""

import argparse
import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


def explain(parser: argparse.ArgumentParser, schema: type[BaseModel]) -> None:
    """Give the flags of ``schema`` their help; pydantic-settings takes a union's defaults from its last member."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for flag, *rest in _settings(schema):
        found.setdefault(flag, []).append(tuple(rest))
    for flag, ((_, meaning, usual), *others) in found.items():
        meanings = "; ".join(dict.fromkeys([meaning, *(other for _, other, _ in others)]))
        different = {} if flag.endswith(".kind") else {kind: text for kind, _, text in others if text != usual}
        text = "; ".join([usual, *(f"{kind}: {text.removeprefix('default: ')}" for kind, text in different.items())])
        parser._option_string_actions[flag].help = f"{meanings} ({text})".replace("%", "%%")


def _settings(schema: type[BaseModel], default: Any = None, prefix: str = "--") -> Iterator[tuple[str, str, str, str]]:
    """Flag, kind, meaning and default of each setting; of a union's, first those of the kind that is its default."""
    kind = getattr(schema.model_fields.get("kind"), "default", "")
    for name, field in schema.model_fields.items():
        value = getattr(default, name) if isinstance(default, schema) else field.default
        members = models_in(field.annotation)
        for member in sorted(members, key=lambda member: not isinstance(value, member)):
            yield from _settings(member, value, f"{prefix}{name}.")
        if not members:
            text = "needed" if field.is_required() else f"default: {_as_flag(value)}"
            yield prefix + name, kind, field.description, text


def _as_flag(value: Any) -> str:
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that an annotation allows: one, the members of a union, or none; a list of them is one setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple):
        return []
    return [model for part in get_args(annotation) for model in models_in(part)]
