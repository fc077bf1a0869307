"""From a YAML file and flags to a checked configuration, or to one line a mistake."""

import argparse
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

Config = TypeVar("Config", bound=BaseModel)


class ConfigError(Exception):
    """Mistakes of the user's; ``lines`` says what, where and what is allowed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load_config(schema: type[Config], path: Path, overrides: dict | None = None) -> Config:
    """Read a YAML file, lay ``overrides`` over it and check the result.

    Raises:
        ConfigError: one line a mistake.
    """
    return check(schema, merge(read_yaml(path), overrides or {}), path)


def check(schema: type[Config], values: dict, path: Path) -> Config:
    """The configuration that ``values`` make, which came from ``path`` (and flags).

    Raises:
        ConfigError: one line a mistake.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*(_line(path, schema, mistake) for mistake in error.errors())) from None


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, or a key twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror.lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines, holds {type(values).__name__}")
    return values


def merge(values: dict, overrides: dict) -> dict:
    """Lay ``overrides`` over ``values``, key by key; another ``kind`` starts from that kind's defaults."""
    merged = dict(values)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind"):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def parse_flags(schema: type[BaseModel], argv: list[str], default: Path) -> tuple[argparse.Namespace, dict]:
    """Read ``--config``, ``--resume`` (trainings) and a flag for each field.

    Returns:
        The script's own options, and the fields that flags set, nested as in the file. ``--help`` prints and exits.

    Raises:
        ConfigError: a flag that does not exist, or that lacks its value.
    """
    own = _OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, metavar="FILE.yaml", help=f"settings to start from (default: {default})")
    if "train" in schema.model_fields:
        own.add_argument(
            "--resume",
            metavar="RUN",
            help="continue a run: its folder, or 'last' for the newest version of the experiment",
        )
    parser = _OneLineParser(
        description=schema.__doc__, parents=[own], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options, rest = own.parse_known_args(argv)
    settings = type(schema.__name__, (schema, BaseSettings), {})
    try:
        source = CliSettingsSource(settings, root_parser=parser, formatter_class=argparse.HelpFormatter)
        return options, source(args=rest)()
    except SettingsError as error:
        raise ConfigError(f"flags: {str(error).splitlines()[0]}") from None


class _OneLineParser(argparse.ArgumentParser):
    """Raises its complaint instead of printing the whole usage before it, and guesses what was meant."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].split("=")[0]
            message = f"{flag}: no such flag{_did_you_mean(flag, self._option_string_actions)}; see --help"
        raise ConfigError(f"flags: {message}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without the rule that the second of two equal keys silently wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _line(path: Path, schema: type[BaseModel], mistake: dict[str, Any]) -> str:
    """One mistake: the file, the key, what is wrong with it, what came."""
    steps, parent = _walk(schema, mistake["loc"])
    key = ".".join(steps)
    kind, message = mistake["type"], mistake["msg"]
    if kind == "extra_forbidden":
        known = list(parent.model_fields)
        message = f"no such setting{_did_you_mean(steps[-1], known)}; there are: {', '.join(known)}"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        key, message = f"{key}.kind", f"must be one of {mistake['ctx'].get('expected_tags') or _kinds(parent, steps)}"
        got = mistake["input"]
        return f"{path}: {key}: {message} (got {got.get('kind') if isinstance(got, dict) else got!r})"
    elif kind == "missing":
        return f"{path}: {key}: this setting is needed and is not there"
    elif kind == "value_error":  # a rule over several settings, whose message names them
        return f"{path}: {key}: {mistake['ctx']['error']}" if key else f"{path}: {mistake['ctx']['error']}"
    else:
        message = message[0].lower() + message[1:]
    return f"{path}: {key}: {message} (got {mistake['input']!r})"


def _walk(schema: type[BaseModel], loc: tuple) -> tuple[list[str], type[BaseModel]]:
    """The keys of a location as the file has them, without pydantic's union tags; and the last key's model."""
    steps: list[str] = []
    here: Any = schema
    parent = schema
    for step in loc:
        members = {member.model_fields["kind"].default: member for member in _models(here) if _has_kind(member)}
        if len(_models(here)) > 1 and step in members:
            here = members[step]
            continue
        models = _models(here)
        parent = models[0] if models else parent
        field = parent.model_fields.get(step) if models and isinstance(step, str) else None
        here = field.annotation if field else None
        steps.append(str(step))
    return steps, parent


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that an annotation allows: one, the members of a union, or none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _has_kind(model: type[BaseModel]) -> bool:
    return "kind" in model.model_fields


def _kinds(parent: type[BaseModel], steps: list[str]) -> str:
    members = _models(parent.model_fields[steps[-1]].annotation)
    return ", ".join(repr(member.model_fields["kind"].default) for member in members)


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}" if close else ""


def differing_keys(one: dict, other: dict, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose values differ between two nested mappings."""
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}"


def complain(lines: tuple[str, ...]) -> None:
    """Print mistakes where they belong."""
    print(*lines, sep="\n", file=sys.stderr)
