"""A stream whose request has no config of its own: with the input and the config that LangServe would make of it.

LangServe's handler takes a good part of what a request takes up to its first token: it reads the body again, merges
configs of which all but one are empty, and makes a response of which only the iterator is used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

from fastapi import Request
from langchain_core.runnables import RunnableConfig
from langserve.api_handler import _unpack_input, _update_config_with_defaults

from streamserve.call import Call
from streamserve.lcel.traced_stream import closed
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import Serializer


class PlainStream:
    """What LangServe's `/stream` of one chain gives for an input.

    Args:
        served: the chain.
        serializer: the one given to LangServe.
    """

    def __init__(self, served: ServedRunnable, serializer: Serializer) -> None:
        self._served = served
        self._dumps = serializer.dumps
        self._schema = None if served.bound.config_specs else served.input_schema
        self._marks: dict[str, Any] | None = None

    def events(self, request: Request, call: Call) -> AsyncGenerator[dict[str, Any]] | None:
        """The events of a request, not started.

        Returns:
            None: it is LangServe's, as it has a config, or the chain a schema that one may change.

        Raises:
            ValidationError: the input does not fit.
        """
        if self._schema is None or call.recover or call.body.get("config") or request.path_params:
            return None
        given = _unpack_input(self._schema.model_validate(call.body["input"]))
        stream = self._served.astream(given, self._config(request, call.run_id))
        return self._data(stream)

    def _config(self, request: Request, run_id: str) -> RunnableConfig:
        name = self._served.served.path
        if self._marks is None:  # those of where it is hosted, too
            self._marks = dict(_update_config_with_defaults(name, {}, request, endpoint="stream")["metadata"])
        metadata = {**self._marks, "__useragent": request.headers.get("user-agent")}
        config = {"tags": [], "metadata": metadata, "callbacks": [], "configurable": {}, "run_name": name}
        return cast(RunnableConfig, {**config, "run_id": run_id})

    async def _data(self, stream: AsyncIterator[Any]) -> AsyncGenerator[dict[str, Any]]:
        dumps = self._dumps
        try:
            async for chunk in stream:
                yield {"event": "data", "data": dumps(chunk).decode()}
            yield {"event": "end"}
        finally:
            await closed(stream)
