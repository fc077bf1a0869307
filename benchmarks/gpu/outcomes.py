"""A pytest plugin that records the outcome of each test immediately, for a process that may crash or be killed.

``--outcomes FILE`` receives one line of JSON when a test starts and one when it ends. Tests that have already ended
according to the file are skipped. ``--share i/n`` runs the tests i, i + n, i + 2 n, ..., with i from 0 to n - 1.
"""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    parser.addoption("--outcomes", type=Path)
    parser.addoption("--share", default="0/1")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder if ``--outcomes`` is given."""
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Recorder(config.getoption("--outcomes"), config.getoption("--share")))


class Recorder:
    """Writes outcomes. After an error of the CUDA context it ends the session, since all later tests would fail."""

    def __init__(self, path: Path, share: str) -> None:
        self.path = path
        self.first, self.step = (int(number) for number in share.split("/"))
        self.session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Keep this process's share of the tests, without those that are done."""
        self.session = session
        done = read(self.path)[0]
        items[:] = [item for item in items[self.first :: self.step] if item.nodeid not in done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record that a test starts."""
        self._write({"test": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a phase of a test: that of its call, or a failure or skip of another phase."""
        if report.when == "call" or not report.passed:
            message = _message(report)
            self._write({"test": report.nodeid, "outcome": report.outcome, "message": message})
            if self.session is not None and report.failed and "CUDA error" in message:
                self.session.shouldstop = "the CUDA context is unusable"

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _message(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if report.skipped:
        return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    crash = getattr(report.longrepr, "reprcrash", None)
    return f"{report.when}: {crash.message if crash else report.longreprtext}"[:2000]


def read(path: Path) -> tuple[dict[str, dict[str, str]], str | None]:
    """Outcomes by test (the first failure if any phase failed), and the test that started but has not ended."""
    ended: dict[str, dict[str, str]] = {}
    running = None
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        running = line["test"] if "outcome" not in line else None
        if "outcome" in line and ended.get(line["test"], {}).get("outcome") != "failed":
            ended[line["test"]] = line
    return ended, running
