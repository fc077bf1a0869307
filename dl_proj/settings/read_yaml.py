"""The mapping in a YAML file, or one line that says what is wrong with it and at which key."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dl_proj.settings.errors import ConfigError, reason, shown
from dl_proj.settings.help import Nested

_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_FRACTION = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?\.inf|\.nan", re.IGNORECASE)
_DIGITS = 1000  # of a whole number; longer ones stay words, which no setting takes for a number
_VALUES = 100_000  # in a file, aliases written out
_DEPTH = 50  # of values in values


def read_yaml(path: Path) -> Nested:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, a key twice, or values that are too many or too deep.
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
    except (ValueError, RecursionError) as error:  # a NUL in the path, brackets without end
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        raise ConfigError(f"{path}: is empty, must hold 'key: value' lines")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines (got {shown(values)})")
    return values


def parse_yaml(text: str) -> Any:
    """What a text in YAML says.

    Raises:
        YAMLError: it is not valid, or has values of odd types, too many or too deep.
        ValueError: no date, or a number out of bounds.
        RecursionError: brackets nested thousands deep.
    """
    return yaml.load(text, Loader=_PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """YAML without the rule that the second of two equal keys silently wins, and with decimal numbers alone.

    By YAML 1.1, 010 is 8 and 1:30 is 90. Here what is no plain decimal number stays the word that was written, which
    the schema takes or refuses as it does a flag's.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The file's root, checked before anything is made of it."""
        node = super().get_single_node()
        if node is not None:
            _size(node, (), {})
            self._check_tags(node, ())
        return node

    def _check_tags(self, node: yaml.Node, keys: tuple[str, ...], seen: set[yaml.Node] | None = None) -> None:
        """Refuse, by key, values with an unknown tag and scalars that their tag cannot represent (``!!bool maybe``)."""
        seen = set() if seen is None else seen
        if node in seen:
            return
        seen.add(node)
        for key, value in _inner(node):
            self._check_tags(value, (*keys, key), seen)
        if node.tag not in self.yaml_constructors:
            _refuse(node, keys, f"has a type that settings do not have, {shown(node.tag)}")
        if isinstance(node, yaml.ScalarNode):
            try:
                self.yaml_constructors[node.tag](self, node)
            except (ValueError, LookupError, AttributeError, TypeError, yaml.YAMLError):
                kind = node.tag.rpartition(":")[2]
                _refuse(node, keys, f"is no {kind} that YAML has (got {shown(node.value)})")

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
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                problem = f"key {shown(key.value)} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_plain_int)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_plain_float)
_PlainLoader.add_constructor("tag:yaml.org,2002:value", _PlainLoader.construct_word)  # a lone =
_PlainLoader.add_constructor("tag:yaml.org,2002:merge", _PlainLoader.construct_word)  # a lone <<


def _inner(node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    """What a node holds, by key or place."""
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value) if isinstance(key, yaml.ScalarNode) else "?", value) for key, value in node.value]
    return [(str(i), value) for i, value in enumerate(node.value)] if isinstance(node, yaml.SequenceNode) else []


def _size(node: yaml.Node, keys: tuple[str, ...], sizes: dict[yaml.Node, int]) -> int:
    """Values in a node with aliases written out: nine levels of nine aliases are 9^9, and a loop has no end."""
    if node not in sizes:
        sizes[node] = _VALUES  # what an alias inside of its own value meets
        if len(keys) > _DEPTH:
            _refuse(node, keys[:3], f"is nested more than {_DEPTH} deep")
        sizes[node] = size = 1 + sum(_size(value, (*keys, key), sizes) for key, value in _inner(node))
        if size > _VALUES:
            _refuse(node, keys, f"has more than {_VALUES} values, or holds itself, its aliases written out")
    return sizes[node]


def _refuse(node: yaml.Node, keys: tuple[str, ...], problem: str) -> None:
    key = ".".join(keys) or "the file"
    raise yaml.constructor.ConstructorError(None, None, f"{key} {problem}", node.start_mark)
