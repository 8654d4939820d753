"""A remote graph as a node of a local graph does what a compiled graph does there."""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, RetryPolicy, interrupt
from streamserve_sdk import RemoteRunnable, ServerError
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from tests.fakes import Gate, GatedModel, registry_of

Invoke = Callable[..., Any]


class Talk(TypedDict, total=False):
    """The steps that ran, and what was answered."""

    said: Annotated[list[str], operator.add]
    fails: bool


_failures: list[str] = []


def note(_state: Talk) -> Talk:
    """Note that the graph began."""
    return {"said": ["began"]}


def ask(_state: Talk) -> Talk:
    """Ask twice."""
    return {"said": [f"{interrupt({'question': 'who?'})} {interrupt('when?')}"]}


def left(_state: Talk) -> Talk:
    """Ask beside `right`."""
    return {"said": [f"left {interrupt('left?')}"]}


def right(_state: Talk) -> Talk:
    """Ask beside `left`."""
    return {"said": [f"right {interrupt('right?')}"]}


def fail_once(_state: Talk) -> Talk:
    """Fail when called first."""
    _failures.append("failed")
    if len(_failures) == 1:
        raise ValueError("the first call fails")
    return {"said": ["recovered"]}


def asker() -> Any:
    """Return a graph that notes its start and asks twice."""
    return StateGraph(Talk).add_sequence([note, ask]).add_edge(START, "note")


def pair() -> Any:
    """Return a graph that asks two questions at once."""
    return StateGraph(Talk).add_node(left).add_node(right).add_edge(START, "left").add_edge(START, "right")


def failing() -> Any:
    """Return a graph whose second step fails once."""
    return StateGraph(Talk).add_sequence([note, fail_once]).add_edge(START, "note")


GATE = Gate()


def speaker() -> Any:
    """Return a graph whose model says a token when the gate opens, and then asks."""
    model = GatedModel(tokens=["Good ", "morning"], gate=GATE)

    async def speak(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def confirm(_state: MessagesState) -> MessagesState:
        return {"messages": [("user", interrupt("right?"))]}

    return StateGraph(MessagesState).add_sequence([speak, confirm]).add_edge(START, "speak")


def stopping() -> Any:
    """Return a graph that stops before its second step."""
    builder = StateGraph(Talk).add_node(note).add_node("again", note).add_edge(START, "note").add_edge("note", "again")
    return builder.compile(interrupt_before=["again"])


BUILDERS = {"asker": asker(), "pair": pair(), "failing": failing(), "speaker": speaker()}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    chains = {name: Chain(runnable=graph.compile()) for name, graph in BUILDERS.items()}
    plain = RunnableLambda(lambda state: {"said": ["plain"]}).with_types(input_type=Any)
    quiet = Chain(runnable=speaker().compile(), stream_modes=["updates"])
    chains["stopping"] = Chain(runnable=stopping())
    return create_app(registry_of({**chains, "plain": Chain(runnable=plain), "quiet": quiet}))


@pytest.fixture
def remote(client: httpx.Client) -> Iterator[Callable[[str], RemoteRunnable[Any, Any]]]:
    made: list[RemoteRunnable[Any, Any]] = []

    def connect(name: str) -> RemoteRunnable[Any, Any]:
        made.append(RemoteRunnable(f"{client.base_url}/{name}"))
        return made[-1]

    yield connect
    for one in made:
        one.close()
        asyncio.run(one.aclose())


async def last_of_events(graph: Any, value: Any, config: Any) -> Any:
    """Invoke a graph by `astream_events`, which streams its nodes."""
    async for _ in graph.astream_events(value, config, version="v2"):
        pass
    state = await graph.aget_state(config)
    return {**state.values, **({"__interrupt__": list(state.interrupts)} if state.interrupts else {})}


@pytest.fixture(params=["invoke", "ainvoke", "astream_events"])
def invoke(request: pytest.FixtureRequest) -> Invoke:
    if request.param == "invoke":
        return lambda graph, value, config: graph.invoke(value, config)
    if request.param == "ainvoke":
        return lambda graph, value, config: asyncio.run(graph.ainvoke(value, config))
    return lambda graph, value, config: asyncio.run(last_of_events(graph, value, config))


def thread() -> Any:
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


def around(node: Any, **options: Any) -> Any:
    """Return a local graph with one node, which takes the words of the local state as the graph's own."""
    inner = RunnableLambda(lambda _state: {}) | node | RunnableLambda(lambda output: {"said": output["said"]})
    return StateGraph(Talk).add_node("remote", inner, **options).add_edge(START, "remote").compile(InMemorySaver())


def asked(output: Any) -> dict[Any, str]:
    assert all(type(question) is Interrupt for question in output["__interrupt__"])
    return {str(question.value): question.id for question in output["__interrupt__"]}


def test_a_remote_question_interrupts_and_its_answer_resumes(remote: Any, invoke: Invoke) -> None:
    place = thread()
    graph = StateGraph(Talk).add_node("remote", remote("asker")).add_edge(START, "remote").compile(InMemorySaver())
    output = invoke(graph, {}, place)
    assert [question.value for question in output["__interrupt__"]] == [{"question": "who?"}]
    assert graph.get_state(place).next == ("remote",)
    output = invoke(graph, Command(resume="Ada"), place)
    assert list(asked(output)) == ["when?"]
    assert invoke(graph, Command(resume="now"), place) == {"said": ["began", "Ada now"]}


def test_a_step_of_a_sequence_interrupts_the_graph(remote: Any, invoke: Invoke) -> None:
    place, graph = thread(), around(remote("asker"))
    assert list(asked(invoke(graph, {}, place))) == ["{'question': 'who?'}"]
    assert list(asked(invoke(graph, Command(resume="Ada"), place))) == ["when?"]
    assert invoke(graph, Command(resume="now"), place) == {"said": ["began", "Ada now"]}


def test_answers_reach_several_questions_by_their_ids(remote: Any, invoke: Invoke) -> None:
    place, graph = thread(), around(remote("pair"))
    ids = asked(invoke(graph, {}, place))
    assert set(ids) == {"left?", "right?"}
    assert asked(invoke(graph, Command(resume={ids["right?"]: "B"}), place)) == {"left?": ids["left?"]}
    assert invoke(graph, Command(resume={ids["left?"]: "A"}), place) == {"said": ["left A", "right B"]}


def test_without_an_answer_the_question_stays_open(remote: Any, invoke: Invoke) -> None:
    place, graph = thread(), around(remote("asker"))
    first = asked(invoke(graph, {}, place))
    assert asked(invoke(graph, None, place)) == first
    assert list(asked(invoke(graph, Command(resume="Ada"), place))) == ["when?"]


def test_a_question_of_the_node_beside_it_is_its_own(remote: Any, invoke: Invoke) -> None:
    place = thread()
    builder = StateGraph(Talk).add_node("remote", remote("asker")).add_node(left)
    graph = builder.add_edge(START, "remote").add_edge(START, "left").compile(InMemorySaver())
    ids = asked(invoke(graph, {}, place))
    assert set(ids) == {"{'question': 'who?'}", "left?"}
    still = asked(invoke(graph, Command(resume={ids["left?"]: "A"}), place))
    assert still == {"{'question': 'who?'}": ids["{'question': 'who?'}"]}
    assert list(asked(invoke(graph, Command(resume="Ada"), place))) == ["when?"]
    assert sorted(invoke(graph, Command(resume="now"), place)["said"]) == ["Ada now", "began", "left A"]


def test_a_remote_graph_in_a_subgraph_interrupts_the_whole(remote: Any, invoke: Invoke) -> None:
    place = thread()
    inner = StateGraph(Talk).add_node("remote", remote("asker")).add_node("after", ask)
    inner.add_edge(START, "remote").add_edge("remote", "after")
    graph = StateGraph(Talk).add_node("inner", inner.compile()).add_edge(START, "inner").compile(InMemorySaver())
    assert list(asked(invoke(graph, {}, place))) == ["{'question': 'who?'}"]
    assert list(asked(invoke(graph, Command(resume="Ada"), place))) == ["when?"]
    output = invoke(graph, Command(resume="now"), place)
    assert list(asked(output)) == ["{'question': 'who?'}"]  # the local node's: an answer is used once


def test_the_next_turn_starts_the_remote_graph_again(remote: Any, invoke: Invoke) -> None:
    place, graph = thread(), around(remote("asker"))
    for _ in range(2):
        assert list(asked(invoke(graph, {}, place))) == ["{'question': 'who?'}"]
        invoke(graph, Command(resume="Ada"), place)
        output = invoke(graph, Command(resume="now"), place)
    assert output["said"][-2:] == ["began", "Ada now"]


def test_a_retried_node_continues_the_failed_graph(remote: Any) -> None:
    _failures.clear()
    policy = RetryPolicy(max_attempts=2, initial_interval=0, jitter=False, retry_on=ServerError)
    graph = around(remote("failing"), retry_policy=policy)
    assert graph.invoke({}, thread()) == {"said": ["began", "recovered"]}


def test_the_remote_thread_is_the_local_one(remote: Any) -> None:
    place, chain = thread(), remote("asker")
    around(chain).invoke({}, place)
    assert chain.get_state(place).interrupts[0].value == {"question": "who?"}


def test_a_chain_without_threads_runs_again_when_resumed(remote: Any, invoke: Invoke) -> None:
    place = thread()
    inner = remote("plain") | RunnableLambda(lambda output: {"said": [*output["said"], interrupt("more?")]})
    graph = StateGraph(Talk).add_node("remote", inner).add_edge(START, "remote").compile(InMemorySaver())
    assert list(asked(invoke(graph, {}, place))) == ["more?"]
    assert invoke(graph, Command(resume="no"), place) == {"said": ["plain", "no"]}


@pytest.mark.parametrize("name", ["in process", "remote"])
def test_a_breakpoint_stops_the_local_graph(remote: Any, invoke: Invoke, name: str) -> None:
    node = remote("stopping") if name == "remote" else stopping()
    place, builder = thread(), StateGraph(Talk).add_node("remote", node).add_node(left)
    graph = builder.add_edge(START, "remote").add_edge("remote", "left").compile(InMemorySaver())
    assert "__interrupt__" not in (invoke(graph, {}, place) or {})
    assert graph.get_state(place).next == ("remote",)
    assert list(asked(invoke(graph, None, place))) == ["left?"]
    assert invoke(graph, Command(resume="A"), place) == {"said": ["began", "began", "left A"]}


def test_without_a_local_graph_questions_are_in_the_output(remote: Any) -> None:
    place, chain = thread(), remote("asker")
    assert list(asked(chain.invoke({}, place))) == ["{'question': 'who?'}"]
    *_, last = chain.stream(Command(resume="Ada"), place)
    assert list(asked(last)) == ["when?"]


async def as_async(chunks: Iterator[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


@pytest.fixture(params=["stream", "astream"])
def stream(request: pytest.FixtureRequest) -> Callable[..., AsyncIterator[Any]]:
    def stream(graph: Any, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        if request.param == "stream":
            return as_async(graph.stream(*arguments, **options))
        found: AsyncIterator[Any] = graph.astream(*arguments, **options)
        return found

    return stream


def speaking(node: Any) -> Any:
    return StateGraph(MessagesState).add_node("remote", node).add_edge(START, "remote").compile(InMemorySaver())


async def test_tokens_arrive_while_the_remote_model_speaks(remote: Any, stream: Any) -> None:
    graph, place, said = speaking(remote("speaker")), thread(), []
    GATE.open(1)
    async for message, metadata in stream(graph, {"messages": ["hi"]}, place, stream_mode="messages"):
        said.append((type(message).__name__, message.text, metadata["langgraph_node"]))
        GATE.open(1 if len(said) == 1 else 0)  # the second token waits until the first has arrived
    assert [part for part in said if part[1]] == [
        ("AIMessageChunk", "Good ", "remote"),
        ("AIMessageChunk", "morning", "remote"),
    ]
    state = graph.get_state(place)
    assert [question.value for question in state.interrupts] == ["right?"]
    output = graph.invoke(Command(resume="yes"), place)
    assert [message.text for message in output["messages"]] == ["hi", "Good morning", "yes"]


@pytest.mark.parametrize("name", ["in process", "remote"])
async def test_with_subgraphs_tokens_have_the_nodes_namespace(remote: Any, stream: Any, name: str) -> None:
    node = remote("speaker") if name == "remote" else BUILDERS["speaker"].compile()
    graph, said = speaking(node), []
    GATE.open(2)
    options: Any = {"stream_mode": "messages", "subgraphs": True}
    if name == "in process":  # its node is asynchronous
        stream = type(graph).astream
    async for namespace, (message, metadata) in stream(graph, {"messages": ["hi"]}, thread(), **options):
        said.append((*(part.partition(":")[0] for part in namespace), message.text, metadata["langgraph_node"]))
    assert [part for part in said if part[1]] == [("remote", "Good ", "speak"), ("remote", "morning", "speak")]


@pytest.mark.parametrize("kind", ["node", "async function", "sync function"])
async def test_events_have_the_tokens_of_the_remote_graph(remote: Any, kind: str) -> None:
    speak, said, runs = remote("speaker"), [], {}
    functions = {
        "node": speak,
        "async function": RunnableLambda(lambda state: state, afunc=speak.ainvoke),
        "sync function": lambda state, config: speak.invoke(state, config),
    }
    graph, place = speaking(functions[kind]), thread()
    GATE.open(1)
    async for event in graph.astream_events({"messages": ["hi"]}, place, version="v2"):
        runs[event["run_id"]] = event["name"]
        if event["event"] == "on_chat_model_stream" and (text := event["data"]["chunk"].text):
            said.append((text, runs[event["parent_ids"][-1]], event["metadata"]["langgraph_node"]))
            GATE.open(1 if len(said) == 1 else 0)  # the second token waits until the first has arrived
    assert said == [("Good ", speak.get_name(), "remote"), ("morning", speak.get_name(), "remote")]
    assert [question.value for question in (await graph.aget_state(place)).interrupts] == ["right?"]


async def test_a_record_without_messages_gives_whole_ones(remote: Any, stream: Any) -> None:
    graph, place = speaking(remote("quiet")), thread()
    GATE.open(2)
    assert [chunk async for chunk in stream(graph, {"messages": ["hi"]}, place, stream_mode="messages")] == []
    output = [chunk async for chunk in stream(graph, Command(resume="yes"), place, stream_mode="messages")]
    assert [message.text for message, _ in output] == ["Good morning", "yes"]


async def test_a_chain_that_is_no_graph_is_called_as_before(remote: Any, stream: Any) -> None:
    graph = StateGraph(Talk).add_node("remote", remote("plain")).add_edge(START, "remote").compile()
    items = [item async for item in stream(graph, {}, thread(), stream_mode=["messages", "updates"])]
    assert items == [("updates", {"remote": {"said": ["plain"]}})]
