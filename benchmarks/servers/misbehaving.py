"""Chains that misbehave: they leave, raise texts that hold a pattern, or have no schema, output or module to serve."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NotRequired

from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda, RunnableSerializable
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.catalog.registry import BrokenModule, discover
from tests.leaving_chains import GRAPHS, LAMBDAS, leave

# Modules of a team's folder that cannot be served.
MODULES = {
    "exits": "import sys\nsys.exit(2)\n",
    "cancels": "import asyncio\nraise asyncio.CancelledError\n",
    "fails": "{}['key']\n",
    "unreadable": "def (:\n",
    "empty": "",
}


class Unprintable(Exception):
    """An exception whose text leaves.

    Args:
        way: how it leaves.
    """

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self._way = way

    def __str__(self) -> str:
        return leave(self._way)


class Shapeless(RunnableLambda[Any, Any]):
    """A step without a schema."""

    def get_output_schema(self, config: Any = None) -> Any:  # noqa: ARG002 - as in the base
        """Exit."""
        sys.exit(2)


class Moody(RunnableSerializable[str, str]):
    """A step whose schema cannot be made for some configs."""

    mood: str = ""

    def invoke(self, input: str, config: Any = None, **kwargs: Any) -> str:  # noqa: ARG002 - as in the base
        """Return the input."""
        return input

    def get_input_schema(self, config: Any = None) -> Any:
        """Leave as `mood` says."""
        return leave(self.mood) if self.mood else super().get_input_schema(config)


class Tasks(TypedDict):
    """A state that pydantic cannot describe."""

    todos: Annotated[NotRequired[list[str]], "mark"]


def chains() -> dict[str, Chain]:
    """Return the chains; `shapeless` keeps a server from starting, except in development."""
    tasks = StateGraph(Tasks).add_node("node", _add_task).add_edge(START, "node").compile()
    return {
        **{name: _chain(runnable) for name, runnable in LAMBDAS.items()},
        **{name: Chain(runnable=runnable) for name, runnable in GRAPHS.items()},
        "loud": _chain(RunnableLambda(_shout)),
        "unprintable": _chain(RunnableLambda(_raise_unprintable)),
        "unwritable": _chain(RunnableLambda(lambda _: object())),
        "shapeless": Chain(runnable=Shapeless(str)),
        "moody": Chain(runnable=_moody()),
        "tasks": Chain(runnable=tasks),
    }


def broken_modules() -> tuple[BrokenModule, ...]:
    """Return the reports of the modules that cannot be served."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "broken_chains"
        package.mkdir()
        for name, text in MODULES.items():
            (package / f"{name}.py").write_text(text, "utf-8")
        sys.path.insert(0, folder)
        try:
            return discover(package.name).broken
        finally:
            sys.path.remove(folder)


def _chain(runnable: Runnable[Any, Any]) -> Chain:
    return Chain(runnable=runnable, input_type=Any, output_type=Any, expose_errors=True)


def _moody() -> Runnable[Any, Any]:
    return Moody().configurable_fields(mood=ConfigurableField(id="mood"))


def _shout(given: dict[str, Any]) -> str:
    raise ValueError(given["text"] * given["times"])


def _raise_unprintable(way: str) -> str:
    raise Unprintable(way)


def _add_task(state: Tasks) -> dict[str, Any]:
    return {"todos": [*state.get("todos", []), "new"]}
