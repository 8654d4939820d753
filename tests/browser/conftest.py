"""Fixtures of the browser tests: one Chromium for all, a fresh profile with its own page for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.pages import LIMIT, Gate, Visit

os.environ |= {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0"}

SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Not for the session: Playwright keeps an event loop running in this thread, in which no async test could run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("chromium is not installed: the browser tests cannot run")
    if program is None:
        pytest.skip("chromium is not installed: run scripts/system-packages as root, or install it")
    expect.set_options(timeout=LIMIT * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context()
    context.set_default_timeout(LIMIT * 1000)
    yield Visit(context.new_page())
    context.close()


@pytest.fixture
def gate() -> Gate:
    return Gate()
