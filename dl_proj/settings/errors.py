"""Reporting a user's mistakes; imported by all modules that can find one."""

import json
import re
import sys
from typing import Any

_WORD, _LINE = 200, 1200  # characters of one word in a message, such as a path, and of a line; longer ones are cut
_LINES = 20  # mistakes printed; the others are counted


class ConfigError(Exception):
    """Mistakes of the user; each of ``lines`` says what is wrong, where, and what is allowed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def reason(error: OSError) -> str:
    """Return why a file could not be used, in lower case; errors raised by libraries may lack ``strerror``."""
    return (error.strerror or str(error)).lower()


def shown(value: Any) -> str:
    """Return a given value as text, cut to fit on a line."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def complain(lines: tuple[str, ...]) -> None:
    """Print mistakes on standard error, each on one line.

    Long input is cut, and unprintable characters are escaped, since they could move the terminal's cursor.
    """
    more = [f"... and {len(lines) - _LINES} more mistakes"] if len(lines) > _LINES else []
    print(*map(_one_line, lines[:_LINES]), *more, sep="\n", file=sys.stderr)


def _one_line(text: str) -> str:
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    text = re.sub(rf"(\S{{{_WORD}}})\S+", r"\1...", text)
    return text if len(text) <= _LINE else f"{text[:_LINE]}..."
