"""The pages of the site, prepared for its generator in build/pages.

The Markdown in docs is written to be read on GitHub too, where links lead to any file or folder. A site has only pages,
so every link from a page to source code, a table or a folder gets a page here that shows it. CHANGELOG.md and
CONTRIBUTING.md become pages, and so do the executed tutorials.
"""

import csv
import html
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import relpath
from typing import Any

import yaml

from website.links import Link, with_links
from website.notebooks import as_page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".md": "markdown"}
HIGHLIGHTED = 100_000  # characters; a longer file is shown without colours, which would make its page slow
ROWS = 500  # of a table that is shown


class BrokenLinks(Exception):
    """Pages link to files that do not exist; a line each."""


@dataclass
class Pages:
    """Writes the pages of the repository at ``root`` into ``target``."""

    root: Path
    target: Path
    _shown: dict[Path, str] = field(default_factory=dict)  # pages made for files and folders that others link to
    _broken: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write all pages anew.

        Raises:
            BrokenLinks: a page links to a file that does not exist; all pages are written all the same.
        """
        shutil.rmtree(self.target, ignore_errors=True)
        for source, page in pages_of(self.root).items():
            text, pictures = as_page(source) if source.suffix == ".ipynb" else (source.read_text(encoding="utf-8"), {})
            self._write(page, self._linked(text, source, page))
            for name, content in pictures.items():
                (self.target / page).with_name(name).write_bytes(content)
        self._write("stylesheets/extra.css", (self.root / "website" / "extra.css").read_text(encoding="utf-8"))
        if self._broken:
            raise BrokenLinks("\n".join(self._broken))

    def _write(self, page: str, text: str) -> None:
        path = self.target / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _linked(self, text: str, source: Path, page: str) -> str:
        """A page's text, its links changed to what they lead to on the site."""

        def change(link: Link) -> str:
            if not link.is_internal or not link.path or (source.suffix == ".ipynb" and link.path.startswith("output_")):
                return link.target
            file = (source.parent / link.path).resolve()
            if not file.is_relative_to(self.root) or not file.exists():
                self._broken.append(f"{source.relative_to(self.root)}:{link.line}: {link.target} does not exist")
                return link.target
            place = self._place_of(file)
            return relpath(place, Path(page).parent.as_posix()) + (f"#{link.anchor}" if link.anchor else "")

        return with_links(text, change)

    def _place_of(self, file: Path) -> str:
        """Where something in the repository is on the site; a page is made for it if it has none."""
        page = page_of(file, self.root)
        if page is not None:
            return page
        if file not in self._shown:
            name = file.relative_to(self.root).as_posix()
            if file.suffix in PICTURES:
                self._shown[file] = name.removeprefix("docs/")
                path = self.target / self._shown[file]
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, path)
            elif file.is_dir():
                self._shown[file] = f"files/{name}/index.md"
                self._write(self._shown[file], self._listing(file, name))
            else:
                self._shown[file] = f"files/{name}.md"
                self._write(self._shown[file], shown(file, name))
        return self._shown[file]

    def _listing(self, folder: Path, name: str) -> str:
        """A page that lists a folder's files, each of which gets a page, and names its folders."""
        lines = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith((".", "__pycache__")):
                continue
            if path.is_dir() or not (path.suffix in PICTURES or is_text(path)):
                lines.append(f"- `{path.name}{'/' if path.is_dir() else ''}`")
            else:
                place = relpath(self._place_of(path), f"files/{name}")
                lines.append(f"- {'!' if path.suffix in PICTURES else ''}[`{path.name}`]({place})")
        return _without_search(f"{name}/", "\n".join(lines))


def page_of(file: Path, root: Path) -> str | None:
    """The site's page that a Markdown file or a notebook becomes; None for other files."""
    name = file.relative_to(root).as_posix()
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if name.startswith("docs/") and file.suffix in (".md", ".ipynb"):
        return file.with_suffix(".md").relative_to(root / "docs").as_posix()
    return None


def pages_of(root: Path) -> dict[Path, str]:
    """What becomes a page of its own, and its page; README.md does not, as docs/index.md stands for it."""
    files = [*(root / "docs").rglob("*.md"), *(root / "docs").rglob("*.ipynb"), *(root / name for name in ELSEWHERE)]
    return {file: page for file in sorted(files) if file.name != "README.md" and (page := page_of(file, root))}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose Python objects it leaves out."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def navigation(root: Path) -> Iterator[str]:
    """The pages that mkdocs.yml names, in their order."""
    todo: list[Any] = [yaml.load((root / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]]
    while todo:
        entry = todo.pop(0)
        if isinstance(entry, str):
            yield entry
        else:
            todo[:0] = entry if isinstance(entry, list) else entry.values()


def is_text(path: Path) -> bool:
    """It can be shown: it is UTF-8 without a null byte."""
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False


def shown(file: Path, name: str) -> str:
    """A page that shows a text file, a CSV as a table."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return _without_search(name, _table(text))
    fence = "`" * (3 + max((len(run) for run in text.split() if set(run) == {"`"}), default=0))
    language = LANGUAGES.get(file.suffix, "text") if len(text) < HIGHLIGHTED else "text"
    end = "" if text.endswith("\n") else "\n"
    return _without_search(name, f'{fence}{language} linenums="1"\n{text}{end}{fence}')


def _without_search(name: str, body: str) -> str:
    """A page that the search leaves out, since it would find names in code before the documentation."""
    return f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {name.replace('_', chr(92) + '_')}\n\n{body}\n"


def _table(text: str) -> str:
    """A CSV as an HTML table, whose cells are no Markdown."""
    head, *rows = csv.reader(io.StringIO(text))
    lines = ["<table>", "<thead>", _row(head, "th"), "</thead>", "<tbody>"]
    lines += [_row(row, "td") for row in rows[:ROWS]] + ["</tbody>", "</table>"]
    return "\n".join(lines) + (f"\n\nThe first {ROWS} of {len(rows)} rows.\n" if len(rows) > ROWS else "")


def _row(cells: list[str], element: str) -> str:
    return "<tr>" + "".join(f"<{element}>{html.escape(cell)}</{element}>" for cell in cells) + "</tr>"
