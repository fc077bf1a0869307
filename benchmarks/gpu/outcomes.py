"""A pytest plugin that writes down what became of each test at once, for a process that may crash or be ended.

``--outcomes FILE`` takes one line of JSON when a test starts and one when it ends; tests that have ended in the file
already are left out. ``--share i/n`` runs every n-th test, from the i-th of 0 to n - 1.
"""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    parser.addoption("--outcomes", type=Path)
    parser.addoption("--share", default="0/1")


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the tests if asked to."""
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Recorder(config.getoption("--outcomes"), config.getoption("--share")))


class Recorder:
    """Writes outcomes; after an error of the CUDA context it ends the session, for all later tests would fail."""

    def __init__(self, path: Path, share: str) -> None:
        self.path = path
        self.first, self.step = (int(number) for number in share.split("/"))
        self.session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """This process's share, without what is done."""
        self.session = session
        done = read(self.path)[0]
        items[:] = [item for item in items[self.first :: self.step] if item.nodeid not in done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test starts."""
        self._write({"test": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test has ended: it counts if it is the call, or ends the test."""
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
    """What ended, by test (its first failure if any part of it failed), and the test that started and has not ended."""
    ended: dict[str, dict[str, str]] = {}
    running = None
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        running = line["test"] if "outcome" not in line else None
        if "outcome" in line and ended.get(line["test"], {}).get("outcome") != "failed":
            ended[line["test"]] = line
    return ended, running
