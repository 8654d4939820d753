"""Human in the loop: a graph's questions and the commands that answer them, as objects and as JSON."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import httpx
import langserve
import pytest
from fastapi import FastAPI
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Interrupt, Overwrite, Send, interrupt
from pydantic import BaseModel
from streamserve_sdk import RemoteRunnable, RequestRejected
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.frames import chunks

LOOK_ALIKE = {"type": "ai", "content": "no message"}
# Every value that the wire has a type for.
VALUES: dict[str, Any] = {
    "text": "yes",
    "number": 7,
    "object": {"accept": True, "edits": [1, None]},
    "tuple": (1, ("a",)),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "bytes": b"\x00\xff",
    "decimal": Decimal("1.10"),
    "datetime": datetime(2026, 1, 2, 3, 4),
    "date": date(2026, 1, 2),
    "timedelta": timedelta(minutes=1.5),
    "uuid": uuid.UUID(int=1),
    "message": HumanMessage("hi", id="1"),
    "messages": [AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]), HumanMessage("x")],
    "document": Document("page", metadata={"n": 1}),
    "look-alike": LOOK_ALIKE,
    "key with a slash": {"a/b~c": (1,)},
    "deep": {"a": [{"b": {"c": (date(2026, 1, 2), {"type": "human", "content": "no message"})}}]},
}


class Review(BaseModel):
    """An answer as a model."""

    accept: bool
    when: date


class Answers(TypedDict, total=False):
    """The questions, the answers and the steps."""

    asked: Any
    answers: Annotated[list[Any], operator.add]
    count: Annotated[int, operator.add]


def ask(state: Answers) -> Answers:
    """Ask the question of the input."""
    return {"answers": [interrupt(state.get("asked"))]}


def one() -> Any:
    """Return a graph with one question."""
    return StateGraph(Answers).add_node(ask).add_edge(START, "ask")


def several() -> Any:
    """Return a graph with two questions at once, and a third after them."""

    def left(_state: Answers) -> Answers:
        return {"answers": [["left", interrupt("left?")]]}

    def right(_state: Answers) -> Answers:
        return {"answers": [["right", interrupt("right?")]]}

    builder = StateGraph(Answers).add_node(left).add_node(right).add_node(ask)
    return builder.add_edge(START, "left").add_edge(START, "right").add_edge(["left", "right"], "ask")


def strict() -> Any:
    """Return a graph whose question has a schema for the answer."""

    def review(_state: Answers) -> Answers:
        answer = interrupt("accept?", response_schema=Review)
        return {"answers": [type(answer).__name__, answer.accept]}

    return StateGraph(Answers).add_node(review).add_edge(START, "review")


def ways() -> Any:
    """Return a graph whose nodes are targets of `goto`."""

    def count(state: Answers) -> Answers:
        return {"count": 1, "answers": [state.get("asked")]}

    def other(state: Answers) -> Answers:
        return {"count": 10, "answers": [state.get("asked")]}

    return StateGraph(Answers).add_node(count).add_node(other).add_edge(START, "count")


BUILDERS = {"one": one(), "several": several(), "strict": strict(), "ways": ways()}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(registry_of({name: Chain(runnable=graph.compile()) for name, graph in BUILDERS.items()}))


@pytest.fixture(scope="module")
def graphs(client: httpx.Client) -> Iterator[dict[str, RemoteRunnable[Any, Any]]]:
    remote = {name: RemoteRunnable[Any, Any](f"{client.base_url}/{name}") for name in BUILDERS}
    yield remote
    for graph in remote.values():
        graph.close()


def thread() -> Any:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


def in_process(name: str) -> Any:
    return BUILDERS[name].compile(checkpointer=InMemorySaver())


def asked_in(output: Any) -> dict[str, Any]:
    """Return the questions of an output: question -> id."""
    assert all(type(stop) is Interrupt for stop in output["__interrupt__"])
    return {stop.value: stop.id for stop in output["__interrupt__"]}


each_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())


@each_value
def test_a_question_and_its_answer_keep_their_types(graphs: Any, value: Any) -> None:
    place = thread()
    (stop,) = graphs["one"].invoke({"asked": value}, place)["__interrupt__"]
    assert (stop.value, type(stop.value)) == (value, type(value))
    assert graphs["one"].invoke(Command(resume=value), place)["answers"] == [value]


@each_value
async def test_a_stream_keeps_the_types_of_a_question(graphs: Any, value: Any) -> None:
    place = thread()
    asked = [chunk async for chunk in graphs["one"].astream({"asked": value}, place, stream_mode="updates")]
    assert [stop.value for stop in asked[-1]["__interrupt__"]] == [value]
    told = [chunk async for chunk in graphs["one"].astream(Command(resume=value), place, stream_mode="updates")]
    assert told == [{"ask": {"answers": [value]}}]
    await graphs["one"].aclose()


def test_a_model_comes_as_a_dict_with_typed_fields(graphs: Any) -> None:
    place = thread()
    graphs["one"].invoke({"asked": 1}, place)
    answered = graphs["one"].invoke(Command(resume=Review(accept=True, when=date(2026, 1, 2))), place)
    assert answered["answers"] == [{"accept": True, "when": date(2026, 1, 2)}]


def test_an_answer_is_checked_by_the_schema_of_the_question(graphs: Any) -> None:
    place = thread()
    (stop,) = graphs["strict"].invoke({}, place)["__interrupt__"]
    assert set(stop.response_schema["properties"]) == {"accept", "when"}
    with pytest.raises(RequestRejected, match=r"resume.*accept"):
        graphs["strict"].invoke(Command(resume={"accept": "perhaps", "when": "2026-01-02"}), place)
    good = Review(accept=True, when=date(2026, 1, 2))
    assert graphs["strict"].invoke(Command(resume=good), place)["answers"] == ["Review", True]


def test_two_questions_at_once_are_answered_by_their_ids(graphs: Any) -> None:
    place = thread()
    ids = asked_in(graphs["several"].invoke({"asked": "last?"}, place))
    assert set(ids) == {"left?", "right?"}
    rest = graphs["several"].invoke(Command(resume={ids["right?"]: 2}), place)
    assert set(asked_in(rest)) == {"left?"}
    last = graphs["several"].invoke(Command(resume={ids["left?"]: 1}), place)
    assert set(asked_in(last)) == {"last?"}
    done = graphs["several"].invoke(Command(resume="so"), place)
    assert (done["answers"], done.get("__interrupt__")) == ([["left", 1], ["right", 2], "so"], None)


def test_two_questions_at_once_are_answered_together(graphs: Any, client: httpx.Client) -> None:
    place = thread()
    body = {"input": {"asked": "last?"}, "config": place}
    found = chunks(client.post("/several/stream", json=body))
    answers = {stop["id"]: stop["value"].upper() for chunk in found for stop in chunk.get("__interrupt__", ())}
    sent = {"input": {"__type__": "command", "resume": answers}, "config": place}
    answered = client.post("/several/invoke", json=sent).json()["output"]
    assert answered["answers"] == [["left", "LEFT?"], ["right", "RIGHT?"]]
    assert [stop["value"] for stop in answered["__interrupt__"]] == ["last?"]


def test_one_answer_for_two_questions_is_refused(graphs: Any, client: httpx.Client) -> None:
    place = thread()
    ids = asked_in(graphs["several"].invoke({"asked": "last?"}, place))
    sent = {"input": {"__type__": "command", "resume": "both"}, "config": place}
    refused = client.post("/several/invoke", json=sent)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "input", "resume"])
    graphs["several"].invoke(Command(resume=dict.fromkeys(ids.values(), 1)), place)


def test_a_command_goes_and_updates_as_in_process(graphs: Any) -> None:
    commands = [
        Command(goto="other"),
        Command(goto=["count", "other"]),
        Command(goto=Send("other", {"asked": (1, date(2026, 1, 2))})),
        Command(goto=[Send("count", {"asked": {1}}), Send("count", {"asked": b"x"}), "other"]),
        Command(update={"count": 5, "asked": (2,)}, goto="count"),
        Command(update=[("count", 5), ("count", 6)], goto="other"),
        Command(update={"answers": Overwrite(["new"])}, goto="count"),
        Command(update={"count": 100}),
    ]
    local, place = in_process("ways"), thread()
    for given in ({"asked": "a"}, *commands):
        assert graphs["ways"].invoke(given, place) == local.invoke(given, place), given


def test_a_command_of_the_stock_client_is_a_command(client: httpx.Client) -> None:
    graph = langserve.RemoteRunnable(f"{client.base_url}/one")
    place = thread()
    graph.invoke({"asked": "a"}, place)
    assert graph.invoke(Command(resume="b"), place)["answers"] == ["b"]
    graph.sync_client.close()


async def test_none_and_commands_go_through_every_call(graphs: Any) -> None:
    graph = graphs["one"]
    places = [thread() for _ in range(6)]
    await graph.abatch([{"asked": "q"}] * 6, places)
    assert "__interrupt__" in await graph.ainvoke(None, places[0])
    assert "__interrupt__" in graph.invoke(None, places[0])
    answer = Command(resume=(1,))
    done = [
        await graph.ainvoke(answer, places[0]),
        *(await graph.abatch([answer], [places[1]])),
        *graph.batch([answer], [places[2]]),
        list(graph.stream(answer, places[3], stream_mode="values"))[-1],
        [event async for event in graph.astream_events(answer, places[4], version="v2")][-1]["data"]["output"],
    ]
    assert [state["answers"] for state in done] == [[(1,)]] * 5
    patches = [patch async for patch in graph.astream_log(answer, places[5])]
    assert "answers" in str(patches[-1])
    after = [chunk async for chunk in graph.astream(None, places[0])]
    assert after == []
    await graph.aclose()


def test_the_questions_of_a_stream_equal_those_of_its_output(graphs: Any) -> None:
    place = thread()
    streamed = list(graphs["several"].stream({"asked": "last?"}, place, stream_mode="updates"))
    asked = {name: key for chunk in streamed for name, key in asked_in(chunk).items()}
    assert asked == asked_in(graphs["several"].invoke(None, place))


@pytest.mark.parametrize("types", [[], "tuple", {"/asked": 3}, {"asked": "tuple"}])
def test_malformed_types_are_refused(client: httpx.Client, types: Any) -> None:
    refused = client.post("/one/invoke", json={"input": {"asked": [1]}, "types": types})
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "types"])


def test_a_type_that_does_not_fit_is_ignored(client: httpx.Client) -> None:
    types = {"/asked": "datetime", "/nowhere/0": "tuple", "": "datetime", "/asked/0": "no such type"}
    answered = client.post("/one/invoke", json={"input": {"asked": [1]}, "types": types})
    assert answered.json()["output"]["asked"] == [1]
