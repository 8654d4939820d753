"""Graphs whose runs stop on demand, and their HTTP client for the tests of threads."""

from __future__ import annotations

import operator
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import httpx
from fastapi import FastAPI
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.app import create_app
from streamserve.catalog.chain import MultitaskStrategy
from streamserve.settings import Settings
from tests.fakes import Gate, greeting, registry_of
from tests.runs.support import LIMIT, caller
from tests.servers import serving

STRATEGIES: tuple[MultitaskStrategy, ...] = ("reject", "enqueue", "interrupt", "rollback")


class Log(TypedDict, total=False):
    said: Annotated[list[str], operator.add]
    word: str


Arrivals = defaultdict[str, threading.Event]


def writer(gate: Gate, arrivals: Arrivals) -> Any:
    """Return a graph that notes `(word)` at once and `word` when its gate opens; a word with `!` needs no gate."""

    async def begin(state: Log) -> Log:
        return {"said": [f"({state['word']})"]}

    async def finish(state: Log) -> Log:
        if not state["word"].startswith("!"):
            arrivals[state["word"]].set()
            await gate.await_()
        return {"said": [state["word"]]}

    graph = StateGraph(Log).add_sequence([begin, finish]).add_edge(START, "begin")
    return graph.compile()


def asker() -> Any:
    """Return a graph that asks for the word to note."""

    async def ask(state: Log) -> Log:
        return {"said": [interrupt("what?")]}

    return StateGraph(Log).add_node(ask).add_edge(START, "ask").compile()


def inspector(seen: list[RunnableConfig]) -> Any:
    """Return a graph that notes the config of its node."""

    class Context(TypedDict, total=False):
        tone: str

    async def look(state: Log, config: RunnableConfig) -> Log:
        seen.append(config)
        return {"said": ["seen"]}

    return StateGraph(Log, context_schema=Context).add_node("look", look).add_edge(START, "look").compile()


class Threads:
    """The graphs of an application, for one caller.

    Args:
        client: The client of the application.
        gates: The gates of the graphs by the name of their strategy.
        arrivals: The events of the words that wait at a gate.
        seen: The configs of `inspector`'s node.
    """

    def __init__(
        self, client: httpx.Client, gates: dict[str, Gate], arrivals: Arrivals, seen: list[RunnableConfig]
    ) -> None:
        self.client = client
        self.gates = gates
        self.arrivals = arrivals
        self.seen = seen

    def post(self, path: str, given: Any, thread: str | None = "t", **fields: Any) -> httpx.Response:
        """Return the answer to one call."""
        key = "inputs" if path.endswith("batch") else "input"
        config = {"configurable": {"thread_id": thread}} if thread else {}
        caller_name = fields.pop("caller", "ann")
        body = {key: given, "config": config, **fields}
        return self.client.post(path, json=body, headers={"X-Caller": caller_name})

    def start(self, name: str, word: str, **fields: Any) -> str:
        """Start a run in the background and return its id."""
        answer = self.post(f"/{name}/runs", {"word": word}, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["run_id"]

    def began(self, run_id: str) -> None:
        """Wait until a run has noted its first word and waits at the gate."""
        with self.client.stream("GET", f"/runs/{run_id}/stream", headers={"X-Caller": "ann"}) as response:
            assert any("(" in line for line in response.iter_lines())

    def state(self, run_id: str, wait: float = 0) -> dict[str, Any]:
        """Return the state of a run; with `wait`, after its end."""
        headers = {"X-Caller": "ann"}
        if wait:
            self.client.get(f"/runs/{run_id}/output", params={"wait": wait}, headers=headers)
        found: dict[str, Any] = self.client.get(f"/runs/{run_id}", headers=headers).json()
        return found

    def said(self, run_id: str) -> list[str]:
        """Return the notes of a run's graph at its end."""
        answer = self.client.get(f"/runs/{run_id}/output", params={"wait": LIMIT}, headers={"X-Caller": "ann"})
        assert answer.status_code == 200, answer.text
        found: list[str] = answer.json()["output"]["said"]
        return found


def app_of(gates: dict[str, Gate], arrivals: Arrivals, seen: list[RunnableConfig], **settings: Any) -> FastAPI:
    """Return an application with a `writer` per strategy, an `asker`, an `inspector` and a chain without a graph."""
    chains = {
        name: Chain(runnable=writer(gates[name], arrivals), multitask_strategy=name, stream_modes=["updates", "debug"])
        for name in STRATEGIES
    }
    others = {
        "ask": Chain(runnable=asker()),
        "look": Chain(runnable=inspector(seen), stream_modes=["values", "checkpoints", "debug"]),
        "greeting": Chain(runnable=greeting(), input_type=dict),
    }
    return create_app(registry_of({**chains, **others}), Settings(**settings, _env_file=None), guard=caller)


@contextmanager
def serving_threads(replicas: int = 1, **settings: Any) -> Iterator[list[Threads]]:
    """Run replicas that share gates, each on a real socket."""
    gates, seen = {name: Gate() for name in STRATEGIES}, list[RunnableConfig]()
    arrivals: Arrivals = defaultdict(threading.Event)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(httpx.Client(base_url=url, timeout=3 * LIMIT))
            for url in [
                stack.enter_context(serving(app_of(gates, arrivals, seen, **settings))) for _ in range(replicas)
            ]
        ]
        yield [Threads(client, gates, arrivals, seen) for client in clients]
