"""The mistakes of a user, at the bottom of all that can report one."""

import json
import re
import sys
from typing import Any

_WORD, _LINE = 200, 1200  # characters of a word in a message, such as a path, and of all of it; longer ones are cut
_LINES = 20  # of mistakes; more are counted


class ConfigError(Exception):
    """Mistakes of the user's; ``lines`` says what, where and what is allowed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def reason(error: OSError) -> str:
    """Why a file could not be used, in lower case; an error that a library raises may have a message alone."""
    return (error.strerror or str(error)).lower()


def shown(value: Any) -> str:
    """A value that came, cut to a line."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def complain(lines: tuple[str, ...]) -> None:
    """Print mistakes where they belong, each on one line.

    No message repeats more of what was given than fits a line or two, nor a character that moves a terminal's cursor.
    """
    more = [f"... and {len(lines) - _LINES} more mistakes"] if len(lines) > _LINES else []
    print(*map(_one_line, lines[:_LINES]), *more, sep="\n", file=sys.stderr)


def _one_line(text: str) -> str:
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    text = re.sub(rf"(\S{{{_WORD}}})\S+", r"\1...", text)
    return text if len(text) <= _LINE else f"{text[:_LINE]}..."
