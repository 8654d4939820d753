"""Fixtures of the fault campaigns: their server, and their summaries at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.campaign import Totals
from tests.faults.server import CountingServer, counting

TOTALS = pytest.StashKey[dict[str, Totals]]()


@pytest.fixture(scope="session")
def server() -> Iterator[CountingServer]:
    """Start the server whose chain counts."""
    with counting() as running:
        yield running


@pytest.fixture(scope="module")
def totals(request: pytest.FixtureRequest) -> Totals:
    """Return the sum over a module's campaigns."""
    name = request.path.stem.removeprefix("test_")
    return request.config.stash.setdefault(TOTALS, {}).setdefault(name, Totals())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the sums of the campaigns."""
    for name, totals in config.stash.get(TOTALS, {}).items():
        terminalreporter.section(f"fault campaigns: {name}")
        for line in totals.lines():
            terminalreporter.line(line)
