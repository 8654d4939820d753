"""The campaigns' server, and their summary at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.campaign import Totals
from tests.faults.server import CountingServer, counting

TOTALS = pytest.StashKey[Totals]()


@pytest.fixture(scope="session")
def server() -> Iterator[CountingServer]:
    """A server that counts."""
    with counting() as running:
        yield running


@pytest.fixture(scope="session")
def totals(pytestconfig: pytest.Config) -> Totals:
    """The sum over the session's campaigns."""
    return pytestconfig.stash.setdefault(TOTALS, Totals())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the campaigns' sum."""
    if (totals := config.stash.get(TOTALS, None)) is not None:
        terminalreporter.section("fault campaigns")
        for line in totals.lines():
            terminalreporter.line(line)
