"""Messages in all usual forms as inputs of graphs and chains: the same results as in process, from every client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx
import langserve
import pytest
from fastapi import FastAPI
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph, add_messages
from langgraph.types import Command
from pydantic import BaseModel, Field
from streamserve_sdk import RemoteRunnable
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import registry_of
from tests.servers import serving

Connect = Callable[[str], Any]

IMAGE = "data:image/png;base64,iVBORw0KGgo="
CALL = {"name": "search", "args": {"query": "cats"}, "id": "call-1", "type": "tool_call"}
OPENAI_CALL = {"id": "call-1", "type": "function", "function": {"name": "search", "arguments": '{"query": "cats"}'}}
BLOCKS: list[Any] = [
    {"type": "text", "text": "What is it?"},
    {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
    {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
    {"type": "file", "base64": "JVBERi0=", "mime_type": "application/pdf", "filename": "a.pdf"},
    {"type": "audio", "base64": "UklGRg==", "mime_type": "audio/wav"},
]

# Forms that JSON can express, each as LangChain's `convert_to_messages` reads it.
FORMS: dict[str, Any] = {
    "a text": "hi",
    "a pair": ["user", "hi"],
    "a pair with blocks": ["human", BLOCKS],
    **{role: {"role": role, "content": "hi"} for role in ("user", "human", "assistant", "ai", "system", "developer")},
    "tool": {"role": "tool", "content": "found", "tool_call_id": "call-1", "status": "error", "artifact": [1]},
    "function": {"role": "function", "content": "found", "name": "search"},
    "blocks": {"role": "user", "content": BLOCKS},
    "a name and an id": {"role": "user", "content": "hi", "name": "Ada", "id": "m-1"},
    "further fields": {"role": "user", "content": "hi", "mood": "good"},
    "tool calls of OpenAI": {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
    "tool calls": {"role": "assistant", "content": "", "tool_calls": [CALL]},
    "a type that is a role": {"type": "user", "content": "hi"},
    "a constructor": {"lc": 1, "type": "constructor", "id": ["x", "HumanMessage"], "kwargs": {"content": "hi"}},
}
OBJECTS: list[BaseMessage] = [
    HumanMessage(BLOCKS, id="1", name="Ada"),
    AIMessage("", tool_calls=[CALL], usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    SystemMessage("be brief", additional_kwargs={"a": 1}),
    ToolMessage("found", tool_call_id="call-1", artifact={"a": [1]}),
    FunctionMessage("found", name="search"),
    ChatMessage("hi", role="narrator"),
    AIMessageChunk("part", id="2"),
]
CLIENTS: dict[tuple[Connect, str], Any] = {}  # kept, because a client's TLS context takes longer than a test
LOOK_ALIKE = {"type": "human", "content": "no message"}


class Notes(TypedDict, total=False):
    """A state with messages in several places, and values that only look like messages."""

    messages: Annotated[list, add_messages]  # type: ignore[type-arg]  # as many applications write it
    asides: Annotated[list[AnyMessage], add_messages(format=None)]  # type: ignore[call-arg]
    last: AnyMessage | None
    anything: Any
    count: int


class Strict(BaseModel):
    """The same state as a model."""

    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)
    count: int = 7


class Talk(BaseModel):
    """The input of a chain."""

    messages: list[BaseMessage]
    first: HumanMessage | None = None
    anything: Any = None


def keeping(schema: Any) -> Any:
    """Return a graph that keeps its input."""

    def look(_state: Any) -> dict[str, Any]:
        return {}

    return StateGraph(schema).add_node("look", look).add_edge(START, "look")


def told(given: Any) -> str:
    """Return the classes of the input as text, in which no client sees messages."""
    messages = given["messages"] if isinstance(given, dict) else given
    return json.dumps([(type(one).__name__, one.model_dump()) for one in messages])


GRAPHS = {"state": keeping(MessagesState), "notes": keeping(Notes), "strict": keeping(Strict)}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {name: Chain(runnable=builder.compile()) for name, builder in GRAPHS.items()}
    chains["talk"] = Chain(runnable=RunnableLambda(told), input_type=Talk)
    chains["list"] = Chain(runnable=RunnableLambda(told), input_type=list[AnyMessage])
    chains["mixed"] = Chain(runnable=RunnableLambda(repr), input_type=HumanMessage | int | list[str | AnyMessage])
    return create_app(registry_of(chains))


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as address:
        yield address
    for runnable in CLIENTS.values():
        getattr(runnable, "sync_client", runnable).close()
    CLIENTS.clear()


def local(name: str) -> Any:
    """Return a graph in process."""
    return GRAPHS[name].compile(checkpointer=InMemorySaver())


def plain(message: BaseMessage) -> Any:
    """Return a message without the id that the reducer made."""
    fields = message.model_dump()
    return type(message).__name__, {**fields, "id": fields["id"] if fields["id"] in ("1", "2", "m-1") else None}


def remote(connect: Connect, url: str, name: str, given: Any, thread: str | None = None) -> Any:
    if (connect, name) not in CLIENTS:
        CLIENTS[connect, name] = connect(f"{url}/{name}")
    return CLIENTS[connect, name].invoke(given, {"configurable": {"thread_id": thread}} if thread else None)


def by_http(client: httpx.Client, path: str, given: Any) -> Any:
    answered = client.post(path, json={"input": given})
    assert answered.status_code == 200, answered.text
    return answered.json()["output"]


each_client = pytest.mark.parametrize("connect", [RemoteRunnable, langserve.RemoteRunnable], ids=["sdk", "stock"])
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@each_client
@each_form
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_keeps_the_same_message_as_in_process(url: str, connect: Connect, name: str, form: Any) -> None:
    thread: Any = {"configurable": {"thread_id": "1"}}
    kept = remote(connect, url, name, {"messages": ["before", form]})
    expected = local(name).invoke({"messages": ["before", form]}, thread)
    assert list(map(plain, kept["messages"])) == list(map(plain, expected["messages"]))


@each_client
@each_form
@pytest.mark.parametrize("name", ["talk", "list"])
def test_a_chain_gets_the_message_of_langchain(url: str, connect: Connect, name: str, form: Any) -> None:
    given = {"messages": ["before", form]} if name == "talk" else ["before", form]
    assert remote(connect, url, name, given) == told(convert_to_messages(["before", form]))


@each_client
@pytest.mark.parametrize("message", OBJECTS, ids=lambda message: message.type)
def test_an_object_arrives_with_its_class(url: str, connect: Connect, message: BaseMessage) -> None:
    assert remote(connect, url, "talk", {"messages": [message]}) == told([message])
    (kept,) = remote(connect, url, "notes", {"messages": [message]})["messages"]
    (expected,) = local("notes").invoke({"messages": [message.model_copy()]}, {"configurable": {"thread_id": "1"}})[
        "messages"
    ]
    assert plain(kept) == plain(expected)


@each_client
@pytest.mark.parametrize("single", ["hi", {"role": "assistant", "content": "hi"}, HumanMessage("hi")], ids=str)
def test_one_message_stands_for_a_list_of_one(url: str, connect: Connect, single: Any) -> None:
    kept = remote(connect, url, "state", {"messages": single})["messages"]
    assert list(map(plain, kept)) == list(map(plain, convert_to_messages([single])))


def test_a_tuple_is_one_message_and_a_list_of_texts_is_two(url: str) -> None:
    assert len(remote(RemoteRunnable, url, "state", {"messages": ("user", "hi")})["messages"]) == 1
    assert len(remote(RemoteRunnable, url, "state", {"messages": ["user", "hi"]})["messages"]) == 2


@each_client
def test_ids_replace_and_remove_as_in_process(url: str, connect: Connect) -> None:
    thread = f"ids-{connect.__module__}"
    turns = [
        {"messages": [{"role": "user", "content": "one", "id": "1"}, HumanMessage("two", id="2")]},
        {"messages": [{"type": "human", "content": "uno", "id": "1"}]},
        {"messages": [RemoveMessage(id="2")]},
        {"messages": [{"type": "remove", "id": "__remove_all__"}, {"role": "user", "content": "new", "id": "3"}]},
    ]
    kept = [[(one.id, one.text) for one in remote(connect, url, "state", turn, thread)["messages"]] for turn in turns]
    assert kept == [[("1", "one"), ("2", "two")], [("1", "uno"), ("2", "two")], [("1", "uno")], [("3", "new")]]


def test_a_chain_refuses_a_removal(client: httpx.Client) -> None:
    refused = client.post("/list/invoke", json={"input": ["hi", {"type": "remove", "id": "1"}]})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "input", 1]


@pytest.mark.parametrize("form", ["hi", "5 apples", ["user", {"role": "?"}]], ids=str)
def test_a_text_is_no_message_beside_other_types(client: httpx.Client, form: Any) -> None:
    refused = client.post("/mixed/invoke", json={"input": form})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][:2] == ["body", "input"]


@each_client
@pytest.mark.parametrize("form", [5, ["user", "hi"], ["user", HumanMessage("hi")], HumanMessage("hi")], ids=str)
def test_a_value_of_another_type_becomes_no_message(url: str, connect: Connect, form: Any) -> None:
    assert remote(connect, url, "mixed", form) == repr(form)


def test_messages_stand_wherever_the_state_has_them(client: httpx.Client) -> None:
    kept = by_http(client, "/notes/invoke", {"asides": [["ai", "psst"]], "last": {"role": "system", "content": "end"}})
    assert [one["type"] for one in kept["asides"]] == ["ai"]
    assert kept["last"]["type"] == "system"


def test_a_dict_stays_a_dict_where_no_message_is_expected(client: httpx.Client, url: str) -> None:
    given = {"messages": ["hi"], "anything": [LOOK_ALIKE]}
    answered = client.post("/notes/invoke", json={"input": given}).json()
    assert answered["types"] == {"/anything/0": "dict"}
    kept = remote(RemoteRunnable, url, "notes", given)
    assert kept["anything"] == [LOOK_ALIKE]


def test_an_object_stays_a_message_where_the_state_says_nothing(url: str) -> None:
    kept = remote(RemoteRunnable, url, "notes", {"anything": {"seen": (HumanMessage("hi"), LOOK_ALIKE)}})
    assert kept["anything"] == {"seen": (HumanMessage("hi"), LOOK_ALIKE)}


def test_a_command_updates_with_messages_in_any_form(url: str, client: httpx.Client) -> None:
    update = {"messages": ["hi", ("ai", "hello"), {"role": "user", "content": "bye"}, AIMessage("so long")]}
    kept = remote(RemoteRunnable, url, "state", Command(update=update, goto="look"))
    assert [(one.type, one.text) for one in kept["messages"]] == [
        ("human", "hi"), ("ai", "hello"), ("human", "bye"), ("ai", "so long"),
    ]  # fmt: skip
    sent = {"__type__": "command", "update": {"messages": [["user", "hi"]]}, "goto": "look"}
    assert by_http(client, "/state/invoke", sent)["messages"][0]["type"] == "human"


def test_an_update_keeps_the_keys_that_it_does_not_name(url: str) -> None:
    for name in ("strict", "notes"):
        remote(RemoteRunnable, url, name, {"messages": ["one"], "count": 1}, f"partial-{name}")
        kept = remote(RemoteRunnable, url, name, {"messages": ["two"]}, f"partial-{name}")
        assert (kept["count"], len(kept["messages"])) == (1, 2)


@each_form
def test_every_endpoint_takes_every_form(client: httpx.Client, form: Any) -> None:
    for endpoint in ("stream", "stream_events", "stream_log"):
        answered = client.post(f"/state/{endpoint}", json={"input": {"messages": [form]}})
        assert answered.status_code == 200, answered.text
        assert "event: end" in answered.text
    answered = client.post("/state/batch", json={"inputs": [{"messages": [form]}, {"messages": "hi"}]})
    assert [len(output["messages"]) for output in answered.json()["output"]] == [1, 1]
