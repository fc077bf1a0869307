"""The mistakes of a user, at the bottom of all that can report one."""


class ConfigError(Exception):
    """Mistakes of the user's; ``lines`` says what, where and what is allowed."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def reason(error: OSError) -> str:
    """Why a file could not be used, in lower case; an error that a library raises may have a message alone."""
    return (error.strerror or str(error)).lower()
