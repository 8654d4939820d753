"""Graphs of the shapes in LangGraph's documentation, in our own words; each is built once per constructor."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from streamserve.models.offline import OfflineChatModel

BUILDERS: dict[str, Any] = {}


def shown(build: Callable[[], Any]) -> Callable[[], Any]:
    """Register a function's graph under its name."""
    BUILDERS[build.__name__] = build()
    return build


class Joke(TypedDict):
    """A joke and its topic."""

    topic: NotRequired[str]
    joke: NotRequired[str]


@shown
def joke() -> Any:
    """Return a graph of two nodes, one after the other."""

    def refine_topic(state: Joke) -> Joke:
        return {"topic": f"{state['topic']} and cats"}

    def generate_joke(state: Joke) -> Joke:
        return {"joke": f"This is a joke about {state['topic']}"}

    return (
        StateGraph(Joke)
        .add_node(refine_topic)
        .add_node(generate_joke)
        .add_edge(START, "refine_topic")
        .add_edge("refine_topic", "generate_joke")
        .add_edge("generate_joke", END)
    )


class Foo(TypedDict):
    """The state of a parent."""

    foo: str


class Bar(TypedDict):
    """The state of a child, which shares a key with its parent."""

    foo: str
    bar: str


@shown
def parent() -> Any:
    """Return a graph with a subgraph."""

    def child_one(_state: Bar) -> dict[str, str]:
        return {"bar": "bar"}

    def child_two(state: Bar) -> dict[str, str]:
        return {"foo": state["foo"] + state["bar"]}

    child = StateGraph(Bar).add_node(child_one).add_node(child_two)
    child.add_edge(START, "child_one").add_edge("child_one", "child_two")

    def node_one(state: Foo) -> Foo:
        return {"foo": f"hi! {state['foo']}"}

    builder = StateGraph(Foo).add_node(node_one).add_node("node_two", child.compile())
    return builder.add_edge(START, "node_one").add_edge("node_one", "node_two")


def _ask(question: str, *tags: str) -> str:
    return str(OfflineChatModel(pace=0).with_config(tags=list(tags)).invoke(question).content)


@shown
def tokens() -> Any:
    """Return a graph of one node that calls a model."""

    def call_model(state: Joke) -> Joke:
        return {"joke": _ask(f"Tell me a joke about {state['topic']}")}

    return StateGraph(Joke).add_node(call_model).add_edge(START, "call_model")


class Texts(TypedDict, total=False):
    """Two texts about a topic."""

    topic: str
    joke: str
    poem: str


@shown
def two_models() -> Any:
    """Return a graph of two models in two nodes that run at once; a third model is not streamed."""

    def write_joke(state: Texts) -> Texts:
        return {"joke": _ask(f"Tell me a joke about {state['topic']}", "joke")}

    def write_poem(state: Texts) -> Texts:
        _ask("Think about it.", "nostream")
        return {"poem": _ask(f"Write a poem about {state['topic']}", "poem")}

    builder = StateGraph(Texts).add_node(write_joke).add_node(write_poem)
    return builder.add_edge(START, "write_joke").add_edge(START, "write_poem")


class Query(TypedDict, total=False):
    """A question and its answer."""

    query: str
    answer: str


@shown
def custom() -> Any:
    """Return a graph of one node that reports its progress and streams a client without LangChain."""

    def node(_state: Query) -> Query:
        writer = get_stream_writer()
        for done in (0, 50, 100):
            writer({"progress": f"{done}/100"})
        for word in ("some", "own", "client"):
            writer({"custom_llm_chunk": word})
        return {"answer": "some data"}

    return StateGraph(Query).add_node(node).add_edge(START, "node")


@tool
def query_database(query: str) -> str:
    """Query the database."""
    writer = get_stream_writer()
    writer({"data": "Retrieved 0/100 records", "type": "progress"})
    writer({"data": "Retrieved 100/100 records", "type": "progress"})
    return f"some answer to {query}"


@tool
def send_email(to: str, subject: str) -> str:
    """Send an email, once somebody approved."""
    answer = interrupt({"action": "send_email", "to": to, "subject": subject, "message": "Send this email?"})
    if answer["action"] != "approve":
        return "Email cancelled"
    return f"Email sent to {answer.get('to', to)} with subject '{answer.get('subject', subject)}'"


def _agent(call: Any, made: Any) -> Any:
    def agent(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        if isinstance(last, HumanMessage):
            return {"messages": [AIMessage("", tool_calls=[{**call, "id": "call", "type": "tool_call"}], id="calls")]}
        return {"messages": [AIMessage(f"Done: {last.content}", id="done")]}

    return (
        StateGraph(MessagesState)
        .add_node(agent)
        .add_node("tools", ToolNode([made]))
        .add_edge(START, "agent")
        .add_conditional_edges("agent", tools_condition)
        .add_edge("tools", "agent")
    )


@shown
def tool_progress() -> Any:
    """Return an agent whose tool reports its progress."""
    return _agent({"name": "query_database", "args": {"query": "cats"}}, query_database)


@shown
def email() -> Any:
    """Return an agent whose tool asks before it acts."""
    return _agent({"name": "send_email", "args": {"to": "ada@example.com", "subject": "Hello"}}, send_email)


class Approval(TypedDict, total=False):
    """An action and whether it is approved."""

    action: str
    status: str


@shown
def approve_or_reject() -> Any:
    """Return a graph whose first node asks for the next one."""

    def approval(state: Approval) -> Command[Literal["proceed", "cancel"]]:
        approved = interrupt({"question": "Approve this action?", "details": state["action"]})
        return Command(goto="proceed" if approved else "cancel")

    def proceed(_state: Approval) -> Approval:
        return {"status": "approved"}

    def cancel(_state: Approval) -> Approval:
        return {"status": "rejected"}

    builder = StateGraph(Approval).add_node(approval).add_node(proceed).add_node(cancel)
    return builder.add_edge(START, "approval").add_edge("proceed", END).add_edge("cancel", END)


class Review(TypedDict):
    """A text under review."""

    text: str


@shown
def review_and_edit() -> Any:
    """Return a graph whose node shows a text and takes the edited one."""

    def review(state: Review) -> Review:
        return {"text": interrupt({"instruction": "Review and edit this content", "content": state["text"]})}

    return StateGraph(Review).add_node(review).add_edge(START, "review")


class Form(TypedDict, total=False):
    """The fields of a form."""

    age: int | None


@shown
def validated() -> Any:
    """Return a graph whose node asks again until the answer is valid."""

    def collect_age(_state: Form) -> Form:
        question = "What is your age?"
        while True:
            answer = interrupt(question)
            if isinstance(answer, int) and answer > 0:
                return {"age": answer}
            question = f"'{answer}' is not a valid age. Please enter a positive number."

    return StateGraph(Form).add_node(collect_age).add_edge(START, "collect_age")


class Values(TypedDict):
    """The values in their order of arrival."""

    values: Annotated[list[str], operator.add]


@shown
def two_questions() -> Any:
    """Return a graph of two nodes that ask at once."""

    def node_a(_state: Values) -> Values:
        return {"values": [f"a:{interrupt('question_a')}"]}

    def node_b(_state: Values) -> Values:
        return {"values": [f"b:{interrupt('question_b')}"]}

    builder = StateGraph(Values).add_node("a", node_a).add_node("b", node_b)
    return builder.add_edge(START, "a").add_edge(START, "b").add_edge("a", END).add_edge("b", END)


@shown
def steps() -> Any:
    """Return a graph of three plain nodes, for breakpoints between them."""

    def step(number: int) -> Callable[[Values], Values]:
        return lambda _state: {"values": [f"step {number}"]}

    builder = StateGraph(Values)
    for number in (1, 2, 3):
        builder.add_node(f"step_{number}", step(number))
    return builder.add_edge(START, "step_1").add_edge("step_1", "step_2").add_edge("step_2", "step_3")


@shown
def asks_while_it_streams() -> Any:
    """Return a graph of a model, then a question in a subgraph."""

    class Talk(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def call_model(state: Talk) -> Talk:
        return {"messages": [OfflineChatModel(pace=0).invoke(state["messages"])]}

    def approve(_state: Talk) -> Talk:
        return {"messages": [HumanMessage(interrupt("Is that fine?"))]}

    inner = StateGraph(Talk).add_node(approve).add_edge(START, "approve").compile()
    builder = StateGraph(Talk).add_node(call_model).add_node("review", inner)
    return builder.add_edge(START, "call_model").add_edge("call_model", "review")


@shown
def topic_then_joke() -> Any:
    """Return the graph for time travel, which chooses a topic, then writes a joke."""

    def generate_topic(_state: Joke) -> Joke:
        return {"topic": "socks in the dryer"}

    def write_joke(state: Joke) -> Joke:
        return {"joke": f"Why do {state['topic']} vanish? At {time.monotonic_ns()} nobody knows."}

    builder = StateGraph(Joke).add_node(generate_topic).add_node(write_joke)
    return builder.add_edge(START, "generate_topic").add_edge("generate_topic", "write_joke")


@shown
def asks_then_ends() -> Any:
    """Return a graph of a question, then a last step."""

    def ask_human(_state: Values) -> Values:
        return {"values": [f"Hello, {interrupt('What is your name?')}!"]}

    def final_step(_state: Values) -> Values:
        return {"values": ["Done"]}

    builder = StateGraph(Values).add_node(ask_human).add_node(final_step)
    return builder.add_edge(START, "ask_human").add_edge("ask_human", "final_step")


@shown
def subgraph_with_its_own_past() -> Any:
    """Return a graph whose subgraph keeps its own checkpoints, with two questions."""

    def step_a(_state: Values) -> Values:
        return {"values": [f"a:{interrupt('Question a')}"]}

    def step_b(_state: Values) -> Values:
        return {"values": [f"b:{interrupt('Question b')}"]}

    inner = StateGraph(Values).add_node(step_a).add_node(step_b)
    inner.add_edge(START, "step_a").add_edge("step_a", "step_b")
    return StateGraph(Values).add_node("subgraph", inner.compile(checkpointer=True)).add_edge(START, "subgraph")


class FooBars(TypedDict):
    """A state with one key that is overwritten and one that is added to."""

    foo: str
    bar: Annotated[list[str], operator.add]


@shown
def persisted() -> Any:
    """Return the graph for the inspection of checkpoints."""

    def node_a(_state: FooBars) -> FooBars:
        return {"foo": "a", "bar": ["a"]}

    def node_b(_state: FooBars) -> FooBars:
        return {"foo": "b", "bar": ["b"]}

    builder = StateGraph(FooBars).add_node(node_a).add_node(node_b)
    return builder.add_edge(START, "node_a").add_edge("node_a", "node_b").add_edge("node_b", END)
