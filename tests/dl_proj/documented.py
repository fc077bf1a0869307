"""What the README and the pages under docs say to type: their blocks of commands and of Python, line by line."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_SHELL = ("", "sh", "bash", "shell", "console")  # what a block of commands is marked as
_FIRST = {  # of such a block
    *(
        "python",
        "python3",
        "dl-proj",
        "make",
        "pip",
        "torchrun",
        "cat",
        "echo",
        "export",
        "tar",
        "docker",
        "debootstrap",
    )
}
_BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A command, or a block of Python, and where it stands."""

    page: Path
    line: int
    text: str
    python: bool = False

    def __str__(self) -> str:
        """For messages."""
        return f"{self.page.name}:{self.line}: {self.text.splitlines()[0]}"

    @property
    def words(self) -> list[str]:
        """Of a command; pipes and redirections are words of their own, comments are left out."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|<>;&")
        lexer.whitespace_split = True
        return list(lexer)


def steps_of(page: Path) -> list[Step]:
    """Everything in a page's blocks that can be run, in its order.

    A block without a language is one of commands if its first line starts like one, with or without a ``$``. Where
    lines have a ``$``, those without are what the commands print.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        language, body = block.groups()
        line = text.count("\n", 0, block.start(2)) + 1
        if language == "python":
            found.append(Step(page, line, body, python=True))
        elif language in _SHELL and _starts_like_a_command(body):
            found += [Step(page, line + offset, command) for offset, command in _commands(body)]
    return found


def _starts_like_a_command(body: str) -> bool:
    first = body.strip().removeprefix("$ ").split()
    return bool(first) and (first[0] in _FIRST or re.fullmatch(r"[A-Z_]+=\S+", first[0]) is not None)


def _commands(body: str) -> list[tuple[int, str]]:
    """Each command and the number of its line in the block; one that ends with a backslash goes on in the next."""
    lines = body.splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    found: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(lines):
        words = line.removeprefix("$ ").strip()
        starts = bool(words) and not words.startswith("#") and (line.startswith("$ ") or not prompted)
        if not (goes_on or starts):
            continue
        text = words.removesuffix("\\").strip()
        if goes_on:
            first, before = found.pop()
            number, text = first, f"{before} {text}"
        found.append((number, text))
        goes_on = words.endswith("\\")
    return found
