"""A graph's conversation resumes after a restart and on another replica; the savers are LangGraph's own."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from streamserve_sdk import RemoteRunnable

from deploy.cluster import Replica, postgres
from deploy.services import Missing, Service, free_port
from streamserve import Chain
from streamserve.api.services import services_in
from streamserve.app import create_app
from streamserve.call import Call, current_call
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.graphs.thread_keys import ThreadKeys
from streamserve.settings import Settings
from tests.fakes import Conversation, echo_graph, greeting, registry_of

REPLICAS_AT_ONCE = 6
CHOICE = {"__type__": "command", "resume": "1"}
BOT = registry_of({"bot": Chain(runnable=echo_graph(), input_type=Conversation)})
LCEL = registry_of({"greeting": Chain(runnable=greeting())})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not pytest's folder, because the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="streamserve-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[tuple[Service, str]]:
    try:
        service, url = postgres(folder)
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(missing))
    with ExitStack() as ending:
        ending.callback(service.stop)
        yield service.start(), url


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Yield an empty place for checkpoints that survives a process."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/checkpoints.sqlite"
    _, url = request.getfixturevalue("database")
    name = f"test_{os.urandom(4).hex()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return str(url).replace("/postgres?", f"/{name}?")


@contextmanager
def replicas(folder: Path, count: int, **settings: str) -> Iterator[list[Replica]]:
    environment = {"STREAMSERVE_MODEL": "offline", "STREAMSERVE_OFFLINE_PACE": "0", **settings}
    servers = [Replica(number, free_port(), folder, environment) for number in range(count)]
    with ExitStack() as ending:
        for server in servers:
            ending.callback(server.stop)
            server.begin()
        for server in servers:
            server.wait_until_ready()
        yield servers


def tell(server: Replica, thread: str, given: Any) -> dict[str, Any]:
    """Run one turn of the story, and return the state."""
    with RemoteRunnable(f"{server.url}/story") as story:
        return story.invoke(given, {"configurable": {"thread_id": thread}})


def assert_turn(state: dict[str, Any], number: int) -> None:
    assert (len(state["messages"]), len(state.get("chosen", []))) == (number, number - 1)
    assert ("__interrupt__" in state) == (number < 4)


def test_a_conversation_resumes_after_a_restart(place: str, tmp_path: Path) -> None:
    with replicas(tmp_path, 1, STREAMSERVE_CHECKPOINTS=place) as (server,):
        assert_turn(tell(server, "restart", {"premise": "a lighthouse"}), 1)
        assert server.stop() == 0
        server.start()
        assert_turn(tell(server, "restart", CHOICE), 2)
        server.kill()
        server.start()
        assert_turn(tell(server, "restart", CHOICE), 3)


async def test_replicas_that_start_at_once_share_one_conversation(place: str, tmp_path: Path) -> None:
    config: Any = {"configurable": {"thread_id": "shared"}}
    with replicas(tmp_path, 2, STREAMSERVE_CHECKPOINTS=place) as servers:
        for server, given in zip(servers, ({"premise": "a lighthouse"}, CHOICE), strict=True):
            async with RemoteRunnable(f"{server.url}/story") as story:
                chunks = [chunk async for chunk in story.astream(given, config)]
            assert len(chunks) > 5
            assert "__interrupt__" in chunks[-1]
        for number in (3, 4):
            assert_turn(await asyncio.to_thread(tell, servers[number % 2], "shared", CHOICE), number)


def test_a_restart_of_postgres_costs_no_conversation(database: tuple[Service, str], tmp_path: Path) -> None:
    service, url = database
    with replicas(tmp_path, 1, STREAMSERVE_CHECKPOINTS=url) as (server,):
        assert_turn(tell(server, "outage", {"premise": "a lighthouse"}), 1)
        service.stop()
        service.start()
        assert_turn(tell(server, "outage", CHOICE), 2)


def test_startup_fails_if_postgres_is_unreachable(tmp_path: Path) -> None:
    url = f"postgres://somebody:secret@127.0.0.1:{free_port()}/none"
    with (
        pytest.raises(RuntimeError, match="refused") as caught,
        replicas(tmp_path, 1, STREAMSERVE_CHECKPOINTS=url),
    ):
        pass
    assert "secret" not in str(caught.value)


async def test_servers_that_migrate_at_once_all_start(place: str) -> None:
    async def open_one(ending: AsyncExitStack) -> None:
        checkpoints = Checkpoints(Settings(checkpoints=place, _env_file=None))
        checkpoints.bind(echo_graph())
        await ending.enter_async_context(checkpoints.opened())

    async with asyncio.timeout(30), AsyncExitStack() as ending:
        results = await asyncio.gather(*(open_one(ending) for _ in range(REPLICAS_AT_ONCE)), return_exceptions=True)
        assert results == [None] * REPLICAS_AT_ONCE


async def test_a_graph_has_the_saver_during_the_lifespan(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Settings(checkpoints=f"sqlite:///{tmp_path}/c.sqlite", _env_file=None))
    graph = checkpoints.bind(echo_graph())
    config: Any = {"configurable": {"thread_id": "one"}}
    current_call.set(Call(chain="bot", principal="ann"))
    for turn in (1, 2):
        with pytest.raises(RuntimeError, match="lifespan"):
            await graph.ainvoke({"messages": ["hello"]}, config)
        async with checkpoints.opened():
            state = await graph.ainvoke({"messages": ["hello"]}, config)
        assert len(state["messages"]) == 2 * turn


def test_the_declared_graph_is_not_changed() -> None:
    declared, own = echo_graph(), InMemorySaver()
    checkpoints = Checkpoints(Settings(_env_file=None))
    assert checkpoints.bind(declared) is not declared
    assert declared.checkpointer is None
    brought = declared.copy({"checkpointer": own})
    bound = checkpoints.bind(brought)
    assert brought.checkpointer is own
    assert isinstance(bound.checkpointer, ThreadKeys)
    assert bound.checkpointer.saver is own


@pytest.mark.parametrize(
    ("store", "given", "url"),
    [
        ("", "", "memory:"),
        ("memory:", "", "memory:"),
        ("sqlite:///data/runs.sqlite", "", "sqlite:///data/runs.checkpoints.sqlite"),
        ("sqlite:////data/runs.sqlite", "", "sqlite:////data/runs.checkpoints.sqlite"),
        ("sqlite:////data/runs.sqlite", "memory:", "memory:"),
        ("redis://localhost/0", "postgres://db/x", "postgres://db/x"),
        ("redis://localhost/0", "", ""),
    ],
)
def test_by_default_checkpoints_are_kept_beside_the_runs(store: str, given: str, url: str) -> None:
    assert Checkpoints(Settings(store=store, checkpoints=given, _env_file=None)).url == url


@pytest.mark.parametrize("url", ["mysql://db/x", "checkpoints.sqlite", "sqlite:relative", "sqlite://host/path"])
def test_an_unknown_place_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="STREAMSERVE_CHECKPOINTS: memory:, sqlite:///PATH") as refused:
        create_app(BOT, Settings(checkpoints=url, _env_file=None))
    assert url not in str(refused.value)


@pytest.fixture
def redis_store(monkeypatch: pytest.MonkeyPatch) -> str:
    # The address alone says whether runs are shared; the store is not opened.
    monkeypatch.setattr("streamserve.library.Runs", lambda settings: SimpleNamespace(recovery=None))
    return "redis://127.0.0.1:1/0"


def test_replicas_that_share_runs_need_a_place_for_checkpoints(redis_store: str) -> None:
    with pytest.raises(ValueError, match=r"STREAMSERVE_CHECKPOINTS is not set.*postgres://"):
        create_app(BOT, Settings(store=redis_store, _env_file=None))
    create_app(LCEL, Settings(store=redis_store, _env_file=None))


@pytest.mark.parametrize(
    ("given", "warned"),
    [("memory:", True), ("sqlite:///c.sqlite", True), ("postgres://db/x", False)],
)
def test_checkpoints_shared_less_widely_than_runs_warn(
    given: str, warned: bool, redis_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "streamserve.graphs.checkpoints"):
        create_app(BOT, Settings(store=redis_store, checkpoints=given, _env_file=None))
    assert ("shared by fewer processes" in caplog.text) == warned


async def test_without_graphs_nothing_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "never.sqlite"
    app = create_app(LCEL, Settings(checkpoints=f"sqlite:///{path}", _env_file=None))
    async with services_in(app).checkpoints.opened():
        assert not path.exists()
