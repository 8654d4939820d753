"""Shared fixtures. Chains choose their model at import: here always the offline model, without delays."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables.config import var_child_runnable_config

from streamserve.catalog.registry import Registry, discover
from tests.servers import serving
from tests.upstream.llama import llama_reasoning, llama_small, llama_text, llama_tools  # noqa: F401 - fixtures

os.environ |= {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0", "LANGSMITH_TRACING": "false"}

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_surrounding_run() -> Iterator[None]:
    """Drop the config that a chain left in the context: it would become the parent of the next test's runs."""
    token = var_child_runnable_config.set(None)
    yield
    var_child_runnable_config.reset(token)


class Team:
    """A team's own folder with a chains package of its own, importable and the working directory of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # A module can be imported once per process, so every test has a package name of its own.
        self.package = f"team{next(_numbers)}"
        self.chains = root / self.package

    def write(self, name: str, text: str) -> Path:
        """Write a file of the chains package; `name` as in `joke.py`."""
        path = self.chains / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")
        return path

    def discover(self) -> Registry:
        """Return the registry of the folder."""
        return discover(self.package)


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """Return a folder for chains, set in the settings."""
    folder = Team(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STREAMSERVE_CHAINS", folder.package)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == folder.package:
            del sys.modules[name]


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    """Yield a client of the module's `app` on a real socket."""
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch of `make faults`."""
    parser.addoption("--long", action="store_true", help="fault campaigns at full length")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `-n auto`: three for two cores, because tests wait for servers a third of their time."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


@pytest.fixture(params=["httpx", "aiohttp"])
def each_transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the HTTP library for model servers; every test runs with each of them."""
    monkeypatch.setenv("STREAMSERVE_OPENAI_TRANSPORT", request.param)
