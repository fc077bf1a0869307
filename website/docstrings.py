"""Docstrings as Markdown for the API pages: they are written for ``help()``, with some reStructuredText in them."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(?P<short>~?)(?P<name>[\w.]+)`")
_DEFINITION = re.compile(r"(?<=Definition: )my_transformers/reference\.py, (?P<functions>\w+(?:,\s\w+)*)")
_TABLE = re.compile(
    r"^(?P<rule>=+(?: +=+)+)\n(?P<head>.+)\n(?P=rule)\n(?P<rows>(?:.+\n)+?)(?P=rule)$", flags=re.MULTILINE
)


class Docstrings(griffe.Extension):
    """Roles become references to the API pages, where the name is on one, and simple tables Markdown tables."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value, obj.path)


def as_markdown(text: str, path: str) -> str:
    """A docstring of the object at ``path``, with Markdown in place of roles and tables, and links to definitions."""
    text = _ROLE.sub(lambda role: _referred(role, path), text)
    return _TABLE.sub(_table, _DEFINITION.sub(_defined, text))


def _referred(role: re.Match[str], path: str) -> str:
    """A name is written in full, or beside the object that the docstring is of."""
    name = role["name"]
    is_full = name.startswith(("my_transformers.", "my_custom_ai.", "dl_proj."))
    identifier = name if is_full else f"{path.rpartition('.')[0]}.{name}"
    return _reference(identifier, name.rpartition(".")[2] if role["short"] else name)


def _defined(definition: re.Match[str]) -> str:
    names = definition["functions"].replace(",", " ").split()
    return ", ".join(_reference(f"my_transformers.reference.{name}", name) for name in names)


def _reference(identifier: str, shown: str) -> str:
    """A link, if the name is on an API page; the generator leaves the code alone otherwise."""
    return f'<autoref identifier="{identifier}" optional><code>{shown}</code></autoref>'


def _table(table: re.Match[str]) -> str:
    starts = [rule.start() for rule in re.finditer("=+", table["rule"])]
    ends = [*starts[1:], None]

    def row(line: str) -> str:
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([row(table["head"]), "|---" * len(starts) + "|", *map(row, table["rows"].splitlines())])
