"""docs/baselines.md holds the tables that the committed results make."""

import re
from pathlib import Path

import pytest

from benchmarks.baseline_tables import tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", tables())
def test_the_page_has_the_table(name):
    assert f"\n\n{tables()[name]}\n\n" in PAGE


def test_the_page_has_no_other_table():
    assert len(re.findall(r"^\| ?-", PAGE, flags=re.MULTILINE)) == len(tables())


def test_the_readme_has_the_n_grams_figure():
    (said,) = re.findall(r"a 6-gram takes ([\d.]+) bits per byte", README)
    (line,) = (line for line in tables()["books"].splitlines() if line.startswith("| 6-gram"))
    assert said in line
