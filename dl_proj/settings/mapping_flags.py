"""Flags for settings that are mappings, such as a sweep's ``--values model.depth=[1,2]``."""

import json
from collections.abc import Callable
from typing import Any, get_origin

import yaml
from pydantic import BaseModel

from dl_proj.settings.errors import ConfigError


def with_whole_mappings(schema: type[BaseModel], argv: list[str], read: Callable[[str], Any]) -> list[str]:
    """Turn ``key=value``, ``key=[a,b]`` and null after a mapping's flag into JSON; ``read`` parses the values."""
    mappings = {f"--{name}" for name, field in schema.model_fields.items() if get_origin(field.annotation) is dict}
    found: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if equals and flag in mappings:
            found += [flag, _mapping(value, read)]
        else:
            found.append(_mapping(word, read) if found and found[-1] in mappings else word)
    return found


def _mapping(text: str, read: Callable[[str], Any]) -> str:
    key, equals, value = text.partition("=")
    if text == "null":
        return "{}"
    if not equals or text[0] in "{[":
        return text
    try:
        return json.dumps({key: read(value)})
    except (yaml.YAMLError, ValueError, TypeError):  # TypeError: a date cannot be written as JSON
        raise ConfigError(f"flags: {text}: must be key=value or key=[value,value] (got {value!r})") from None
