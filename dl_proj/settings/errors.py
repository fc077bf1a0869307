"""The mistakes of a user, at the bottom of all that can report one."""

import json
import re
import sys
from typing import Any

_WORD = 200  # characters of a word in a message, such as a path; longer ones are cut


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
    """Print mistakes where they belong; no message repeats more of what was given than fits a line or two."""
    too_long = re.compile(rf"(\S{{{_WORD}}})\S+")
    print(*(too_long.sub(r"\1...", line) for line in lines), sep="\n", file=sys.stderr)
