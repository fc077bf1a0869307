"""A line of counts for each kind of torture at the end, of all processes that share out the tests."""

from collections import Counter, defaultdict

import pytest

_COUNTS = "torture"


@pytest.fixture
def report(record_property):
    """Call it with a kind of torture and what was counted, by name; the end of ``make test-torture`` tells the sums."""
    return lambda kind, counts: record_property(_COUNTS, [kind, counts])


def pytest_terminal_summary(terminalreporter):
    kinds = defaultdict(Counter)
    for ended in (*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])):
        for name, value in ended.user_properties:
            if name == _COUNTS:
                kind, counts = value
                kinds[kind].update(counts)
    if kinds:
        terminalreporter.section("torture")
    for kind in sorted(kinds):
        terminalreporter.line(f"{kind}: " + ", ".join(f"{count:,} {name}" for name, count in kinds[kind].items()))
