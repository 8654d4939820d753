"""The workload of all servers: a model that says a given number of tokens, and the chains around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

WORDS = ("The ", "quick ", "brown ", "fox ", "jumps ", "over ", "the ", "lazy ", "dog. ")
HOT, YIELDING, HELD = "hot", "yielding", "held"


class Order(NamedTuple):
    """A request for tokens, written as `400 yielding`.

    Args:
        count: number of tokens.
        pace: `hot`: the model never yields to the loop; `yielding`: it yields after each token; `held`: it yields,
            and stays silent without an end; a number: tokens a second.
    """

    count: int
    pace: str

    @classmethod
    def read(cls, text: str) -> Order:
        """Return the order of a prompt."""
        count, pace = text.split()
        return cls(int(count), pace)

    def __str__(self) -> str:
        return f"{self.count} {self.pace}"


async def tokens(order: Order) -> AsyncIterator[str]:
    """Yield the tokens of an order, at its pace."""
    words = islice(cycle(WORDS), order.count)
    if order.pace == HOT:
        for word in words:
            yield word
    elif order.pace in (YIELDING, HELD):
        for word in words:
            await asyncio.sleep(0)
            yield word
    else:
        async for word in _paced(words, float(order.pace)):
            yield word
    if order.pace == HELD:
        await asyncio.get_running_loop().create_future()


async def _paced(words: Any, rate: float) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for word in words:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield word


class _Teller(BaseChatModel):
    """A chat model of next to no cost, so that a stream's cost is that of the chain and the server."""

    @property
    def _llm_type(self) -> str:
        return "tokens"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        text = "".join(islice(cycle(WORDS), Order.read(messages[-1].text).count))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class TokenModel(_Teller):
    """A model that streams in the event loop."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for token in tokens(Order.read(messages[-1].text)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=self._said(token)))

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(*args, **kwargs)  # as a provider's client: no OS thread

    def _said(self, token: str) -> str:
        return token


class SyncModel(_Teller):
    """A model whose own stream is synchronous only, as most models in process are; LangChain runs it in OS threads."""

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> Iterator[ChatGenerationChunk]:
        for token in islice(cycle(WORDS), Order.read(messages[-1].text).count):
            yield ChatGenerationChunk(message=AIMessageChunk(content=token))


class Question(BaseModel):
    """Input of the chains."""

    order: str


class Conversation(BaseModel):
    """Input of the graph."""

    messages: list[AnyMessage]


def messages_chain(model: BaseChatModel | None = None) -> Runnable[Any, Any]:
    """Return a prompt and a model."""
    return ChatPromptTemplate.from_template("{order}") | (model or TokenModel())


def text_chain(model: BaseChatModel | None = None) -> Runnable[Any, Any]:
    """Return a prompt, a model and a parser."""
    return messages_chain(model) | StrOutputParser()


def graph() -> Any:
    """Return a graph of one node that calls the model."""
    model = TokenModel()

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def body_of(chain: str, order: Order) -> dict[str, Any]:
    """Return the body of a request."""
    messages = {"messages": [{"type": "human", "content": str(order)}]}
    if chain == "graph":
        return {"input": messages}
    if chain == "runs":
        return {"assistant_id": "graph", "input": messages, "stream_mode": ["messages-tuple"]}
    return {"input": {"order": str(order)}}


def order_in(body: Any) -> Order:
    """Return the order in the body of a request."""
    asked = body["input"]
    return Order.read(asked["messages"][-1]["content"] if "messages" in asked else asked["order"])
