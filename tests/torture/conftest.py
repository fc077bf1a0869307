"""A line of figures for each kind of torture at the end, with several processes as well."""

import pytest

_FIGURES = "torture"


@pytest.fixture
def report(record_property):
    """Call it with a kind and what was done: the end of ``make test-torture`` tells it."""
    return lambda kind, line: record_property(_FIGURES, f"{kind}: {line}")


def pytest_terminal_summary(terminalreporter):
    ended = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    lines = sorted(line for one in ended for name, line in one.user_properties if name == _FIGURES)
    if lines:
        terminalreporter.section("torture")
        terminalreporter.write("".join(f"{line}\n" for line in lines))
