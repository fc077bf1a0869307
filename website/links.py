"""Links in Markdown: where they are in a page, and which headings they can point to."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_FENCE = r"^(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^(?P=fence)[`~]*[ \t]*$"
_CODE = r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
_TARGET = r"(?P<before>\]\(\s*<?|^\[[^\]\n]+\]:[ \t]+|\b(?:href|src)=\")(?P<target>[^\s)\">]+)"
_LINK = re.compile(f"{_FENCE}|{_CODE}|{_TARGET}", flags=re.DOTALL | re.MULTILINE)
_HEADING = re.compile(rf"{_FENCE}|^#{{1,6}}[ 	]+(?P<heading>.+?)[ 	]*#*[ 	]*$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Link:
    """A link or an image in a page."""

    target: str
    line: int

    @property
    def is_internal(self) -> bool:
        """It points to a file of the repository or to a heading, not to another site."""
        return re.match(r"[a-z][a-z0-9+.-]*:", self.target) is None

    @property
    def path(self) -> str:
        """The file, relative to the page; empty for the page itself."""
        return self.target.partition("#")[0]

    @property
    def anchor(self) -> str:
        """The part after the number sign."""
        return self.target.partition("#")[2]


def links_of(text: str) -> Iterator[Link]:
    """Every link and image outside of code."""
    for match in _LINK.finditer(text):
        if match["target"]:
            yield Link(match["target"], text.count("\n", 0, match.start("target")) + 1)


def with_links(text: str, change: Callable[[Link], str]) -> str:
    """The text with each link's target replaced; code is left alone."""

    def replaced(match: re.Match[str]) -> str:
        if not match["target"]:
            return match[0]
        link = Link(match["target"], text.count("\n", 0, match.start("target")) + 1)
        return match["before"] + change(link)

    return _LINK.sub(replaced, text)


def slug(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading; mkdocs.yml has the site's generator use this function as well."""
    text = unicodedata.normalize("NFC", re.sub(r"<[^>]*>", "", heading)).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", separator)


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings: a repeated heading gets -1, -2, ... on GitHub and _1, _2, ... on the site.

    Only the first of several equal headings can be linked to in both places, so the others are left out.
    """
    headings = (match["heading"] for match in _HEADING.finditer(text) if match["heading"])
    return {slug(plain(heading)) for heading in headings}


def plain(heading: str) -> str:
    """A heading's text without its Markdown: links, code, emphasis."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)|`", "", text)
