"""Chains of every shape whose code leaves: it exits, is interrupted, or raises what is no Exception."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode


class Odd(BaseException):
    """An exception that is not an Exception, as some libraries have them."""


WAYS: dict[str, type[BaseException]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "odd": Odd,
    "cancel": asyncio.CancelledError,
}


def leave(way: str) -> str:
    raise WAYS[way]("mine")


async def leave_async(way: str) -> str:
    return leave(way)


async def leave_in_task(way: str) -> str:
    return await asyncio.create_task(leave_async(way))


async def leave_later(ways: AsyncIterator[str]) -> AsyncIterator[str]:
    async for way in ways:
        yield "half"
        leave(way)


@tool
def leaving_tool(way: str) -> str:
    """Leave."""
    return leave(way)


@tool
async def leaving_async_tool(way: str) -> str:
    """Leave."""
    return leave(way)


def graph(node: Callable[[Any], Any]) -> Any:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(InMemorySaver())


def side_by_side(node: Callable[[Any], Any]) -> Any:
    made = StateGraph(MessagesState).add_node("node", node).add_node("other", lambda _state: {"messages": []})
    return made.add_edge(START, "node").add_edge(START, "other").compile()


def of_state(state: Any) -> Any:
    return leave(state["messages"][-1].text)


async def of_state_async(state: Any) -> Any:
    return leave(state["messages"][-1].text)


def agent(of: BaseTool) -> Any:
    def ask(state: Any) -> Any:
        call = {"name": of.name, "args": {"way": state["messages"][-1].text}, "id": "1"}
        return {"messages": [AIMessage(content="", tool_calls=[call])]}

    made = StateGraph(MessagesState).add_node("ask", ask).add_node("tools", ToolNode([of]))
    return made.add_edge(START, "ask").add_edge("ask", "tools").compile()


LAMBDAS: dict[str, Any] = {
    "sync": RunnableLambda(leave),
    "async": RunnableLambda(leave_async),
    "task": RunnableLambda(leave_in_task),
    "sequence": RunnablePassthrough() | RunnableLambda(leave) | RunnablePassthrough(),
    "parallel": RunnableParallel(one=RunnableLambda(leave), two=RunnableLambda(leave_async), three=lambda way: way),
    "fallback": RunnableLambda(leave).with_fallbacks([RunnableLambda(lambda way: way)]).with_retry(),
    "generator": RunnableGenerator(leave_later),
    "tool": (lambda way: {"way": way}) | leaving_tool,
    "async-tool": (lambda way: {"way": way}) | leaving_async_tool,
}
GRAPHS: dict[str, Any] = {
    "node": graph(of_state),
    "async-node": graph(of_state_async),
    "parallel-nodes": side_by_side(of_state),
    "parallel-async-nodes": side_by_side(of_state_async),
    "agent": agent(leaving_tool),
    "async-agent": agent(leaving_async_tool),
}


def given(name: str, way: str) -> Any:
    """Return the input that makes a chain leave."""
    return {"messages": [["user", way]]} if name in GRAPHS else way
