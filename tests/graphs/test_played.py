"""The story and the approval, played on a real socket: by curl, by the SDK, and with a restart before each answer."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.types import Command
from streamserve_sdk import RemoteRunnable

from deploy.cluster import Replica
from deploy.services import free_port
from tests.limits import LIMIT

ROUNDS = 3
PREMISE = {"premise": "a lighthouse"}
MAIL = {"messages": [{"role": "user", "content": "Send a mail to Ada about lunch on Friday."}]}

# The state after one turn of: chain, input (a command for an answer), thread.
Turn = Callable[[str, Any, str], dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    folder = tmp_path_factory.mktemp("played")
    environment = {
        "STREAMSERVE_MODEL": "offline",
        "STREAMSERVE_OFFLINE_PACE": "0",
        "STREAMSERVE_CHECKPOINTS": f"sqlite:///{folder}/checkpoints.sqlite",
    }
    replica = Replica(0, free_port(), Path(folder), environment)
    try:
        replica.start()
        yield replica
    finally:
        replica.stop()


@pytest.fixture(params=["curl", "http", "sdk", "sdk streams", "sdk async", "sdk streams async"])
def turn(request: pytest.FixtureRequest, server: Replica) -> Turn:
    """Return a function that runs one turn, per kind of caller."""
    take = {
        "curl": by_curl,
        "http": by_http,
        "sdk": by_sdk,
        "sdk streams": by_stream,
        "sdk async": by_async_sdk,
        "sdk streams async": by_async_stream,
    }[request.param]
    return lambda chain, given, thread: take(f"{server.url}/{chain}", given, f"{thread} {request.param}")


def body_of(given: Any, thread: str) -> dict[str, Any]:
    if isinstance(given, Command):
        given = {"__type__": "command", "resume": given.resume}
    return {"input": given, "config": place(thread)}


def place(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def by_curl(url: str, given: Any, thread: str) -> dict[str, Any]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-sS", "--fail-with-body", f"{url}/invoke", "--json", json.dumps(body_of(given, thread))]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=True)
    state: dict[str, Any] = json.loads(done.stdout)["output"]
    return state


def by_http(url: str, given: Any, thread: str) -> dict[str, Any]:
    answered = httpx.post(f"{url}/invoke", json=body_of(given, thread), timeout=LIMIT)
    assert answered.status_code == 200, answered.text
    state: dict[str, Any] = answered.json()["output"]
    return state


def by_sdk(url: str, given: Any, thread: str) -> dict[str, Any]:
    with RemoteRunnable[Any, Any](url) as remote:
        return plain(remote.invoke(given, place(thread)))


def by_stream(url: str, given: Any, thread: str) -> dict[str, Any]:
    with RemoteRunnable[Any, Any](url) as remote:
        return last(list(remote.stream(given, place(thread), stream_mode=["values", "updates"])))


def by_async_sdk(url: str, given: Any, thread: str) -> dict[str, Any]:
    async def call() -> Any:
        async with RemoteRunnable[Any, Any](url) as remote:
            return await remote.ainvoke(given, place(thread))

    return plain(asyncio.run(call()))


def by_async_stream(url: str, given: Any, thread: str) -> dict[str, Any]:
    async def call() -> list[Any]:
        async with RemoteRunnable[Any, Any](url) as remote:
            stream = remote.astream(given, place(thread), stream_mode=["values", "updates"])
            return [chunk async for chunk in stream]

    return last(asyncio.run(call()))


def last(chunks: list[Any]) -> dict[str, Any]:
    """Return the state at the end of a stream, with its questions."""
    states = [chunk for mode, chunk in chunks if mode == "values"]
    stops = [stop for mode, chunk in chunks if mode == "updates" for stop in chunk.get("__interrupt__", ())]
    return plain({**states[-1], **({"__interrupt__": stops} if stops else {})})


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with its messages and questions as JSON."""
    shown = {**state, "messages": [message.model_dump() for message in state["messages"]]}
    if stops := state.get("__interrupt__"):
        shown["__interrupt__"] = [{"id": stop.id, "value": stop.value} for stop in stops]
    return shown


def question(state: dict[str, Any]) -> Any:
    (stop,) = state["__interrupt__"]
    assert stop["id"]
    return stop["value"]


def play_story(turn: Turn, thread: str, before_answer: Callable[[], None] = lambda: None) -> None:
    state = turn("story", PREMISE, thread)
    chosen = []
    for number in range(1, ROUNDS + 1):
        asked = question(state)
        assert asked["scene"] == state["messages"][-1]["content"]
        assert len(state["messages"]) == number
        chosen.append(asked["choices"][-1])
        before_answer()
        state = turn("story", Command(resume=str(len(asked["choices"]))), thread)
    assert "__interrupt__" not in state
    assert (state["chosen"], len(state["messages"])) == (chosen, ROUNDS + 1)


def play_approval(turn: Turn, thread: str, before_answer: Callable[[], None] = lambda: None) -> None:
    told = {}
    answers = {
        "approve": "approve",
        "edit": {"type": "edit", "args": {"to": "Bob"}},
        "reject": {"type": "reject", "reason": "too long"},
    }
    for name in answers:
        asked = question(turn("approval", MAIL, f"{thread} {name}"))
        assert asked["draft"]["to"] == "Ada"
    before_answer()
    for name, answer in answers.items():
        messages = turn("approval", Command(resume=answer), f"{thread} {name}")["messages"]
        assert [message["type"] for message in messages] == ["human", "ai", "tool", "ai"]
        told[name] = messages[2]["content"].partition(":")[::2]
    assert (told["approve"][0], told["edit"][0], told["reject"]) == (
        "Sent to Ada",
        "Sent to Bob",
        ("Not sent", " too long"),
    )


def test_a_story_is_played_to_its_end(turn: Turn) -> None:
    play_story(turn, "story")


def test_a_draft_is_approved_edited_and_rejected(turn: Turn) -> None:
    play_approval(turn, "approval")


def test_a_question_is_answered_after_a_restart_of_the_server(server: Replica) -> None:
    def restart() -> None:
        assert server.stop() == 0
        server.start()

    def killed() -> None:
        server.kill()
        server.start()

    play_story(lambda chain, given, thread: by_http(f"{server.url}/{chain}", given, thread), "restarted", restart)
    play_approval(lambda chain, given, thread: by_stream(f"{server.url}/{chain}", given, thread), "killed", killed)


def test_an_invalid_answer_is_refused_and_can_be_given_again(server: Replica) -> None:
    by_http(f"{server.url}/approval", MAIL, "again")
    sent = body_of(Command(resume="perhaps"), "again")
    refused = httpx.post(f"{server.url}/approval/invoke", json=sent, timeout=LIMIT)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "input", "resume", "type"])
    assert len(by_http(f"{server.url}/approval", Command(resume="approve"), "again")["messages"]) == 4
