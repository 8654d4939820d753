"""States, histories, updates and forks through the server and the SDK equal those in process."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import inspect
import itertools
import operator
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, Interrupt, PregelTask, StateSnapshot, StateUpdate, interrupt
from streamserve_sdk import RemoteRunnable
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from streamserve.graphs.graph import INTERRUPT
from streamserve.settings import Settings
from tests.fakes import registry_of
from tests.graphs.examples import EXAMPLES, STEPS, Place, Size
from tests.graphs.parity import assert_same
from tests.limits import LIMIT
from tests.servers import serving

Play = Callable[[Any, Any], Iterator[Any]]

_threads = itertools.count(1)


class Log(TypedDict, total=False):
    """A log of the nodes."""

    log: Annotated[list[str], operator.add]
    left: int


def asking() -> Any:
    """Return a graph with a subgraph that asks in two nodes at once."""

    def question(name: str) -> Any:
        async def ask(_state: Log) -> Log:
            return {"log": [f"{name}: {interrupt({'question': name})}"]}

        return ask

    def begin(_state: Log) -> Log:
        return {"log": ["begun"], "left": 1}

    def check(state: Log) -> Log:
        return {"log": [f"checked {state['left']}"]}

    inner = StateGraph(Log)
    for name in ("first", "second"):
        inner.add_node(name, question(name)).add_edge(START, name)
    return (
        StateGraph(Log)
        .add_node(begin)
        .add_node("inner", inner.compile())
        .add_node(check)
        .add_edge(START, "begin")
        .add_edge("begin", "inner")
        .add_edge("inner", "check")
    )


def failing() -> Any:
    """Return a graph whose node fails."""

    def fail(_state: Log) -> Log:
        raise ValueError("a secret")

    return StateGraph(Log).add_node(fail).add_edge(START, "fail")


BUILDERS = {**{name: one.builder for name, one in EXAMPLES.items()}, "asking": asking(), "failing": failing()}


def app_of(*names: str, **settings: str) -> Any:
    chains = {name: Chain(runnable=BUILDERS[name].compile(name=name)) for name in names}
    return create_app(registry_of(chains), Settings(_env_file=None, **settings))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(app_of(*BUILDERS)) as address:
        yield address


class Async:
    """A graph, called by its asynchronous methods."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def get_state_history(self, *args: Any, **kwargs: Any) -> list[Any]:
        async def read() -> list[Any]:
            return [state async for state in self._graph.aget_state_history(*args, **kwargs)]

        return self._run(read)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self._run(lambda: getattr(self._graph, f"a{name}")(*args, **kwargs))

    def _run(self, work: Callable[[], Any]) -> Any:
        async def call() -> Any:
            async with asyncio.timeout(LIMIT), AsyncExitStack() as ending:
                if isinstance(self._graph, RemoteRunnable):
                    await ending.enter_async_context(self._graph)
                return await work()

        return asyncio.run(call())


@pytest.fixture(params=[lambda graph: graph, Async], ids=["sync", "async"])
def remote(request: pytest.FixtureRequest, url: str) -> Iterator[Callable[[str], Any]]:
    """Return the constructor of a graph's remote form."""
    made: list[RemoteRunnable[Any, Any]] = []

    def make(name: str) -> Any:
        made.append(RemoteRunnable(f"{url}/{name}"))
        return request.param(made[-1])

    yield make
    for graph in made:
        graph.close()


def local(name: str) -> Any:
    return Async(BUILDERS[name].compile(name=name, checkpointer=InMemorySaver()))


def config_of(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def assert_alike(play: Play, name: str, remote: Callable[[str], Any]) -> list[Any]:
    """Play the same calls with the local and the remote graph, compare all results, and return them."""
    config = config_of(f"thread {next(_threads)}")
    came, expected = (list(map(in_order, play(graph, config))) for graph in (remote(name), local(name)))
    assert_same(came, expected)
    return came


def in_order(value: Any) -> Any:
    """Return a result with the interrupts of one step in a fixed order, which LangGraph does not promise."""
    if isinstance(value, StateSnapshot | PregelTask):
        changed = {"interrupts": tuple(sorted(value.interrupts, key=repr))}
        fields = ("tasks",) if isinstance(value, StateSnapshot) else ("state",)
        return value._replace(**changed, **{field: in_order(getattr(value, field)) for field in fields})
    if isinstance(value, tuple | list):
        return type(value)(map(in_order, value))
    if isinstance(value, dict) and INTERRUPT in value:
        return {**value, INTERRUPT: sorted(value[INTERRUPT], key=repr)}
    return value


@pytest.mark.parametrize("name", EXAMPLES)
def test_states_and_histories_equal_those_in_process(name: str, remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        for turn in EXAMPLES[name].turns:
            graph.invoke(copy.deepcopy(turn), {**config, "recursion_limit": 2 * STEPS})
            yield graph.get_state(config)
            yield graph.get_state(config, subgraphs=True)
        yield from graph.get_state_history(config)

    assert_alike(play, name, remote)


def test_a_state_is_langgraphs_own(remote: Callable[[str], Any]) -> None:
    graph, config = remote("asking"), config_of(f"thread {next(_threads)}")
    graph.invoke({"log": []}, config)
    state = graph.get_state(config, subgraphs=True)
    assert isinstance(state, StateSnapshot)
    (task,) = state.tasks
    assert isinstance(task, PregelTask)
    assert isinstance(task.state, StateSnapshot)
    assert {type(one) for one in (*state.interrupts, *task.interrupts, *task.state.interrupts)} == {Interrupt}
    assert (state.next, task.state.next) == (("inner",), ("first", "second"))


def test_a_history_comes_in_pages_and_stops_at_its_limit(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        graph.invoke({"steps": 0}, {**config, "recursion_limit": 2 * STEPS})
        states = list(graph.get_state_history(config))
        yield len(states)
        for limit in (1, 20, 21, 40, 500, 0):
            yield [state.values for state in graph.get_state_history(config, limit=limit)]
        yield list(graph.get_state_history(config, before=states[30].config, limit=25))
        yield list(graph.get_state_history(config, filter={"source": "input"}))
        yield list(graph.get_state_history(config, filter={"step": 7}))
        yield list(graph.get_state_history(states[50].config))

    assert assert_alike(play, "loop", remote)[0] == STEPS + 2


def test_the_state_of_an_unknown_thread_is_empty(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        yield graph.get_state(config)
        yield list(graph.get_state_history(config))
        graph.invoke({"log": []}, config)
        yield graph.get_state({"configurable": {**config["configurable"], "checkpoint_id": "never"}})

    assert_alike(play, "asking", remote)


def test_updates_are_made_by_the_reducers(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        graph.invoke({"log": []}, config)
        yield graph.update_state(config, {"log": ["by hand"], "left": 5})
        yield graph.get_state(config)
        yield graph.update_state(config, {"log": ["as inner"]}, as_node="inner")
        yield graph.get_state(config)
        yield graph.invoke(None, config)
        yield graph.update_state(config, None, as_node="__end__")
        yield graph.get_state(config)
        yield from graph.get_state_history(config)

    assert_alike(play, "asking", remote)


def test_an_update_keeps_the_types_of_its_values(remote: Callable[[str], Any]) -> None:
    found = [
        ("a", {1, 2}),
        b"\xff",
        Decimal("1.10"),
        Document("text"),
        HumanMessage("hi", id="hi"),
        dt.date(2026, 1, 2),
    ]
    values = {"found": found, "place": Place(name="Basel", at=dt.date(2026, 1, 2)), "size": Size(3), "kept": (1, None)}

    def play(graph: Any, config: Any) -> Iterator[Any]:
        yield graph.update_state(config, values, as_node="last")
        yield graph.get_state(config)
        yield graph.update_state(config, {"kept": {"type": "human", "content": "no message"}}, as_node="last")
        yield graph.get_state(config)
        yield graph.update_state(config, Command(update={"found": ["more"]}, goto="last"), as_node="merge")
        yield graph.get_state(config)

    assert_alike(play, "parallel", remote)


def test_an_update_begins_a_thread(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        yield graph.update_state(config, {"log": ["in the middle"], "left": 2}, "inner")
        yield graph.invoke(None, config)

    came = assert_alike(play, "asking", remote)
    assert came[-1]["log"] == ["in the middle", "checked 2"]


def test_several_updates_are_made_in_one_call(remote: Callable[[str], Any]) -> None:
    steps = [
        [StateUpdate({"log": ["put in"]}, "__input__")],
        [StateUpdate({"log": ["one"], "left": 1}, "begin")],
        [StateUpdate({"log": ["two"]}, "inner"), StateUpdate({"log": ["three"]}, "check")],
    ]

    def play(graph: Any, config: Any) -> Iterator[Any]:
        yield graph.bulk_update_state(config, steps)
        yield from graph.get_state_history(config)

    assert_alike(play, "asking", remote)


def test_a_fork_continues_from_an_older_checkpoint(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        interrupts = graph.invoke({"log": []}, config)[INTERRUPT]
        graph.invoke(Command(resume={one.id: "yes" for one in interrupts}), config)
        past = list(graph.get_state_history(config))
        before = next(state for state in past if state.next == ("check",))
        yield graph.invoke(None, before.config)
        fork = graph.update_state(before.config, {"left": 9})
        yield fork
        yield graph.invoke(None, fork)
        yield graph.get_state(config)
        yield from graph.get_state_history(config)

    assert_alike(play, "asking", remote)


def test_a_subgraph_has_its_own_state_history_and_updates(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        interrupts = graph.invoke({"log": []}, config)[INTERRUPT]
        inner = graph.get_state(config).tasks[0].state
        yield graph.get_state(inner)
        yield from graph.get_state_history(inner)
        yield graph.update_state(inner, {"log": ["inside"]}, as_node="first")
        yield graph.get_state(config, subgraphs=True)
        yield graph.invoke(Command(resume={interrupts[1].id: "yes"}), config)

    assert_alike(play, "asking", remote)


def test_a_run_resumes_from_a_checkpoint_of_a_subgraph(remote: Callable[[str], Any]) -> None:
    def play(graph: Any, config: Any) -> Iterator[Any]:
        interrupts = graph.invoke({"log": []}, config)[INTERRUPT]
        inside = graph.get_state(config, subgraphs=True).tasks[0].state
        graph.invoke(Command(resume={one.id: "yes" for one in interrupts}), config)
        yield graph.invoke(None, inside.config)
        yield graph.get_state(config, subgraphs=True)

    assert_alike(play, "asking", remote)


def test_an_error_in_a_state_is_its_class_only(remote: Callable[[str], Any]) -> None:
    graph, config = remote("failing"), config_of(f"thread {next(_threads)}")
    with pytest.raises(Exception, match="internal"):
        graph.invoke({"log": []}, config)
    assert [task.error for task in graph.get_state(config).tasks] == ["ValueError"]


def test_a_thread_is_deleted_with_its_past(remote: Callable[[str], Any]) -> None:
    graph, config = remote("asking"), config_of("to be/deleted?")
    graph.invoke({"log": []}, config)
    graph.delete_thread("to be/deleted?")
    assert graph.get_state(config).created_at is None
    with pytest.raises(Exception, match="unknown_thread"):
        graph.delete_thread("to be/deleted?")


def test_a_state_and_its_forks_outlive_the_server(tmp_path: Path) -> None:
    config, place = config_of("kept"), f"sqlite:///{tmp_path}/checkpoints.sqlite"
    with serving(app_of("asking", checkpoints=place)) as url, RemoteRunnable[Any, Any](f"{url}/asking") as graph:
        interrupts = graph.invoke({"log": []}, config)[INTERRUPT]
        before = [graph.get_state(config, subgraphs=True), *graph.get_state_history(config)]
    with serving(app_of("asking", checkpoints=place)) as url, RemoteRunnable[Any, Any](f"{url}/asking") as graph:
        assert [graph.get_state(config, subgraphs=True), *graph.get_state_history(config)] == before
        done = graph.invoke(Command(resume={one.id: "yes" for one in interrupts}), config)
        fork = graph.update_state(before[0].config, {"left": 7})
        past = list(graph.get_state_history(config))
    with serving(app_of("asking", checkpoints=place)) as url, RemoteRunnable[Any, Any](f"{url}/asking") as graph:
        assert graph.get_state(config).values["left"] == graph.get_state(fork).values["left"] == 7
        assert graph.get_state(past[1].config).values == done
        assert list(graph.get_state_history(config)) == past


METHODS = ["get_state", "get_state_history", "update_state", "bulk_update_state"]


@pytest.mark.parametrize("name", [prefix + name for name in METHODS for prefix in ("", "a")])
def test_the_methods_are_called_like_langgraphs(name: str) -> None:
    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(getattr(kind, name)).parameters.values()]
        for kind in (RemoteRunnable, Pregel)
    )
    assert ours == theirs
