"""Chains of every kind that langchain-core has, to compare how they stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import CommaSeparatedListOutputParser, JsonOutputParser, StrOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputToolsParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableWithMessageHistory,
)
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from streamserve.models.offline import OfflineChatModel

TOPIC = {"topic": "cats"}


class Sayer(BaseChatModel):
    """A model with fixed chunks of content, optionally a failure after them, optionally sync only."""

    says: tuple[Any, ...] = ("Cats", " ", "purr", ".")
    fails: bool = False

    @property
    def _llm_type(self) -> str:
        return "sayer"

    def _stream(self, *_: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for said in (*self.says, *(kwargs.get("stop") or ())):
            # A copy, because LangChain gives the message the id of the first run that streams it.
            message = said.model_copy() if isinstance(said, BaseMessage) else AIMessageChunk(content=said)
            yield ChatGenerationChunk(message=message)
        if self.fails:
            raise RuntimeError("the model failed")

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(*args, **kwargs))


class AsyncSayer(Sayer):
    """The asynchronous form."""

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(*args, **kwargs):
            await asyncio.sleep(0)
            yield chunk


class ShoutingParser(StrOutputParser):
    """A subclass of the string parser."""

    def parse(self, text: str) -> str:
        return text.upper()


@dataclass(frozen=True)
class Case:
    """A chain, its input and its config."""

    make: Callable[[], Runnable[Any, Any]]
    value: Any = field(default_factory=lambda: TOPIC)
    config: RunnableConfig = field(default_factory=RunnableConfig)
    ordered: bool = True  # False: steps run at once, so the order of their observations is random
    rebuilt: bool = True
    abandons: bool = False  # a step is abandoned before its end: upstream closes it at garbage collection


prompt = ChatPromptTemplate.from_template("Say something about {topic}.")
model = AsyncSayer()
text = prompt | model | StrOutputParser()
several = ChatPromptTemplate(
    [("system", "You are {who}."), MessagesPlaceholder("past"), ("human", "On {topic}?"), AIMessage("Well")],
    partial_variables={"who": "a poet"},
)
pictured = ChatPromptTemplate([("human", [{"type": "text", "text": "{topic}"}, {"type": "text", "text": "?"}])])
tagged = ChatPromptTemplate([("human", "{topic}")], tags=["t"], metadata={"m": 1})


def looked_up() -> str:
    """Return a prompt's input from another runnable."""
    return str(RunnableLambda(str).invoke("a sage"))


async def shouted(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield str(getattr(chunk, "text", chunk)).upper()


async def breaking(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        yield chunk
        raise RuntimeError("the step failed")


async def choosy(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        yield chunk
        return


async def numbers(_: Any) -> AsyncIterator[Any]:
    for each in (1, None, "a", {"b": 1}, [2]):
        yield each


async def said(value: Any) -> str:
    return f"{value}!"


async def worded(value: Any) -> AsyncIterator[str]:
    for word in str(value).split():
        yield word


def answering(_: Any) -> Runnable[Any, Any]:
    return text


def with_history() -> Runnable[Any, Any]:
    history = InMemoryChatMessageHistory(messages=[AIMessage("Hello.")])
    asked = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{topic}")])
    return RunnableWithMessageHistory(  # type: ignore[deprecated,unused-ignore]
        asked | model | StrOutputParser(),
        lambda: history,
        input_messages_key="topic",
        history_messages_key="history",
        history_factory_config=[],
    )


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def tool_agent() -> Runnable[Any, Any]:
    calling = OfflineChatModel(pace=0).bind_tools([multiply])

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await calling.ainvoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node("ask", ask).add_node("tools", ToolNode([multiply]))
    agent.add_edge(START, "ask").add_conditional_edges("ask", tools_condition).add_edge("tools", "ask")
    return agent.compile()


def asking(topic: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [("human", f"What is 2 * 3 for {topic['topic']}?")]}


def last_text(state: dict[str, Any]) -> str:
    return str(state["messages"][-1].text)


def calls(*arguments: str) -> tuple[AIMessageChunk, ...]:
    opening = tool_call_chunk(name="multiply", args="", id="call-1", index=0)
    pieces = [tool_call_chunk(args=argument, index=0) for argument in arguments]
    return tuple(AIMessageChunk(content="", tool_call_chunks=[piece]) for piece in (opening, *pieces))


JSON = AsyncSayer(says=('{"a', '": 1, "b', '": [1', ", 2]", "}"))
BLOCKS = AsyncSayer(says=([{"type": "text", "text": "Hi", "index": 0}], [{"type": "text", "text": "!", "index": 0}]))
CALLS = AsyncSayer(says=calls('{"a": 2', ', "b": 3}'))
USAGE = AsyncSayer(
    says=(
        AIMessageChunk(content="Hi", id="msg-1", response_metadata={"model_name": "m"}),
        AIMessageChunk(content="", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    )
)
SETTINGS: RunnableConfig = {
    "tags": ["asked"],
    "metadata": {"team": "a"},
    "run_name": "the run",
    "max_concurrency": 3,
    "recursion_limit": 7,
    "configurable": {"colour": "blue"},
}

CASES: dict[str, Case] = {
    "text": Case(lambda: text),
    "messages": Case(lambda: prompt | model),
    "a prompt of several messages": Case(lambda: several | model, {"topic": "cats", "past": [HumanMessage("Hi")]}),
    "a prompt that lacks a variable": Case(lambda: several | model, {"past": []}),
    "a prompt with a picture": Case(lambda: pictured | model),
    "a prompt with tags": Case(lambda: tagged | model | StrOutputParser()),
    "a prompt that looks things up": Case(lambda: several.partial(who=looked_up) | model, {"topic": "a", "past": []}),
    "a prompt for one variable": Case(lambda: RunnableLambda(str) | prompt | model, "Hi"),
    "prompts in a row": Case(lambda: prompt | RunnablePassthrough() | said, config=SETTINGS),
    "a model alone": Case(lambda: model, "Hi", rebuilt=False),
    "a parser alone": Case(StrOutputParser, AIMessageChunk(content="Hi")),
    "with settings": Case(lambda: text, config=SETTINGS),
    "a named sequence": Case(lambda: prompt.pipe(model, StrOutputParser(), name="teller")),
    "a named parser": Case(lambda: prompt | model | StrOutputParser(name="reader")),
    "content blocks": Case(lambda: prompt | BLOCKS | StrOutputParser()),
    "usage and provider ids": Case(lambda: prompt | USAGE | RunnableGenerator(shouted)),
    "a parser of another class": Case(lambda: prompt | model | ShoutingParser()),
    "parsers in a row": Case(lambda: text | StrOutputParser() | StrOutputParser()),
    "a list parser": Case(lambda: prompt | AsyncSayer(says=("a,", " b", ", c")) | CommaSeparatedListOutputParser()),
    "json": Case(lambda: prompt | JSON | JsonOutputParser()),
    "json patches": Case(lambda: prompt | JSON | JsonOutputParser(diff=True)),
    "tool calls": Case(lambda: prompt | CALLS | JsonOutputToolsParser()),
    "tools bound": Case(lambda: prompt | OfflineChatModel(pace=0).bind_tools([multiply]), {"topic": "2 * 3"}),
    "a sync-only model": Case(lambda: prompt | Sayer() | StrOutputParser()),
    "arguments bound": Case(lambda: prompt | model.bind(stop=["end"]) | StrOutputParser()),
    "arguments bound to a sequence": Case(lambda: prompt | (model | StrOutputParser()).bind(stop=["end"]) | said),
    "a binding outside": Case(lambda: text.with_config(SETTINGS)),
    "bindings in bindings": Case(lambda: text.with_config(tags=["i"]).with_config(run_name="o"), config=SETTINGS),
    "arguments for the first step": Case(lambda: (model | StrOutputParser()).bind(stop=["end"]), "Hi"),
    "a bound model": Case(lambda: prompt | model.with_config(tags=["m"], run_name="mouth") | StrOutputParser()),
    "a nested sequence": Case(
        lambda: (prompt | model).with_config(run_name="inner", tags=["i"], metadata={"x": 1}) | StrOutputParser()
    ),
    "types bound": Case(lambda: text.with_types(output_type=str) | said),
    "listeners": Case(lambda: text.with_listeners(on_end=lambda run: None)),
    "listeners inside": Case(lambda: (prompt | model).with_listeners(on_start=lambda run: None) | StrOutputParser()),
    "a parallel": Case(lambda: RunnableParallel(one=text, two=prompt | model), ordered=False),
    "a parallel of one": Case(lambda: RunnableParallel(one=text.with_config(run_name="only")) | itemgetter("one")),
    "assign and pick": Case(lambda: RunnablePassthrough.assign(answer=text).pick(["answer", "topic"]), ordered=False),
    "retrieval": Case(
        lambda: {"topic": itemgetter("topic") | RunnableLambda(said), "all": RunnablePassthrough()} | text,
        ordered=False,
    ),
    "a passthrough": Case(lambda: text | RunnablePassthrough() | RunnablePassthrough(lambda _: None)),
    "a branch": Case(lambda: RunnableBranch((lambda value: value["topic"] == "cats", text), prompt | model)),
    "a branch inside": Case(lambda: RunnablePassthrough() | RunnableBranch((lambda _: False, model), text) | said),
    "a function": Case(lambda: text | (lambda value: f"{value}?")),
    "an async function": Case(lambda: text | said),
    "a function that streams": Case(lambda: text | RunnableLambda(worded)),
    "a function that gives a chain": Case(lambda: RunnableLambda(answering) | StrOutputParser()),
    "a generator": Case(lambda: prompt | model | RunnableGenerator(shouted)),
    "a generator that stops early": Case(lambda: text | RunnableGenerator(choosy) | StrOutputParser()),
    "chunks that do not add up": Case(lambda: RunnableLambda(numbers) | RunnablePassthrough(), "x"),
    "a configured field": Case(
        lambda: prompt.configurable_fields(messages=ConfigurableField(id="asked")) | model | StrOutputParser(),
        config={"configurable": {"asked": prompt.messages}},
    ),
    "a configured alternative": Case(
        lambda: prompt | model.configurable_alternatives(ConfigurableField(id="voice"), json=JSON) | StrOutputParser(),
        config={"configurable": {"voice": "json"}},
    ),
    "fallbacks": Case(lambda: (prompt | Sayer(fails=True, says=())).with_fallbacks([text])),
    "fallbacks of fallbacks": Case(
        lambda: text.with_config(run_name="inner").with_fallbacks([model]).with_fallbacks([model])
    ),
    "fallbacks inside": Case(lambda: prompt | Sayer(fails=True, says=()).with_fallbacks([model]) | StrOutputParser()),
    "a retry": Case(lambda: prompt | model.with_retry(stop_after_attempt=2) | StrOutputParser()),
    "history": Case(with_history, rebuilt=False, ordered=False),
    "a graph": Case(tool_agent, {"messages": [("human", "What is 2 * 3? Use multiply.")]}, rebuilt=False),
    "an agent in a sequence": Case(lambda: RunnableLambda(asking) | tool_agent() | last_text),
    "a prompt that fails": Case(lambda: text, {"wrong": "key"}),
    "a generator that fails": Case(lambda: text | RunnableGenerator(breaking), abandons=True),
    "a model that fails": Case(lambda: prompt | AsyncSayer(fails=True) | StrOutputParser()),
    "a parser that fails": Case(lambda: RunnableLambda(numbers) | StrOutputParser(), "x", abandons=True),
    "a last step that fails": Case(lambda: text | StrOutputParser() | RunnableLambda(lambda _: 1 / 0)),
}
