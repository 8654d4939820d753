"""The chains that people write: those of the table in docs/performance.md, each around a model of next to no cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnablePassthrough

from benchmarks.workload import SyncModel, TokenModel, messages_chain, text_chain


class ItemModel(TokenModel):
    """A model that writes a JSON object with a list, one item per token."""

    def _said(self, token: str) -> str:
        return f', "{token}"'

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        begun = False
        async for chunk in super()._astream(*args, **kwargs):
            if not begun:
                begun, chunk.message.content = True, '{"items": [' + chunk.message.text.removeprefix(", ")
            yield chunk


class Counter(BaseCallbackHandler):
    """A handler of the kind that most people write: not inline."""

    tokens = 0

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        """Count a token."""
        self.tokens += 1


class AsyncCounter(AsyncCallbackHandler):
    """The same, asynchronous."""

    tokens = 0

    async def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        """Count a token."""
        self.tokens += 1


async def upper(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield each text in capitals."""
    async for text in texts:
        yield text.upper()


def table_chains() -> dict[str, Runnable[Any, Any]]:
    """Return the chains of the table beside the text, the messages and the OpenAI chain."""
    retrieval = ChatPromptTemplate.from_messages([("system", "Answer by: {context}"), ("user", "{order}")])
    choice = TokenModel().configurable_alternatives(ConfigurableField("model"), default_key="one", two=TokenModel())
    fallbacks: Any = TokenModel().with_fallbacks([TokenModel()])
    return {
        "rag": RunnablePassthrough.assign(context=itemgetter("order")) | retrieval | TokenModel() | StrOutputParser(),
        "generator": text_chain() | upper,
        "configurable": text_chain(choice),
        "fallbacks": text_chain(fallbacks),
        "sync": text_chain(SyncModel()),
        "handler": text_chain().with_config(callbacks=[Counter()]),
        "async_handler": text_chain().with_config(callbacks=[AsyncCounter()]),
        "json": messages_chain(ItemModel()) | JsonOutputParser(),
    }
