"""The whole site, built strictly; then every link, anchor and picture in its HTML."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documented import ROOT

from website.__main__ import build


class Page(HTMLParser):
    """The identifiers in a page, and what it links to and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.targets, self.loaded = {""}, set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids.add(values.get("id") or "")
        targets = {value for name in ("href", "src") if (value := values.get(name))}
        self.targets |= targets
        self.loaded |= targets if tag != "a" else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="the site's generator is not installed: make setup-dev")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("my_transformers", "my_custom_ai", "dl_proj", "website"):
        (folder / name).symlink_to(ROOT / name)
    assert build(folder) == []
    return folder / "build/site"


@pytest.mark.slow
def test_links_on_the_site_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    wrong = []
    for path, page in pages.items():
        wrong += [f"{path.relative_to(site)} loads {target}" for target in page.loaded if urlsplit(target).netloc]
        for target in page.targets:
            parts = urlsplit(target)
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                continue
            if not file.is_file() or (file in pages and unquote(parts.fragment) not in pages[file].ids):
                wrong.append(f"{path.relative_to(site)}: {target}")
    assert wrong == []
