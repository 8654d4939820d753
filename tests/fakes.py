"""Small models and chains for tests."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, AnyMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, ConfigDict, Field

from streamserve import Chain
from streamserve.catalog.registry import RegisteredChain, Registry

GATE_LIMIT = 60.0  # seconds after which a closed gate fails its test


class Gate:
    """A gate that passes tokens on demand, to any OS thread or event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._waiting: deque[Future[None]] = deque()

    def open(self, tokens: int = 1) -> None:
        """Pass this number of further tokens."""
        with self._lock:
            for _ in range(tokens):
                self._let_one_through()

    def wait(self) -> None:
        """Block until a token may pass."""
        self._ticket().result(GATE_LIMIT)

    async def await_(self) -> None:
        """Wait until a token may pass."""
        async with asyncio.timeout(GATE_LIMIT):
            await asyncio.wrap_future(self._ticket())

    def _let_one_through(self) -> None:
        while self._waiting:
            ticket = self._waiting.popleft()
            if ticket.set_running_or_notify_cancel():
                ticket.set_result(None)
                return
        self._open += 1

    def _ticket(self) -> Future[None]:
        with self._lock:
            ticket: Future[None] = Future()
            if self._open:
                self._open -= 1
                ticket.set_result(None)
            else:
                self._waiting.append(ticket)
            return ticket


class GatedModel(BaseChatModel):
    """A chat model with fixed tokens, each when the gate opens."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    tokens: Sequence[str]
    gate: Gate = Field(default_factory=Gate)

    @property
    def _llm_type(self) -> str:
        return "gated"

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for token in self.tokens:
            self.gate.wait()
            yield _chunk(token)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for token in self.tokens:
            await self.gate.await_()
            yield _chunk(token)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))


class Topic(BaseModel):
    topic: str


class Conversation(BaseModel):
    messages: list[AnyMessage]


def greeting() -> Runnable[Any, Any]:
    """Return a chain with a prompt that is configurable as `template`: {"topic": "cats"} -> "About cats."."""
    prompt = PromptTemplate.from_template("About {topic}.").configurable_fields(
        template=ConfigurableField(id="template", name="Template")
    )
    return prompt | RunnableLambda(lambda value: value.to_string(), name="text")


def echo(inputs: Any) -> str:
    """Return the last message's text, or the topic."""
    messages = inputs.get("messages")
    return messages[-1].text if messages else inputs.get("topic", "")


def echo_graph() -> Runnable[Any, Any]:
    """Return a graph that keeps messages and answers with the last one's text."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessageChunk(content=echo(state))]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def registered(name: str, chain: Chain) -> RegisteredChain:
    """Return a chain as if it had been found in a file."""
    return RegisteredChain(name, f"chains.{name}", f"chains/{name}.py", chain, chain.build(), chain.description)


def registry_of(chains: Mapping[str, Chain]) -> Registry:
    """Return a registry of chains without files."""
    return Registry({name: registered(name, chain) for name, chain in sorted(chains.items())})


def _chunk(token: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=token))
