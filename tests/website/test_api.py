"""The API pages name what exists, and every public name of the two libraries."""

from pkgutil import resolve_name

import pytest
from documented import ROOT

import my_custom_ai
import my_transformers

RENDERED = [
    line.removeprefix("::: ").strip()
    for page in sorted((ROOT / "docs/api").glob("*.md"))
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith("::: ")
]


@pytest.mark.parametrize("name", RENDERED)
def test_what_a_page_renders_exists_and_is_documented(name: str) -> None:
    found = resolve_name(name)
    assert isinstance(found, tuple) or found.__doc__


def test_every_public_name_is_rendered_once() -> None:
    """MECHANISMS are the classes of SETTINGS; the schedules are rendered as a module."""
    assert len(RENDERED) == len({*RENDERED})
    last = {name.rpartition(".")[2] for name in RENDERED}
    assert {*my_transformers.__all__} - last == {"MECHANISMS"}
    assert {*my_custom_ai.__all__} - last == set()
