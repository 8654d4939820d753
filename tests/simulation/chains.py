"""The chains of the simulated worlds. What they do is in their input, and they note what they opened and closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel, field_validator

from streamserve import Chain
from tests.simulation.loop import PROCESS


class Stage:
    """The acts of the chains in the present world.

    Args:
        delay: returns the virtual seconds before each token.
    """

    def __init__(self) -> None:
        self.delay: Any = lambda: 0.0
        # Generators that are open, with their process: a killed process closes none.
        self.open: dict[str, Any] = {}
        self.started: list[str] = []
        # Whether the state of the chain `fickle` exits as soon as it is made.
        self.quits = False
        # Promises of the server that a chain saw broken.
        self.broken: list[str] = []


STAGE = Stage()


class SharedSaver(BaseCheckpointSaver[Any]):
    """Checkpoints that all workers of a world share, as a database's."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = InMemorySaver()

    def clear(self) -> None:
        """Forget all checkpoints, for the next world."""
        self.memory = InMemorySaver()

    async def aget_tuple(self, config: Any) -> Any:
        """Return a checkpoint."""
        await asyncio.sleep(0)
        return self.memory.get_tuple(config)

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        """Yield checkpoints."""
        for found in self.memory.list(config, **options):
            yield found

    async def aput(self, *args: Any) -> Any:
        """Store a checkpoint."""
        await asyncio.sleep(0)
        return self.memory.put(*args)

    async def aput_writes(self, *args: Any) -> None:
        """Store writes."""
        await asyncio.sleep(0)
        self.memory.put_writes(*args)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        await asyncio.sleep(0)
        self.memory.delete_thread(thread_id)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """Return the version after one."""
        return self.memory.get_next_version(current, channel)


SAVER = SharedSaver()


class MuteValueError(ValueError):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class LeavingValueError(BaseException):
    """An exception that no `except Exception` stops."""


FAILURES: dict[str, Exception] = {
    "": ValueError("the model failed"),
    "half": ValueError("half an emoji: \ud83d"),
    "mute": MuteValueError(),
}


def tokens_of(given: dict[str, Any]) -> list[str]:
    """Return the tokens that a chain yields for an input."""
    return [f"{given['name']}-{number} " for number in range(given["tokens"])]


async def _tell(inputs: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    given = [each async for each in inputs][-1]
    label = f"{given['name']}/{len(STAGE.started)}" + " alone" * given.get("alone", False)
    STAGE.started.append(given["name"])
    STAGE.open[label] = PROCESS.get()
    alone = [name for name, process in STAGE.open.items() if name.endswith("alone") and process is PROCESS.get()]
    if len(alone) > 1:
        STAGE.broken.append(f"more than one at a time: {alone}")
    try:
        for number, token in enumerate(tokens_of(given)):
            await _pause(given)
            if number == given.get("fails_at"):
                raise FAILURES[given.get("fails_with", "")]
            yield token
    finally:
        del STAGE.open[label]


async def _pause(given: dict[str, Any]) -> None:
    until = asyncio.get_running_loop().time() + STAGE.delay() + given.get("late", 0.0)
    while True:
        try:
            await asyncio.sleep(until - asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            if not given.get("ignores_cancel"):
                raise
        else:
            return


def _tell_sync(given: dict[str, Any]) -> str:
    # The loop carries it out late, as a step that ignores its cancellation.
    time.sleep(given.get("late", 0.0))
    if "fails_at" in given:
        raise ValueError("the model failed")
    return "".join(tokens_of(given))


def _bot() -> Runnable[Any, Any]:
    async def answer(state: MessagesState) -> dict[str, Any]:
        await asyncio.sleep(STAGE.delay())
        return {"messages": [AIMessage(f"answer to {state['messages'][-1].text}")]}

    async def ask(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1].text
        if "ask" in last:
            return {"messages": [AIMessage(f"heard {interrupt('really?')}")]}
        return {}

    graph = StateGraph(MessagesState).add_node(answer).add_node(ask).add_edge(START, "answer").add_edge("answer", "ask")
    return graph.compile(checkpointer=SAVER)


class FickleState(BaseModel):
    """A state that may exit when it is made."""

    text: str

    @field_validator("text")
    @classmethod
    def check(cls, text: str) -> str:
        """Check nothing; leave."""
        if STAGE.quits:
            raise LeavingValueError
        return text


def _fickle() -> Runnable[Any, Any]:
    async def wait(state: FickleState) -> dict[str, Any]:
        await asyncio.sleep(3.0)
        return {"text": state.text}

    return StateGraph(FickleState).add_node(wait).add_edge(START, "wait").compile(checkpointer=SAVER)


def chains() -> dict[str, Chain]:
    """Return the chains of every world."""
    return {
        "tell": Chain(runnable=RunnableGenerator(_tell), input_type=dict, output_type=str),
        "hurry": Chain(runnable=RunnableGenerator(_tell), input_type=dict, output_type=str, timeout=1.0),
        "alone": Chain(runnable=RunnableGenerator(_tell), input_type=dict, output_type=str, max_concurrency=1),
        "frank": Chain(runnable=RunnableGenerator(_tell), input_type=dict, output_type=str, expose_errors=True),
        "fickle": Chain(runnable=_fickle(), recover=True),
        "sync": Chain(runnable=RunnableLambda(_tell_sync), input_type=dict, output_type=str),
        "bot": Chain(runnable=_bot(), multitask_strategy="enqueue", recover=True),
        "bot_reject": Chain(runnable=_bot(), multitask_strategy="reject", recover=True),
        "bot_interrupt": Chain(runnable=_bot(), multitask_strategy="interrupt"),
        "bot_rollback": Chain(runnable=_bot(), multitask_strategy="rollback"),
    }
