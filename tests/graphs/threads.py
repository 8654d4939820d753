"""Graphs whose runs stop where a test says, and what the tests of threads ask of them over HTTP."""

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
    """Notes a word twice, `(word)` at once and `word` when the gate opens for it, unless it begins with `!`."""

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
    """Asks what to note."""

    async def ask(state: Log) -> Log:
        return {"said": [interrupt("what?")]}

    return StateGraph(Log).add_node(ask).add_edge(START, "ask").compile()


def inspector(seen: list[RunnableConfig]) -> Any:
    """Notes the config that its node sees."""

    class Context(TypedDict, total=False):
        tone: str

    async def look(state: Log, config: RunnableConfig) -> Log:
        seen.append(config)
        return {"said": ["seen"]}

    return StateGraph(Log, context_schema=Context).add_node("look", look).add_edge(START, "look").compile()


class Threads:
    """An application's graphs as one caller sees them.

    Args:
        client: of the application.
        gates: of the graphs of each strategy, by its name.
        arrivals: set for each word that waits at a gate.
        seen: what `inspector` has seen.
    """

    def __init__(
        self, client: httpx.Client, gates: dict[str, Gate], arrivals: Arrivals, seen: list[RunnableConfig]
    ) -> None:
        self.client = client
        self.gates = gates
        self.arrivals = arrivals
        self.seen = seen

    def post(self, path: str, given: Any, thread: str | None = "t", **fields: Any) -> httpx.Response:
        """The answer to one call."""
        key = "inputs" if path.endswith("batch") else "input"
        config = {"configurable": {"thread_id": thread}} if thread else {}
        caller_name = fields.pop("caller", "ann")
        body = {key: given, "config": config, **fields}
        return self.client.post(path, json=body, headers={"X-Caller": caller_name})

    def start(self, name: str, word: str, **fields: Any) -> str:
        """The id of a run in the background."""
        answer = self.post(f"/{name}/runs", {"word": word}, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()["run_id"]

    def began(self, run_id: str) -> None:
        """Waits until a run has said its first word, and stands at the gate."""
        with self.client.stream("GET", f"/runs/{run_id}/stream", headers={"X-Caller": "ann"}) as response:
            assert any("(" in line for line in response.iter_lines())

    def state(self, run_id: str, wait: float = 0) -> dict[str, Any]:
        """What is known of a run; with `wait`, after its end."""
        headers = {"X-Caller": "ann"}
        if wait:
            self.client.get(f"/runs/{run_id}/output", params={"wait": wait}, headers=headers)
        found: dict[str, Any] = self.client.get(f"/runs/{run_id}", headers=headers).json()
        return found

    def said(self, run_id: str) -> list[str]:
        """What a run's graph has noted at its end."""
        answer = self.client.get(f"/runs/{run_id}/output", params={"wait": LIMIT}, headers={"X-Caller": "ann"})
        assert answer.status_code == 200, answer.text
        found: list[str] = answer.json()["output"]["said"]
        return found


def app_of(gates: dict[str, Gate], arrivals: Arrivals, seen: list[RunnableConfig], **settings: Any) -> FastAPI:
    """An application with a `writer` for each strategy, an `asker`, an `inspector` and a chain that is no graph."""
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
    """Replicas that share gates, each on a real socket."""
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
