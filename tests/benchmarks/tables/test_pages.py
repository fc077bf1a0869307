"""README and docs show the tables that the committed results make."""

import re

import pytest

from benchmarks.tables.__main__ import changed_pages, every_table
from benchmarks.tables.pages import names, pages, rendered
from benchmarks.tables.results import ROOT


def test_no_page_differs_from_its_data() -> None:
    """If one does: python -m benchmarks.tables."""
    assert list(changed_pages()) == []


def test_every_table_is_shown_and_no_block_is_left_open() -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    assert {name for text in texts for name in names(text)} == every_table().keys()
    for text in texts:
        assert text.count("<!-- table: ") == text.count("<!-- /table -->") == len(names(text))


def test_a_block_is_filled_whatever_it_held() -> None:
    page = (
        "before\n\n<!-- table: one -->\n{}<!-- /table -->\n\nbetween\n\n<!-- table: two -->\n<!-- /table -->\nafter\n"
    )
    tables = {"one": lambda: "| 1 |", "two": lambda: "| 2 |"}
    first = rendered(page.format(""), tables)
    assert first == rendered(page.format("\n| old |\n| older |\n\n"), tables) == rendered(first, tables)
    assert re.sub(r"\s+", " ", re.sub(r"<!--.*?-->", "", first)) == "before | 1 | between | 2 | after "


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="three"):
        rendered("<!-- table: three -->\n<!-- /table -->\n", {})


@pytest.mark.parametrize("folder", ["docs/experiments"])
def test_tables_of_results_are_not_typed(folder: str) -> None:
    """Outside of the marked blocks no table has a cell that is a measured number."""
    for page in sorted((ROOT / folder).glob("*.md")):
        text = re.sub(r"<!-- table: .*?<!-- /table -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        cells = [
            cell.strip() for line in re.findall(r"^\|(.*)\|$", text, flags=re.MULTILINE) for cell in line.split("|")
        ]
        assert [cell for cell in cells if re.fullmatch(r"[\d,]*\d\.\d+( ?%| ?s)?", cell)] == [], page.name
