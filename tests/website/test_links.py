"""Links in README.md and docs lead somewhere, on GitHub and on the site; mkdocs.yml names every page."""

from pathlib import Path

import pytest
from documented import PAGES, ROOT

from website.links import Link, anchors_of, links_of, slug, with_links
from website.pages import navigation, pages_of

DOCUMENTS = [*PAGES, ROOT / "CHANGELOG.md"]
API = "docs/api/"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def is_rendered(page: str, anchor: str) -> bool:
    """An API page has the anchors of the names that it renders, and of what is in them."""
    rendered = [line.removeprefix("::: ") for line in (ROOT / page).read_text().splitlines() if line.startswith("::: ")]
    return any(f"{anchor}.".startswith(f"{name}.") for name in rendered)


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in filter(lambda link: link.is_internal, links_of(page.read_text(encoding="utf-8"))):
        file = (page.parent / link.path).resolve() if link.path else page
        assert file.exists() and file.is_relative_to(ROOT), f"{name_of(page)}:{link.line}: {link.target}"
        if link.anchor and not (name_of(file).startswith(API) and is_rendered(name_of(file), link.anchor)):
            assert link.anchor in anchors_of(file.read_text(encoding="utf-8")), (
                f"{name_of(page)}:{link.line}: {link.target}"
            )


def test_navigation_names_every_page_once() -> None:
    named = [*navigation(ROOT)]
    assert len(named) == len({*named})
    assert {*named} == {*pages_of(ROOT).values()}


TEXT = """# A *page* of `n^2`: it's one -- [see](b.md)
[one](a.md#x), [`two`](<b.md> "title"), ![three](c.png) and [four][d]
`[no](no.md)`, ``a ` [no](no.md)``
```python
# no heading
x[0](no)
```
<img src="e.png" alt="five"> [six](https://example.org/a.md#b) [seven](#here)

[d]: d.md
## A page of `n^2`
"""


def test_links_are_found_outside_of_code() -> None:
    found = [(link.target, link.line) for link in links_of(TEXT)]
    assert found == [
        ("b.md", 1),
        ("a.md#x", 2),
        ("b.md", 2),
        ("c.png", 2),
        ("e.png", 8),
        ("https://example.org/a.md#b", 8),
        ("#here", 8),
        ("d.md", 10),
    ]
    assert [link.target for link in links_of(TEXT) if not link.is_internal] == ["https://example.org/a.md#b"]


def test_links_are_changed_and_code_is_not() -> None:
    def change(link: Link) -> str:
        return f"new/{link.path}" if link.path and link.is_internal else link.target

    changed = with_links(TEXT, change)
    assert "[one](new/a.md)" in changed and '[`two`](<new/b.md> "title")' in changed and "[d]: new/d.md" in changed
    assert changed.replace("new/", "") == TEXT.replace("a.md#x", "a.md")


def test_anchors_are_those_that_github_makes() -> None:
    assert anchors_of(TEXT) == {"a-page-of-n2-its-one----see", "a-page-of-n2"}
    assert (
        slug("LSH attention (`my_transformers/lsh/`: `bucketed.py`)") == "lsh-attention-my_transformerslsh-bucketedpy"
    )
    assert slug("Möglich + oder?") == "möglich--oder"


def test_the_site_makes_the_same_anchors() -> None:
    slugs = pytest.importorskip("pymdownx.slugs")
    for heading in ("What if it is stopped?", "O(n²) — in time", "a_b  c-d", "Going on: --resume"):
        assert slugs.slugify(case="lower")(heading, "-") == slug(heading)
