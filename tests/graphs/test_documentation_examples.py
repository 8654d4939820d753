"""The examples of LangGraph's documentation with a local and a remote graph: only the constructor changes.

The headings are those of its pages on streaming, interrupts, time travel and persistence; words and code are ours.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt
from streamserve_sdk import RemoteRunnable

from streamserve import Chain
from streamserve.app import create_app
from streamserve.catalog.chain import StreamMode
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.graphs.documentation import BUILDERS
from tests.limits import LIMIT
from tests.servers import serving

Construct = Callable[[str], Any]

_threads = itertools.count(1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    chains = {
        name.replace("_", "-"): Chain(runnable=builder.compile(), stream_modes=get_args(StreamMode))
        for name, builder in BUILDERS.items()
    }
    with serving(create_app(registry_of(chains), Settings(_env_file=None))) as address:
        yield address


@pytest.fixture(params=["local", "remote"])
def graph_of(request: pytest.FixtureRequest) -> Iterator[Construct]:
    """Return the constructor, the only difference between the two."""
    if request.param == "local":
        yield lambda name: BUILDERS[name].compile(checkpointer=InMemorySaver())
        return
    address, made = request.getfixturevalue("url"), []

    def construct(name: str) -> Any:
        made.append(RemoteRunnable[Any, Any](f"{address}/{name.replace('_', '-')}"))
        return made[-1]

    yield construct
    for graph in made:
        graph.close()


@pytest.fixture
def config() -> Any:
    return {"configurable": {"thread_id": f"thread {next(_threads)}"}}


REFINED = {"topic": "ice cream and cats"}
JOKE = {"joke": "This is a joke about ice cream and cats"}


def test_streaming_updates_of_the_state(graph_of: Construct) -> None:
    chunks = list(graph_of("joke").stream({"topic": "ice cream"}, thread(), stream_mode="updates"))
    assert chunks == [{"refine_topic": REFINED}, {"generate_joke": JOKE}]


def test_streaming_values_of_the_state(graph_of: Construct) -> None:
    chunks = list(graph_of("joke").stream({"topic": "ice cream"}, thread(), stream_mode="values"))
    assert chunks == [{"topic": "ice cream"}, REFINED, {**REFINED, **JOKE}]


def test_streaming_multiple_modes(graph_of: Construct) -> None:
    modes = ["updates", "custom"]
    chunks = list(graph_of("custom").stream({"query": "x"}, thread(), stream_mode=modes))
    assert [mode for mode, _ in chunks] == ["custom"] * 6 + ["updates"]
    assert chunks[-1] == ("updates", {"node": {"answer": "some data"}})


def test_streaming_subgraph_outputs(graph_of: Construct) -> None:
    chunks = list(graph_of("parent").stream({"foo": "foo"}, thread(), stream_mode="updates", subgraphs=True))
    assert [(len(namespace), update) for namespace, update in chunks] == [
        (0, {"node_one": {"foo": "hi! foo"}}),
        (1, {"child_one": {"bar": "bar"}}),
        (1, {"child_two": {"foo": "hi! foobar"}}),
        (0, {"node_two": {"foo": "hi! foobar"}}),
    ]
    assert chunks[1][0][0].startswith("node_two:")


def test_streaming_the_v2_format(graph_of: Construct) -> None:
    modes = ["updates", "custom"]
    chunks = list(graph_of("custom").stream({"query": "x"}, thread(), stream_mode=modes, version="v2"))
    assert chunks[0] == {"type": "custom", "ns": (), "data": {"progress": "0/100"}}
    assert [chunk["type"] for chunk in chunks] == ["custom"] * 6 + ["updates"]


def test_streaming_debug(graph_of: Construct) -> None:
    chunks = list(graph_of("joke").stream({"topic": "ice cream"}, thread(), stream_mode="debug"))
    assert [chunk["type"] for chunk in chunks].count("task_result") == 2
    assert chunks[-1]["payload"]["values"] == {**REFINED, **JOKE}


def test_streaming_llm_tokens(graph_of: Construct) -> None:
    text = ""
    for chunk, metadata in graph_of("tokens").stream({"topic": "ice cream"}, thread(), stream_mode="messages"):
        assert isinstance(chunk, AIMessageChunk)
        assert metadata["langgraph_node"] == "call_model"
        text += chunk.content
    assert text.startswith("What do ice cream")


def test_streaming_tokens_filtered_by_tags_and_by_node(graph_of: Construct) -> None:
    texts = {"tags": "", "node": "", "unseen": ""}
    for chunk, metadata in graph_of("two_models").stream({"topic": "cats"}, thread(), stream_mode="messages"):
        if metadata["tags"] == ["joke"]:
            texts["tags"] += chunk.content
        if metadata["langgraph_node"] == "write_joke":
            texts["node"] += chunk.content
        if "nostream" in metadata["tags"]:
            texts["unseen"] += chunk.content
    assert texts["tags"] == texts["node"] != ""
    assert texts["unseen"] == ""


def test_streaming_custom_data_of_a_node(graph_of: Construct) -> None:
    chunks = list(graph_of("custom").stream({"query": "x"}, thread(), stream_mode="custom"))
    assert chunks[:3] == [{"progress": "0/100"}, {"progress": "50/100"}, {"progress": "100/100"}]
    assert "".join(chunk["custom_llm_chunk"] for chunk in chunks[3:]) == "someownclient"


def test_streaming_custom_data_of_a_tool(graph_of: Construct) -> None:
    asked = {"messages": [{"role": "user", "content": "What about cats?"}]}
    chunks = list(graph_of("tool_progress").stream(asked, thread(), stream_mode="custom"))
    assert [chunk["data"] for chunk in chunks] == ["Retrieved 0/100 records", "Retrieved 100/100 records"]


async def test_streaming_asynchronously(graph_of: Construct) -> None:
    graph = graph_of("joke")
    async with asyncio.timeout(LIMIT):
        chunks = [chunk async for chunk in graph.astream({"topic": "ice cream"}, thread(), stream_mode="updates")]
    assert chunks == [{"refine_topic": REFINED}, {"generate_joke": JOKE}]
    await closed(graph)


def test_interrupts_approve_or_reject(graph_of: Construct) -> None:
    graph = graph_of("approve_or_reject")
    for answer, status in ((True, "approved"), (False, "rejected")):
        config = thread()
        stopped = graph.invoke({"action": "Transfer $500", "status": "pending"}, config)
        (asked,) = stopped["__interrupt__"]
        assert isinstance(asked, Interrupt)
        assert asked.value == {"question": "Approve this action?", "details": "Transfer $500"}
        assert graph.invoke(Command(resume=answer), config)["status"] == status


def test_interrupts_review_and_edit_state(graph_of: Construct, config: Any) -> None:
    graph = graph_of("review_and_edit")
    assert graph.invoke({"text": "Initial draft"}, config)["__interrupt__"][0].value["content"] == "Initial draft"
    assert graph.invoke(Command(resume="Improved draft"), config) == {"text": "Improved draft"}


def test_interrupts_in_tools(graph_of: Construct, config: Any) -> None:
    graph = graph_of("email")
    stopped = graph.invoke({"messages": [("user", "Write to Ada.")]}, config)
    assert stopped["__interrupt__"][0].value["to"] == "ada@example.com"
    done = graph.invoke(Command(resume={"action": "approve", "subject": "Updated"}), config)
    assert done["messages"][-1].text == "Done: Email sent to ada@example.com with subject 'Updated'"


def test_interrupts_validating_human_input(graph_of: Construct, config: Any) -> None:
    graph = graph_of("validated")
    assert graph.invoke({"age": None}, config)["__interrupt__"][0].value == "What is your age?"
    again = graph.invoke(Command(resume="thirty"), config)
    assert again["__interrupt__"][0].value == "'thirty' is not a valid age. Please enter a positive number."
    assert graph.invoke(Command(resume=30), config) == {"age": 30}


def test_interrupts_several_at_once(graph_of: Construct, config: Any) -> None:
    graph = graph_of("two_questions")
    asked = graph.invoke({"values": []}, config)["__interrupt__"]
    answers = {one.id: f"answer to {one.value}" for one in asked}
    done = graph.invoke(Command(resume=answers), config)
    assert sorted(done["values"]) == ["a:answer to question_a", "b:answer to question_b"]


async def test_interrupts_while_streaming(graph_of: Construct, config: Any) -> None:
    graph, text, given = graph_of("asks_while_it_streams"), "", {"messages": [("user", "Say something about rain.")]}
    async with asyncio.timeout(LIMIT):
        for _ in range(2):
            stopped: list[Any] = []
            options = {"stream_mode": ["messages", "updates"], "subgraphs": True}
            async for _, mode, chunk in graph.astream(given, config, **options):
                if mode == "messages" and isinstance(chunk[0], AIMessageChunk):
                    text += chunk[0].content
                elif mode == "updates" and "__interrupt__" in chunk:
                    stopped = list(chunk["__interrupt__"])
            given = Command(resume=f"yes to {stopped[0].value}") if stopped else None
        state = await graph.aget_state(config)
    assert state.values["messages"][1].content == text != ""
    assert state.values["messages"][-1].content == "yes to Is that fine?"
    await closed(graph)


def test_interrupts_static_for_debugging(graph_of: Construct, config: Any) -> None:
    graph = graph_of("steps")
    graph.invoke({"values": []}, config, interrupt_before=["step_2"], interrupt_after=["step_2"])
    assert graph.get_state(config).next == ("step_2",)
    graph.invoke(None, config, interrupt_after=["step_2"])
    assert graph.get_state(config).next == ("step_3",)
    assert graph.invoke(None, config) == {"values": ["step 1", "step 2", "step 3"]}


def test_time_travel_replay(graph_of: Construct, config: Any) -> None:
    graph = graph_of("topic_then_joke")
    first = graph.invoke({}, config)
    before_joke = next(state for state in graph.get_state_history(config) if state.next == ("write_joke",))
    replayed = graph.invoke(None, before_joke.config)
    assert replayed["topic"] == first["topic"]
    assert replayed["joke"] != first["joke"]  # the node ran again
    assert graph.invoke(None, graph.get_state(config).config) == replayed  # nothing is left to do


def test_time_travel_fork(graph_of: Construct, config: Any) -> None:
    graph = graph_of("topic_then_joke")
    first = graph.invoke({}, config)
    before_joke = next(state for state in graph.get_state_history(config) if state.next == ("write_joke",))
    fork_config = graph.update_state(before_joke.config, values={"topic": "chickens"})
    forked = graph.invoke(None, fork_config)
    assert "chickens" in forked["joke"]
    history = list(graph.get_state_history(config))
    assert [state.metadata["source"] for state in history].count("update") == 1
    assert [state.values for state in history if state.values == first] == [first]  # the past stays


def test_time_travel_from_a_specific_node(graph_of: Construct, config: Any) -> None:
    graph = graph_of("topic_then_joke")
    graph.invoke({}, config)
    before_topic = next(state for state in graph.get_state_history(config) if state.next == ("generate_topic",))
    fork_config = graph.update_state(before_topic.config, values={"topic": "chickens"}, as_node="generate_topic")
    assert graph.get_state(fork_config).next == ("write_joke",)
    assert "chickens" in graph.invoke(None, fork_config)["joke"]


def test_time_travel_skips_ahead_as_another_node(graph_of: Construct, config: Any) -> None:
    graph = graph_of("topic_then_joke")
    graph.update_state(config, {"topic": "trains", "joke": "None."}, as_node="write_joke")
    assert graph.get_state(config).next == ()
    assert graph.invoke(None, config) == {"topic": "trains", "joke": "None."}


def test_time_travel_asks_interrupts_again(graph_of: Construct, config: Any) -> None:
    graph = graph_of("asks_then_ends")
    graph.invoke({"values": []}, config)
    graph.invoke(Command(resume="Alice"), config)
    before_ask = [state for state in graph.get_state_history(config) if state.next == ("ask_human",)][-1]
    replayed = graph.invoke(None, before_ask.config)
    assert replayed["__interrupt__"][0].value == "What is your name?"
    fork_config = graph.update_state(before_ask.config, {"values": ["forked"]})
    graph.invoke(None, fork_config)
    assert graph.invoke(Command(resume="Bob"), config)["values"] == ["forked", "Hello, Bob!", "Done"]


def test_time_travel_within_a_subgraph(graph_of: Construct, config: Any) -> None:
    graph = graph_of("subgraph_with_its_own_past")
    graph.invoke({"values": []}, config)
    graph.invoke(Command(resume="first"), config)  # now at the second question
    inside = graph.get_state(config, subgraphs=True).tasks[0].state
    assert inside.next == ("step_b",)
    fork_config = graph.update_state(inside.config, {"values": ["forked"]})
    assert graph.invoke(None, fork_config)["__interrupt__"][0].value == "Question b"


def test_persistence_get_state(graph_of: Construct, config: Any) -> None:
    graph = graph_of("persisted")
    graph.invoke({"foo": "", "bar": []}, config)
    latest = graph.get_state(config)
    assert latest.values == {"foo": "b", "bar": ["a", "b"]}
    assert (latest.next, latest.metadata["step"]) == ((), 2)
    at = {"configurable": {**config["configurable"], "checkpoint_id": latest.config["configurable"]["checkpoint_id"]}}
    assert graph.get_state(at).values == latest.values


def test_persistence_get_state_history(graph_of: Construct, config: Any) -> None:
    graph = graph_of("persisted")
    graph.invoke({"foo": "", "bar": []}, config)
    history = list(graph.get_state_history(config))
    assert [(state.next, state.metadata["step"]) for state in history] == [
        ((), 2),
        (("node_b",), 1),
        (("node_a",), 0),
        (("__start__",), -1),
    ]
    assert history[1].tasks[0].result == {"foo": "b", "bar": ["b"]}
    assert [state.parent_config for state in history] == [*(state.config for state in history[1:]), None]


def test_persistence_update_state(graph_of: Construct, config: Any) -> None:
    graph = graph_of("persisted")
    graph.invoke({"foo": "", "bar": []}, config)
    graph.update_state(config, {"foo": "2", "bar": ["c"]})
    assert graph.get_state(config).values == {"foo": "2", "bar": ["a", "b", "c"]}


async def test_persistence_asynchronously(graph_of: Construct, config: Any) -> None:
    graph = graph_of("persisted")
    async with asyncio.timeout(LIMIT):
        await graph.ainvoke({"foo": "", "bar": []}, config)
        await graph.aupdate_state(config, {"foo": "2", "bar": ["c"]})
        assert (await graph.aget_state(config)).values == {"foo": "2", "bar": ["a", "b", "c"]}
        assert len([state async for state in graph.aget_state_history(config)]) == 5
    await closed(graph)


def thread() -> Any:
    return {"configurable": {"thread_id": f"thread {next(_threads)}"}}


async def closed(graph: Any) -> None:
    if isinstance(graph, RemoteRunnable):
        await graph.aclose()
