"""Requests to large threads hold up no stream of others: they are bounded, and read and encoded in parts."""

from __future__ import annotations

import asyncio
import itertools
import operator
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from streamserve.api.threads import history, requests
from streamserve.api.threads.requests import MAX_SUPERSTEPS
from streamserve.call import Call, current_call
from streamserve.errors import InvalidInput
from streamserve.graphs.commands import MAX_TARGETS, MAX_VALUES, MAX_WRITES, Commands
from streamserve.graphs.state_parser import StateParser
from streamserve.graphs.state_writes import try_out
from streamserve.graphs.thread_keys import ThreadKeys
from tests.fakes import echo_graph
from tests.runs.support import app_of, client_of

_names = itertools.count(1)
STEP = {"updates": [{"values": {"notes": ["x"]}, "as_node": "note"}]}


class Notes(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]


class Saver(InMemorySaver):
    """Notes the limits of its lists, and the turn of the event loop in which each call comes."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[Any] = []
        self.turns: list[int] = []
        self.turn = 0

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self.turns.append(self.turn)
        return super().get_tuple(config)

    def list(self, *args: Any, **options: Any) -> Iterator[CheckpointTuple]:
        self.limits.append(options.get("limit"))
        for found in super().list(*args, **options):
            self.turns.append(self.turn)
            yield found

    def put(self, *args: Any) -> RunnableConfig:
        self.turns.append(self.turn)
        return super().put(*args)

    def put_writes(self, *args: Any) -> None:
        self.turns.append(self.turn)
        super().put_writes(*args)


SAVER = Saver()


def note(_state: Notes) -> Notes:
    return {"notes": ["noted"]}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    graph = StateGraph(Notes).add_node(note).add_edge(START, "note").compile(SAVER)
    with client_of(app_of({"notes": graph})) as client:
        yield client


@pytest.fixture
def thread(client: httpx.Client) -> str:
    """Return the path of a thread with twelve states."""
    path = f"/notes/threads/{next(_names)}"
    assert client.post(f"{path}/state", json={"supersteps": [STEP] * 12}).status_code == 200
    return path


def places(answer: httpx.Response) -> list[list[Any]]:
    assert answer.status_code == 422, answer.text
    return [item["loc"] for item in answer.json()["detail"]]


PAIRS = {"__type__": "command", "update": [["notes", ["x"]]] * (MAX_VALUES + 1)}
TARGETS = {"__type__": "command", "goto": ["note"] * (MAX_TARGETS + 1)}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"supersteps": [STEP] * (MAX_SUPERSTEPS + 1)}, ["supersteps"]),
        ({"supersteps": [{"updates": STEP["updates"] * (MAX_WRITES + 1)}]}, ["supersteps", 0, "updates"]),
        ({"values": PAIRS, "as_node": "note"}, ["values", "update"]),
        ({"values": TARGETS, "as_node": "note"}, ["values", "goto"]),
    ],
    ids=["supersteps", "updates", "pairs", "targets"],
)
def test_an_update_of_too_many_steps_is_refused(client: httpx.Client, body: Any, place: list[Any]) -> None:
    assert places(client.post(f"/notes/threads/{next(_names)}/state", json=body)) == [["body", *place]]


def test_an_update_of_the_most_steps_is_applied(client: httpx.Client) -> None:
    path = f"/notes/threads/{next(_names)}"
    steps = [{"updates": STEP["updates"] * MAX_WRITES}, *[STEP] * (MAX_SUPERSTEPS - 1)]
    assert client.post(f"{path}/state", json={"supersteps": steps}).status_code == 200
    assert len(client.get(f"{path}/state").json()["values"]["notes"]) == MAX_WRITES + MAX_SUPERSTEPS - 1


@pytest.mark.parametrize("endpoint", ["invoke", "batch", "stream", "runs"])
@pytest.mark.parametrize(("command", "field"), [(PAIRS, "update"), (TARGETS, "goto")], ids=["pairs", "targets"])
def test_a_command_of_too_many_parts_is_refused(client: httpx.Client, endpoint: str, command: Any, field: str) -> None:
    body = {"inputs": [command]} if endpoint == "batch" else {"input": command}
    place = ["inputs", 0] if endpoint == "batch" else ["input"]
    assert places(client.post(f"/notes/{endpoint}", json=body)) == [["body", *place, field]]


def test_a_command_may_have_pairs_of_many_keys() -> None:
    keys = [f"key{number}" for number in range(5 * MAX_VALUES)]
    wide = StateGraph(TypedDict("Wide", dict.fromkeys(keys, str)))  # type: ignore[operator]
    graph = wide.add_node("keep", lambda _: {}).add_edge(START, "keep").compile()
    pairs = [(key, "x") for key in keys for _ in range(MAX_VALUES)]
    assert Commands(graph, StateParser(graph)).read({"update": pairs}).update == pairs


def test_messages_have_their_ids_before_the_graph_runs() -> None:
    parser = StateParser(echo_graph())  # type: ignore[arg-type]
    first, second, third = parser.read({"messages": ["one", {"type": "ai", "content": "two", "id": "own"}, "three"]})[
        "messages"
    ]
    assert (len({first.id, third.id, None}), second.id) == (3, "own")
    assert parser.read({"messages": "one"})["messages"].id is not None


@pytest.mark.parametrize("wrong", [0, 1, 9, 18, 19])
def test_the_first_wrong_write_is_found_in_few_tries(wrong: int) -> None:
    calls = 0

    def count(kept: list[str], new: list[str]) -> list[str]:
        nonlocal calls
        calls += 1
        return kept + new

    Counted = TypedDict("Counted", {"log": Annotated[list[str], count]})  # noqa: UP013 - with a local reducer
    graph = StateGraph(Counted).add_node("keep", lambda _: {}).add_edge(START, "keep").compile()
    writes: list[Any] = [("log", "x" if index >= wrong else ["x"], ("log", index)) for index in range(MAX_WRITES)]
    with pytest.raises(InvalidInput) as caught:
        try_out(graph, [writes], {})
    assert caught.value.detail[0]["loc"] == ["log", wrong]
    assert calls < 7 * MAX_WRITES


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 100])
def test_a_page_read_in_parts_has_each_state_once(client: httpx.Client, thread: str, limit: int) -> None:
    last: Any = client.post(f"{thread}/history", json={"limit": 12}).json()
    found = client.get(f"{thread}/history?limit={limit}")
    assert found.json() == last[:limit]
    assert [len(state["values"]["notes"]) for state in found.json()] == list(range(12, 0, -1))[:limit]
    assert int(found.headers["Content-Length"]) == len(found.content)


def test_large_states_are_read_one_by_one(client: httpx.Client, thread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SAVER.limits.clear()
    client.get(f"{thread}/history?limit=12").raise_for_status()
    assert SAVER.limits == [1, 2, 4, 5]
    monkeypatch.setattr(history, "SMALL", 0)
    SAVER.limits.clear()
    client.get(f"{thread}/history?limit=12").raise_for_status()
    assert SAVER.limits == [1] * 12


def test_a_page_of_too_many_bytes_asks_for_fewer(
    client: httpx.Client, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_PAGE_BYTES", 10)
    assert places(client.get(f"{thread}/history?limit=3")) == [["query", "limit"]]
    assert places(client.post(f"{thread}/history", json={"limit": 3})) == [["body", "limit"]]
    assert len(client.get(f"{thread}/history?limit=1").json()) == 1  # the caller can ask for no less


def test_states_and_large_updates_are_worked_on_off_the_loop(
    client: httpx.Client, thread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, seen = set[str](), set[str]()
    for module, name, names in ((history, "page_answer", loop), (history, "to_line", seen), (requests, "_read", seen)):
        monkeypatch.setattr(module, name, noting(getattr(module, name), names))
    monkeypatch.setattr("streamserve.api.threads.routes.page_answer", history.page_answer)
    update = {"values": {"notes": ["x"] * 1_000}, "as_node": "note"}
    assert client.post(f"{thread}/state", json=update).status_code == 200
    assert client.get(f"{thread}/state").status_code == client.get(f"{thread}/history").status_code == 200
    assert len(loop) == 1
    assert len(seen) > 0
    assert seen.isdisjoint(loop)


def noting(function: Any, names: set[str]) -> Any:
    """Return a function that notes the OS threads of its calls."""

    def noted(*args: Any) -> Any:
        names.add(threading.current_thread().name)
        return function(*args)

    return noted


async def test_each_checkpoint_has_a_turn_of_the_loop_for_itself() -> None:
    saver = Saver()
    keys = ThreadKeys(saver)
    token = current_call.set(Call(chain="notes", principal="ada"))
    counting = asyncio.create_task(saver.count())
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for _ in range(3):
        await keys.aput(config, empty_checkpoint(), {}, {})
        stored = await keys.aput(config, empty_checkpoint(), {}, {})
        await keys.aput_writes(stored, [("notes", ["x"])], "task")
        await keys.aget_tuple(config)
    counting.cancel()
    current_call.reset(token)
    assert len(saver.turns) == len(set(saver.turns)) == 12
