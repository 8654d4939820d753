"""The callbacks of a stream, without the handler that LangServe adds to it and does not read."""

from __future__ import annotations

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langserve.callbacks import AsyncEventAggregatorCallback


def without_aggregator(config: RunnableConfig | None) -> RunnableConfig | None:
    """Return a config without LangServe's event aggregator, which would keep an event for each token of a stream.

    /invoke and /batch keep the aggregator, because their answers have its events.

    Args:
        config: the config of a stream; it stays as it is.
    """
    callbacks = (config or {}).get("callbacks")
    if config is None or not callbacks:
        return config
    if isinstance(callbacks, list):
        return {**config, "callbacks": [handler for handler in callbacks if not _aggregates(handler)]}
    return {**config, "callbacks": _reduced(callbacks)}


def _reduced(callbacks: BaseCallbackManager) -> BaseCallbackManager:
    reduced = callbacks.copy()
    for handler in filter(_aggregates, callbacks.handlers):
        reduced.remove_handler(handler)
    return reduced


def _aggregates(handler: BaseCallbackHandler) -> bool:
    return type(handler) is AsyncEventAggregatorCallback
