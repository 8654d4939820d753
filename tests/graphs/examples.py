"""Deterministic graphs of the shapes that applications have, each with the inputs of its turns."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import operator
from typing import Annotated, Any, Literal, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from streamserve.models.offline import OfflineChatModel

STEPS = 200


class Example(NamedTuple):
    """A graph's builder and its input of each turn."""

    builder: Any
    turns: list[Any]


class Place(BaseModel):
    """A pydantic model in a state."""

    name: str
    at: dt.date


@dataclasses.dataclass
class Size:
    """A dataclass in a state."""

    width: int


def _model() -> OfflineChatModel:
    return OfflineChatModel(pace=0)


def tools() -> Example:
    """Return an agent that calls a tool, which writes custom data."""

    @tool
    async def calculator(expression: str) -> str:
        """Calculate an arithmetic expression."""
        get_stream_writer()({"calculating": expression, "at": dt.date(2026, 1, 2)})
        return "408"

    model = _model().bind_tools([calculator])

    async def agent(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"], config)]}

    builder = (
        StateGraph(MessagesState)
        .add_node(agent)
        .add_node("tools", ToolNode([calculator]))
        .add_edge(START, "agent")
        .add_conditional_edges("agent", tools_condition)
        .add_edge("tools", "agent")
    )
    asked = {"messages": [HumanMessage("What is 17 * 24?", id="asked")]}
    return Example(builder, [asked, {"messages": [HumanMessage("And now say something about cats.", id="more")]}])


class Found(TypedDict, total=False):
    """The state of the parallel graph: values of every kind."""

    topics: list[str]
    found: Annotated[list[Any], operator.add]
    place: Place
    size: Size
    kept: Any


def parallel() -> Example:
    """Return a graph of two branches at once, then a task per topic, then a node that returns a Command."""

    async def plan(_state: Found) -> dict[str, Any]:
        return {"topics": ["cats", "dogs", "rain"], "place": Place(name="Basel", at=dt.date(2026, 1, 2))}

    async def left(_state: Found) -> dict[str, Any]:
        get_stream_writer()(("left", 1))
        return {"found": [("left", {1, 2}), b"\xff"], "size": Size(3)}

    async def right(_state: Found) -> dict[str, Any]:
        get_stream_writer()("right")
        return {"found": [decimal.Decimal("1.10"), dt.timedelta(seconds=90)]}

    async def search(task: dict[str, Any]) -> dict[str, Any]:
        return {"found": [Document(task["topic"], metadata={"line": 3}), {"type": "human", "content": "no message"}]}

    async def merge(state: Found) -> Command[Literal["last"]]:
        kept = {"kept": (len(state["found"]), None), "found": Overwrite(state["found"][-2:])}
        return Command(update=kept, goto="last")

    async def last(_state: Found) -> list[Any]:
        return [{"found": ["one"]}, Command(update={"found": ["two"]})]

    def each_topic(state: Found) -> list[Send]:
        return [Send("search", {"topic": topic}) for topic in state["topics"]]

    async def gather(_state: Found) -> None:
        return None

    builder = (
        StateGraph(Found)
        .add_node(plan)
        .add_node(left)
        .add_node(right)
        .add_node(gather)
        .add_node(search)  # type: ignore[arg-type]  # its input is what Send gives it
        .add_node(merge, defer=True)
        .add_node(last)
        .add_edge(START, "plan")
        .add_edge("plan", "left")
        .add_edge("plan", "right")
        .add_edge(["left", "right"], "gather")
        .add_conditional_edges("gather", each_topic, ["search"])
        .add_edge("search", "merge")
        .add_edge("last", END)
    )
    return Example(builder, [{"topics": []}])


def nested() -> Example:
    """Return a graph with a model three levels deep; each level writes custom data and adds to the state."""

    async def speak(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        get_stream_writer()({"level": 2})
        return {"messages": [await _model().ainvoke(state["messages"], config)]}

    async def forget(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"level": 1})
        return {"messages": [RemoveMessage(id=str(state["messages"][0].id))]}

    inner = StateGraph(MessagesState).add_node(speak).add_edge(START, "speak").compile(name="inner")
    middle = (
        StateGraph(MessagesState)
        .add_node("inner", inner)
        .add_node(forget)
        .add_edge(START, "inner")
        .add_edge("inner", "forget")
        .compile(name="middle")
    )

    async def before(_state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"level": 0})
        return {"messages": [("user", "Tell me about rain.")]}

    builder = (
        StateGraph(MessagesState)
        .add_node(before)
        .add_node("middle", middle)
        .add_edge(START, "before")
        .add_edge("before", "middle")
    )
    return Example(builder, [{"messages": [HumanMessage("Hello", id="hello")]}])


class Approval(TypedDict, total=False):
    """The state of the graph that asks."""

    messages: Annotated[list[AnyMessage], add_messages]
    answers: Annotated[list[Any], operator.add]


def interrupts() -> Example:
    """Return a graph with two structured questions, one after the other."""

    async def first(_state: Approval) -> dict[str, Any]:
        return {"answers": [interrupt({"question": "Send it?", "options": ("yes", "no"), "by": dt.date(2026, 1, 2)})]}

    async def second(_state: Approval) -> dict[str, Any]:
        return {"answers": [interrupt(HumanMessage("To whom?", id="whom"))], "messages": [("ai", "Sent.")]}

    builder = StateGraph(Approval).add_node(first).add_node(second).add_edge(START, "first").add_edge("first", "second")
    begin = {"messages": [HumanMessage("Write a letter.", id="begin")]}
    return Example(builder, [begin, Command(resume="yes"), Command(resume={"name": "Ada"}), begin])


def questions() -> Example:
    """Return a graph with two questions at once, one of them in a subgraph."""

    async def colour(_state: Approval) -> dict[str, Any]:
        return {"answers": [interrupt("Which colour?")]}

    async def size(_state: Approval) -> dict[str, Any]:
        return {"answers": [interrupt({"question": "Which size?"})]}

    sizes = StateGraph(Approval).add_node(size).add_edge(START, "size").compile(name="sizes")
    builder = (
        StateGraph(Approval)
        .add_node(colour)
        .add_node("sizes", sizes)
        .add_edge(START, "colour")
        .add_edge(START, "sizes")
    )
    return Example(builder, [{"answers": []}])


class Count(TypedDict):
    """The state of the loop."""

    steps: int


def loop() -> Example:
    """Return a graph that counts in a loop of many steps."""

    async def count(state: Count) -> dict[str, Any]:
        get_stream_writer()(state["steps"])
        return {"steps": state["steps"] + 1}

    def again(state: Count) -> str:
        return "count" if state["steps"] < STEPS else END

    builder = StateGraph(Count).add_node(count).add_edge(START, "count").add_conditional_edges("count", again)
    return Example(builder, [{"steps": 0}])


class Letter(BaseModel):
    """A whole state as a pydantic model."""

    to: str
    text: str = ""
    private: list[str] = []


class Sent(TypedDict):
    """The output of a letter's graph."""

    text: str


class Writer(BaseModel):
    """The context of a letter's graph."""

    name: str
    on: dt.date


def letter() -> Example:
    """Return a graph that writes a letter, with a pydantic state, a narrower output and a context."""

    async def draft(state: Letter) -> dict[str, Any]:
        return {"text": f"Dear {state.to}", "private": ["drafted"]}

    async def sign(state: Letter, runtime: Runtime[Writer]) -> dict[str, Any]:
        by = f"{runtime.context.name}, {runtime.context.on:%Y}" if runtime.context else "nobody"
        return {"text": f"{state.text} from {by}", "private": [*state.private, "signed"]}

    builder = (
        StateGraph(Letter, context_schema=Writer, output_schema=Sent)
        .add_node(draft)
        .add_node(sign)
        .add_edge(START, "draft")
        .add_edge("draft", "sign")
    )
    return Example(builder, [{"to": "Ada"}])


EXAMPLES = {
    "tools": tools(),
    "parallel": parallel(),
    "nested": nested(),
    "interrupts": interrupts(),
    "questions": questions(),
    "loop": loop(),
    "letter": letter(),
}
