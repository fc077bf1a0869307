"""From a YAML file and flags to a validated configuration, or to one line per mistake."""

import argparse
import difflib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from dl_proj.settings.base import Strict
from dl_proj.settings.errors import ConfigError, shown
from dl_proj.settings.help import Nested, explain, is_of, models_in
from dl_proj.settings.mapping_flags import with_whole_mappings
from dl_proj.settings.read_yaml import parse_yaml, read_yaml

Config = TypeVar("Config", bound=BaseModel)

_KEY = 120  # characters of a dotted key in a message
_WORDS = "one or more; after -- they may start with a dash"


def load_config(schema: type[Config], path: Path, overrides: Nested | None = None, *, origin: str = "flags") -> Config:
    """Read a YAML file, apply ``overrides`` and validate the result; ``origin`` says where the overrides come from.

    An override in a section that the file lacks is applied to the schema's default section.

    Raises:
        ConfigError: one line per mistake.
    """
    overrides = overrides or {}
    values = read_yaml(path)
    if issubclass(schema, Strict):
        values = schema.beside_flags(values, overrides, path)
    try:
        return schema.model_validate(merge(_with_sections(schema, values, overrides), overrides))
    except ValidationError as error:
        lines = [line for mistake in error.errors() for line in _lines(path, overrides, origin, schema, mistake)]
        raise ConfigError(*lines) from None


def file_or_preset(given: Path, presets: Path) -> Path:
    """Return ``given`` if it exists, or else the preset of that name, such as demo.yaml or paper/synth_lsh4.yaml.

    Raises:
        ConfigError: neither exists.
    """
    if given.exists():
        return given
    if (presets / given).is_file():
        return presets / given
    names = [path.relative_to(presets).as_posix() for path in sorted(presets.rglob("*.yaml"))]
    raise ConfigError(
        f"{given}: no such file or directory, and no preset has that name{_did_you_mean(given.name, names)}"
    )


def is_training(schema: type[BaseModel]) -> bool:
    """Whether it describes a training, whose run can be resumed."""
    return "train" in schema.model_fields


def merge(values: Nested, overrides: Nested) -> Nested:
    """Merge ``overrides`` into ``values``, key by key; a section whose ``kind`` changes is replaced as a whole."""
    merged = dict(values)
    for key, value in overrides.items():
        old: Any = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        same_kind = both and ("kind" not in old or value.get("kind", old["kind"]) == old["kind"])
        merged[key] = merge(old, value) if same_kind else value
    return merged


def _with_sections(schema: type[BaseModel], values: Nested, overrides: Nested) -> Nested:
    """Add to a file's values the default sections that it lacks and that overrides change."""
    filled = dict(values)
    for name, change in overrides.items():
        field = schema.model_fields.get(name)
        if field is None or not isinstance(change, dict):
            continue
        if name not in filled and isinstance(field.default, BaseModel):
            filled[name] = _as_values(field.default)
        member = next((one for one in models_in(field.annotation) if is_of(filled.get(name), one)), None)
        if member is not None and isinstance(filled[name], dict):
            filled[name] = _with_sections(member, filled[name], change)
    return filled


def _as_values(section: BaseModel) -> Nested:
    """Return the fields that were set explicitly, as in a file, and the kind."""
    dumped, fields = section.model_dump(mode="json"), type(section).model_fields
    names = [name for name in fields if name in section.model_fields_set or name == "kind"]
    values = {name: getattr(section, name) for name in names}
    return {name: _as_values(value) if isinstance(value, BaseModel) else dumped[name] for name, value in values.items()}


def parse_flags(
    schema: type[BaseModel], argv: list[str], default: Path, *, words: str | None = None, prog: str | None = None
) -> tuple[argparse.Namespace, Nested]:
    """Parse ``--config``, a training's ``--resume``, ``--dry_run`` and ``--quick``, and a flag for each field.

    Positional arguments may stand anywhere among the flags; everything after ``--`` is positional. ``--help`` prints
    and exits.

    Args:
        schema: has a field for each flag.
        argv: the arguments.
        default: the preset that is read without ``--config``, in the folder of all presets.
        words: the name of positional arguments in ``--help``; None: there are none.
        prog: the name of the program in ``--help``.

    Returns:
        The script's own options, including the list ``words``; and the fields that flags set, nested as in a file.

    Raises:
        ConfigError: an unknown flag, or one without its value.
    """
    argv = with_whole_mappings(schema, argv, parse_yaml)
    own = _OneLineParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path, metavar="FILE.yaml", help=f"settings to start from (default: {default})")
    if is_training(schema):
        own.add_argument(
            "--resume",
            metavar="RUN",
            help="continue a run: its folder, or 'last' for the newest run of the experiment",
        )
        own.add_argument(
            "--dry_run", action="store_true", help="do not train: measure a few steps, print the cost of the training"
        )
        own.add_argument(
            "--quick", action="store_true", help="try the whole training in 20 steps, in a run called NAME-quick"
        )
    usage = "".join([f" [{action.option_strings[0]} {action.metavar or ''}".rstrip() + "]" for action in own._actions])
    usage += " [--SETTING VALUE ...]" + (f" [{words} ...]" if words else "")
    parser = _OneLineParser(
        prog=prog, usage=f"%(prog)s{usage}", description=schema.__doc__, parents=[own], allow_abbrev=False
    )
    end = argv.index("--") if words is not None and "--" in argv else len(argv)
    options, rest = own.parse_known_args(argv[:end])
    _refuse_twice(schema, argv[:end])
    settings = type(schema.__name__, (schema, BaseSettings), {})
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(settings, root_parser=parser)
    if {"-h", "--help"} & {*rest}:
        others = [word for word in rest if word not in ("-h", "--help")]
        try:
            overrides = source(parsed_args=parser.parse_args(others))()
        except (ConfigError, SettingsError, RecursionError):  # --help works in spite of mistakes
            overrides = {}
        explain(parser, schema, *_values_for_help(schema, options.config, default, overrides))
    options.words = []
    if words is None:
        given = parser.parse_args(rest)
    else:
        parser.add_argument("words", nargs="*", metavar=words, help=_WORDS)
        given = parser.parse_intermixed_args(rest)
        options.words = vars(given).pop("words") + argv[end + 1 :]
    try:
        return options, source(parsed_args=given)()
    except (SettingsError, RecursionError) as error:
        found = _flags_with_broken_json(rest) or _unreadable_flags(
            rest, lambda flags: source(parsed_args=parser.parse_args(flags))()
        )
        raise ConfigError(*(found or [f"flags: {error}"])) from None


def _refuse_twice(schema: type[BaseModel], argv: list[str]) -> None:
    """Refuse repeated flags: the last value would silently win, and lists would be joined. Mappings may repeat."""
    mappings = {f"--{name}" for name, field in schema.model_fields.items() if get_origin(field.annotation) is dict}
    counts = Counter(word.partition("=")[0] for word in argv if word.startswith("--"))
    if twice := [flag for flag, times in counts.items() if times > 1 and flag not in mappings]:
        raise ConfigError(*(f"flags: {flag}: given {counts[flag]} times, must be given once" for flag in twice))


def _values_for_help(
    schema: type[BaseModel], given: Path | None, default: Path, overrides: Nested
) -> tuple[Nested, Path]:
    """Return the settings with the other flags applied, and the file; if it cannot be read, the preset."""
    try:
        path = file_or_preset(given, default.parent) if given else default
        values = read_yaml(path)
    except ConfigError:
        path, values = default, read_yaml(default)
    if issubclass(schema, Strict):
        values = schema.beside_flags(values, overrides, path)
    values = merge(values, overrides)
    try:
        return schema.model_validate(values).model_dump(mode="json"), path
    except ValidationError:  # required settings may be missing
        return values, path


def _unreadable_flags(argv: list[str], read: Callable[[list[str]], Any]) -> list[str]:
    """Return a line for each flag that cannot be parsed: a list with a number such as 010 is not valid JSON."""
    words = [part for word in argv for part in word.split("=", 1)]
    found = []
    for flag, value in itertools.pairwise(words):
        try:
            read([flag, value])
        except (SettingsError, RecursionError):
            found.append(f"flags: {flag}: must be a list of plain numbers, as in 1,0.5 (got {shown(value)})")
        except ConfigError:  # this pair is a value and the next flag
            continue
    return found


def _flags_with_broken_json(argv: list[str]) -> list[str]:
    words = [part for word in argv for part in word.split("=", 1)]
    return [
        f"flags: {flag}: not valid JSON (got {shown(value)})"
        for flag, value in itertools.pairwise(words)
        if value[:1] in ("[", "{") and not _is_json(value)
    ]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: brackets nested thousands deep
        return False
    return True


class _OneLineParser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing the usage, and suggests similar flags."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise ConfigError(f"flags: {message.removeprefix('argument ')}")
        words = [word.split("=")[0] for word in unknown.split()]
        flags = [word for word in words if word.startswith("--")] or words[:1]  # without their values
        known = self._option_string_actions
        raise ConfigError(*(f"flags: {flag}: no such flag{_did_you_mean(flag, known)}; see --help" for flag in flags))


_PLAIN = {  # replacements for pydantic messages that are unclear to the author of a file
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
    "path_type": "must be a path",
    "string_unicode": "must be UTF-8",
    "int_parsing_size": "must be a whole number of fewer digits",
    "tuple_type": "must be a list",
    "missing": "is required",
    "extra_forbidden": "no such setting",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
}


def _lines(path: Path, overrides: Nested, origin: str, schema: type[BaseModel], mistake: ErrorDetails) -> list[str]:
    """Return the lines of one validation error, with file, key, what is allowed and what was given.

    A cross-field rule may report several mistakes in one error.
    """
    steps, parent, here = _walk(schema, mistake["loc"])
    kind, message, got = mistake["type"], mistake["msg"], mistake["input"]
    if kind.startswith("union_tag"):
        allowed = _kinds(here)
        kind, message = "missing" if "kind" not in got else kind, f"must be one of {allowed}"
        steps, got = [*steps, "kind"], got.get("kind")
    source = _source(path, overrides, origin, steps[:-1] if kind == "missing" else steps)
    place = ": ".join(part for part in (source, _cut(".".join(steps))) if part)
    if kind == "value_error":  # a cross-field rule; its message names the settings
        return [f"{place}: {line}" for line in str(mistake["ctx"]["error"]).splitlines()]
    if kind == "missing":
        hint = f", {message}" if steps[-1] == "kind" else ""
        return [f"{place}: this setting is required{hint}"]
    if kind == "extra_forbidden":
        known = list(parent.model_fields)
        message = f"no such setting{_did_you_mean(steps[-1], known)}; must be one of {', '.join(known)}"
        return [f"{place}: {message} (got {shown(got)})"]
    return [f"{place}: {in_plain_words(kind, message)} (got {shown(got)})"]


def in_plain_words(kind: str, message: str) -> str:
    """Translate a pydantic message for the author of a file."""
    words = _PLAIN.get(kind) or message.replace("Input should be", "must be")
    return f"{words[0].lower()}{words[1:]}"


def _cut(key: str) -> str:
    """Cut a given key, which may be arbitrarily long."""
    return key if len(key) <= _KEY else f"{key[:_KEY]}..."


def _source(path: Path, overrides: Nested, origin: str, steps: list[str]) -> str:
    """Return where the value at a key came from; a section may have values from both the file and flags."""
    here: Any = overrides
    for step in steps:
        if not isinstance(here, dict):
            break
        if step not in here:
            return str(path)
        here = here[step]
    if isinstance(here, dict):
        return f"{path} and {origin}" if here else str(path)
    return origin


def _walk(schema: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel], Any]:
    """Return the keys of a pydantic location without its union tags, and the last key's model and type."""
    steps: list[str] = []
    here: Any = schema
    parent = schema
    for step in loc:
        members = {member.model_fields["kind"].default: member for member in models_in(here) if _has_kind(member)}
        if len(models_in(here)) > 1 and step in members:
            here = members[step]
            continue
        if isinstance(step, int):
            here = _entry_of(here)
            steps.append(str(step))
            continue
        models = models_in(here)
        parent = models[0] if models else parent
        field = parent.model_fields.get(step) if models and isinstance(step, str) else None
        here = field.annotation if field else None
        steps.append(str(step))
    return steps, parent, here


def _entry_of(annotation: Any) -> Any:
    """Return the item type of the list that an annotation allows, if any."""
    if get_origin(annotation) in (list, tuple):
        return get_args(annotation)[0]
    return next(filter(None, map(_entry_of, get_args(annotation))), None)


def _has_kind(model: type[BaseModel]) -> bool:
    return "kind" in model.model_fields


def _kinds(union: Any) -> str:
    return ", ".join(repr(member.model_fields["kind"].default) for member in models_in(union))


def _did_you_mean(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}" if close else ""


def differences(one: Nested, other: Nested, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys whose values differ between two nested mappings, with both values."""
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
