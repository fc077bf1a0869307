"""Marked blocks in Markdown pages, which are filled with tables.

A block begins with ``<!-- table: NAME -->`` and ends with ``<!-- /table -->``, each on a line of its own.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.tables.results import ROOT

Table = Callable[[], str]
"""A function that returns a table as Markdown."""

BLOCK = re.compile(r"(?<=<!-- table: )(?P<name>[\w-]+)( -->\n)(?P<table>.*?)(\n?<!-- /table -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and every page under docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names(text: str) -> list[str]:
    """The names of a page's blocks, in order."""
    return [block["name"] for block in BLOCK.finditer(text)]


def rendered(text: str, tables: Mapping[str, Table]) -> str:
    """The page with every block filled.

    Raises:
        KeyError: there is no table with the name of a block.
    """

    def fill(block: re.Match[str]) -> str:
        return f"{block['name']} -->\n\n{tables[block['name']]()}\n\n<!-- /table -->"

    return BLOCK.sub(fill, text)
