"""Large bodies that arrive at the same time have a bound together; small ones, and one body alone, are always taken."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from langchain_core.runnables import RunnableLambda

from streamserve import Chain
from streamserve.app import create_app
from streamserve.http import intake
from streamserve.http.intake import Incoming
from streamserve.settings import Settings
from tests.fakes import GatedModel, registry_of
from tests.faults.attacks import request
from tests.limits import LIMIT
from tests.servers import serving

LARGE = {"input": "x" * 90_000}
BOUNDS: dict[str, Any] = {"max_incoming_bytes": 150_000, "max_body_bytes": 250_000}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Queue[int]:
    """Return a queue of the bytes that all bodies have, after each change."""
    found: Queue[int] = Queue()
    add, remove = Incoming.add, Incoming.remove

    def added(self: Incoming, more: int, of_body: int) -> None:
        try:
            add(self, more, of_body)
        finally:
            found.put(self._bytes)

    def removed(self: Incoming, of_body: int) -> None:
        remove(self, of_body)
        if of_body:
            found.put(self._bytes)

    monkeypatch.setattr(Incoming, "add", added)
    monkeypatch.setattr(Incoming, "remove", removed)
    return found


def until(counts: Queue[int], least: int, most: int) -> None:
    while not least <= counts.get(timeout=LIMIT) <= most:
        pass


@contextmanager
def bounded(chain: Any, **settings: Any) -> Iterator[httpx.Client]:
    record = Chain(runnable=chain, input_type=Any, output_type=Any)
    app = create_app(registry_of({"chain": record}), Settings(**BOUNDS, **settings, _env_file=None))
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT) as client:
        yield client


@contextmanager
def half_sent(client: httpx.Client, counts: Queue[int]) -> Iterator[socket.socket]:
    place = urlsplit(str(client.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=LIMIT) as connection:
        connection.sendall(request("/chain/invoke", b'{"input": "' + b"x" * 90_000, declared=100_000))
        until(counts, 90_000, 100_000)
        yield connection


@pytest.fixture
def echo() -> Any:
    return RunnableLambda(lambda text: len(text))


@pytest.mark.parametrize("endpoint", ["invoke", "stream", "runs"])
def test_half_sent_bodies_have_a_bound_together(echo: Any, counts: Queue[int], endpoint: str) -> None:
    with bounded(echo) as client:
        with half_sent(client, counts):
            refused = client.post(f"/chain/{endpoint}", json=LARGE)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
            assert client.post("/chain/invoke", json={"input": "x" * 1000}).json()["output"] == 1000
        until(counts, 0, 0)
        assert client.post("/chain/invoke", json=LARGE).json()["output"] == 90_000


def test_a_body_that_timed_out_counts_no_longer(echo: Any, counts: Queue[int]) -> None:
    with bounded(echo, body_timeout=0.2) as client, half_sent(client, counts) as connection:
        until(counts, 0, 0)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_one_body_alone_may_be_as_large_as_a_body_may_be(echo: Any) -> None:
    with bounded(echo) as client:
        assert client.post("/chain/invoke", json={"input": "x" * 240_000}).json()["output"] == 240_000


def test_a_parsed_body_counts_no_longer_while_its_run_goes_on(counts: Queue[int]) -> None:
    model = GatedModel(tokens=["one"])
    with bounded(model) as client, client.stream("POST", "/chain/stream", json=LARGE) as first:
        assert first.status_code == 200
        until(counts, 0, 0)
        with client.stream("POST", "/chain/stream", json=LARGE) as second:
            assert second.status_code == 200
            model.gate.open(2)
            assert b"event: end" in second.read()
        assert b"event: end" in first.read()


def test_a_small_body_is_not_counted(echo: Any, counts: Queue[int]) -> None:
    with bounded(echo) as client:
        client.post("/chain/invoke", json={"input": "x" * (intake.SMALL - 100)})
    assert counts.empty()
