"""Read the mapping in a YAML file, or report in one line what is wrong and at which key."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dl_proj.settings.errors import ConfigError, reason, shown
from dl_proj.settings.help import Nested

_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_FRACTION = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?\.inf|\.nan", re.IGNORECASE)
_DIGITS = 1000  # longest whole number; longer ones stay strings, which numeric settings reject
_VALUES = 100_000  # in a file, with aliases expanded
_DEPTH = 50  # of nesting


def read_yaml(path: Path) -> Nested:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, a repeated key, or too many or too deeply nested values.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    except (ValueError, RecursionError) as error:  # a NUL in the path; endless brackets
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        raise ConfigError(f"{path}: is empty, must contain 'key: value' lines")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must contain 'key: value' lines (got {shown(values)})")
    return values


def parse_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        YAMLError: it is invalid, or has values of unsupported types, too many or too deeply nested ones.
        ValueError: an impossible date, or a number out of bounds.
        RecursionError: brackets nested thousands deep.
    """
    return yaml.load(text, Loader=_PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """A YAML loader that rejects repeated keys and reads only decimal numbers.

    In YAML 1.1, 010 is 8 and 1:30 is 90. Here anything but a plain decimal number stays a string, which the schema
    accepts or rejects as it does a flag's value.
    """

    def get_single_node(self) -> yaml.Node | None:
        """Return the root node, checked before anything is constructed."""
        node = super().get_single_node()
        if node is not None:
            _size(node, (), {})
            self._check_tags(node, ())
        return node

    def _check_tags(self, node: yaml.Node, keys: tuple[str, ...], seen: set[yaml.Node] | None = None) -> None:
        """Reject, by key, values with an unknown tag, and scalars that do not fit their tag (``!!bool maybe``)."""
        seen = set() if seen is None else seen
        if node in seen:
            return
        seen.add(node)
        for key, value in _inner(node):
            self._check_tags(value, (*keys, key), seen)
        if node.tag not in self.yaml_constructors:
            _refuse(node, keys, f"has an unsupported type, {shown(node.tag)}")
        if isinstance(node, yaml.ScalarNode):
            try:
                self.yaml_constructors[node.tag](self, node)
            except (ValueError, LookupError, AttributeError, TypeError, yaml.YAMLError):
                kind = node.tag.rpartition(":")[2]
                _refuse(node, keys, f"is not a valid YAML {kind} (got {shown(node.value)})")

    def construct_plain_int(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        return int(text) if len(text) <= _DIGITS and _WHOLE_NUMBER.fullmatch(text) else text

    def construct_plain_float(self, node: yaml.ScalarNode) -> float | str:
        text = self.construct_scalar(node)
        return self.construct_yaml_float(node) if _FRACTION.fullmatch(text) else text

    def construct_word(self, node: yaml.ScalarNode) -> str:
        return str(node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a single word", key.start_mark)
            if key.value in seen:
                problem = f"key {shown(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_plain_int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_plain_float)
_PlainLoader.add_constructor("tag:yaml.org,2002:value", _PlainLoader.construct_word)  # a lone =
_PlainLoader.add_constructor("tag:yaml.org,2002:merge", _PlainLoader.construct_word)  # a lone <<


def _inner(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    """Return a node's children, by key or index."""
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value) if isinstance(key, yaml.ScalarNode) else "?", value) for key, value in node.value]
    return [(str(i), value) for i, value in enumerate(node.value)] if isinstance(node, yaml.SequenceNode) else []


def _size(node: yaml.Node, keys: tuple[str, ...], sizes: dict[yaml.Node, int]) -> int:
    """Count a node's values with aliases expanded: nine levels of nine aliases are 9^9 values, a cycle never ends."""
    if node not in sizes:
        sizes[node] = _VALUES  # so an alias inside its own value exceeds the bound
        if len(keys) > _DEPTH:
            _refuse(node, keys[:3], f"is nested more than {_DEPTH} deep")
        sizes[node] = size = 1 + sum(_size(value, (*keys, key), sizes) for key, value in _inner(node))
        if size > _VALUES:
            _refuse(node, keys, f"has more than {_VALUES} values with its aliases expanded, or contains itself")
    return sizes[node]


def _refuse(node: yaml.Node, keys: tuple[str, ...], problem: str) -> None:
    key = ".".join(keys) or "the file"
    raise yaml.constructor.ConstructorError(None, None, f"{key} {problem}", node.start_mark)
