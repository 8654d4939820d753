"""Outages of the checkpoints' database in the middle of a run: the run ends with an error, the next one resumes."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import psycopg_pool
import pytest
from langgraph.graph import START, MessagesState, StateGraph

from deploy.cluster import postgres
from deploy.services import Missing, Service
from streamserve import Chain
from streamserve.app import create_app
from streamserve.graphs import checkpoints
from streamserve.settings import Settings
from tests.fakes import Conversation, Gate, GatedModel, registry_of
from tests.runs.support import LIMIT, BlockReader, error_of
from tests.servers import serving

TOKENS = ("one ", "two ", "three")
HELLO = {"input": {"messages": [{"type": "human", "content": "hello"}]}}
# Seconds that a run waits for an unreachable or busy database in these tests.
WAIT = 0.5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "CONNECTION_LIMIT", WAIT)
    monkeypatch.setattr(checkpoints, "BUSY_LIMIT", WAIT)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Service, str]]:
    # Not pytest's folder, because the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="streamserve-") as name, ExitStack() as ending:
        os.chmod(name, 0o711)
        try:
            service, url = postgres(Path(name))
        except Missing as missing:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
        ending.callback(service.stop)
        yield service.start(), url


@dataclass
class Place:
    """A place for checkpoints that a test can cut off and restore."""

    url: str
    take_away: Callable[[], object]
    give_back: Callable[[], object]


def locked_out(path: Path, hog: sqlite3.Connection) -> Place:
    return Place(f"sqlite:///{path}", lambda: hog.execute("BEGIN EXCLUSIVE"), lambda: hog.execute("ROLLBACK"))


@pytest.fixture(params=["sqlite locked", "postgres stopped"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite locked":
        path = tmp_path / "checkpoints.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as hog:
            yield locked_out(path, hog)
        return
    service, url = request.getfixturevalue("server")
    yield Place(url, service.stop, service.start)


def slow_graph(gate: Gate) -> Any:
    """Return a graph with two steps: the model's answer, whose state is stored, and a second step."""
    model = GatedModel(tokens=TOKENS, gate=gate)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def after(state: MessagesState) -> dict[str, Any]:
        return {}

    return StateGraph(MessagesState).add_sequence([answer, after]).add_edge(START, "answer").compile()


@contextmanager
def talking(place: Place, gate: Gate) -> Iterator[httpx.Client]:
    app = create_app(
        registry_of({"bot": Chain(runnable=slow_graph(gate), input_type=Conversation)}),
        Settings(store="memory:", checkpoints=place.url, _env_file=None),
    )
    with serving(app) as url, httpx.Client(base_url=url, timeout=2 * LIMIT, trust_env=False) as client:
        yield client


def on_thread(name: str) -> dict[str, Any]:
    return {**HELLO, "config": {"configurable": {"thread_id": name}}}


def say(client: httpx.Client, gate: Gate, thread: str) -> list[Any]:
    """Run one turn, and return the messages of the conversation."""
    gate.open(len(TOKENS))
    answer = client.post("/bot/invoke", json=on_thread(thread))
    assert answer.status_code == 200, answer.text
    messages: list[Any] = answer.json()["output"]["messages"]
    return messages


def test_a_conversation_resumes_after_an_outage_of_checkpoints(place: Place) -> None:
    gate = Gate()
    with talking(place, gate) as client:
        assert len(say(client, gate, "outage")) == 2
        with client.stream("POST", "/bot/stream", json=on_thread("outage")) as response:
            reader = BlockReader(response)
            gate.open()
            assert b"event: metadata" in reader.next()
            place.take_away()
            gate.open(len(TOKENS) - 1)
            error = error_of(reader.rest()[-1])
        assert (error["code"], error["status_code"], error["retryable"]) == ("store_unavailable", 503, True)
        assert "conversation" in error["message"]
        gate.open(3 * len(TOKENS))  # a locked SQLite file can still be read
        refused = client.post("/bot/invoke", json=on_thread("outage"))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        ready = client.get("/readyz")
        if place.url.startswith("postgres"):
            assert (ready.status_code, ready.json()["code"]) == (503, "store_unavailable")
            assert "conversation" in ready.json()["detail"]
        place.give_back()
        while client.post("/bot/invoke", json=on_thread("probe")).status_code == 503:  # until the pool has reconnected
            pass
        assert client.get("/readyz").status_code == 200
        # One turn more than before, with or without the answer of the failed run, which may be stored or not.
        assert len(say(client, gate, "outage")) in (4, 5)
        assert len(say(client, gate, "another")) == 2


def raising(error: Exception) -> Any:
    async def fail(state: MessagesState) -> dict[str, Any]:
        raise error

    return StateGraph(MessagesState).add_node(fail).add_edge(START, "fail").compile()


@pytest.mark.parametrize(
    "error",
    [sqlite3.OperationalError("no such table"), psycopg.OperationalError("away"), psycopg_pool.PoolTimeout("busy")],
    ids=lambda error: type(error).__name__ + type(error).__module__,
)
def test_a_failure_of_the_chains_own_database_is_the_chains(error: Exception, tmp_path: Path) -> None:
    app = create_app(
        registry_of({"bot": Chain(runnable=raising(error), input_type=Conversation)}),
        Settings(store="memory:", checkpoints=f"sqlite:///{tmp_path}/checkpoints.sqlite", _env_file=None),
    )
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT, trust_env=False) as client:
        answer = client.post("/bot/invoke", json=on_thread("one"))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
