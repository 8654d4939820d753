"""Write the requests about threads, and read their answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from langchain_core.runnables.config import RunnableConfig

from streamserve_sdk.codec import encode, payload
from streamserve_sdk.codec.input_types import types_of
from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.errors import ProtocolError, RequestRejected
from streamserve_sdk.graphs import snapshots
from streamserve_sdk.graphs.snapshots import StateSnapshot
from streamserve_sdk.transport.links import endpoint
from streamserve_sdk.transport.wire import JSON_HEADERS, Reply, Request

# The most states in one answer: each is a whole conversation.
PAGE = 20
_CHECKPOINT_KEYS = ("checkpoint_ns", "checkpoint_id", "checkpoint_map")
_UNKNOWN = ("unknown_thread", "unknown_checkpoint")


def state(url: str, config: RunnableConfig, subgraphs: bool) -> Request:
    """Return the request for a state.

    Args:
        url: the graph's URL.
        config: a config with the thread's id, and optionally a checkpoint's.
        subgraphs: whether the answer includes the states of subgraphs.

    Raises:
        ValueError: the config has no thread's id.
    """
    place = {key: value for key, value in _checkpoint(config).items() if key != "checkpoint_map" and value}
    query = urlencode({**place, **({"subgraphs": "true"} if subgraphs else {})})
    return Request("GET", _url(url, config, "/state") + (f"?{query}" if query else ""), JSON_HEADERS)


def update(url: str, serializer: Serializer, config: RunnableConfig, supersteps: Sequence[Sequence[Any]]) -> Request:
    """Return the request for updates.

    Args:
        url: the graph's URL.
        serializer: the serializer of the values.
        config: a config with the thread's id, and optionally a checkpoint's.
        supersteps: lists of updates `(values, as_node, task_id)`.

    Raises:
        ValueError: the config has no thread's id.
    """
    steps = [{"updates": [_update(serializer, *one) for one in step]} for step in supersteps]
    single = len(steps) == 1 and len(steps[0]["updates"]) == 1
    asked = steps[0]["updates"][0] if single else {"supersteps": steps}
    body = encode.dumps({**asked, "checkpoint": _checkpoint(config)})
    return Request("POST", _url(url, config, "/state"), JSON_HEADERS, body)


def delete(url: str, thread_id: str) -> Request:
    """Return the request that deletes a thread."""
    return Request("DELETE", _url(url, {"configurable": {"thread_id": thread_id}}, ""), JSON_HEADERS)


def read_state(serializer: Serializer, config: RunnableConfig, request: Request, reply: Reply) -> StateSnapshot:
    """Return the state in an answer; as in langgraph, the state of an unknown thread or checkpoint is empty.

    Args:
        serializer: the serializer of the values.
        config: the caller's config.
        request: the request.
        reply: the server's reply.

    Raises:
        StreamServeError: the call failed.
    """
    found = _known(request, reply)
    return snapshots.empty(config) if found is None else snapshots.snapshot(serializer, found)


def read_update(request: Request, reply: Reply) -> RunnableConfig:
    """Return the config of the checkpoint that an update made; arguments and errors are those of `read_state`."""
    answer = payload.checked(request, reply)
    config = snapshots.config_of(answer.get("checkpoint") if isinstance(answer, dict) else None)
    if config is None:
        raise ProtocolError("an update was answered without a checkpoint")
    return config


@dataclass(slots=True)
class History:
    """The past states of a thread, page by page.

    Args:
        url: the graph's URL.
        serializer: the serializer of the values.
        config: a config with the thread's id, and optionally a checkpoint's.
        filter: the keys and values that the states' metadata must have.
        before: a config with a checkpoint's id; older states follow.
        limit: the greatest number of states; None for all.
    """

    url: str
    serializer: Serializer
    config: RunnableConfig
    filter: dict[str, Any] | None
    before: RunnableConfig | None
    limit: int | None
    _done: bool = field(default=False, init=False)

    def request(self) -> Request | None:
        """Return the request for the next page, or None after the last one."""
        if self._done or self._page < 1:
            return None
        asked = {
            "limit": self._page,
            "metadata": self.filter,
            "before": _checkpoint(self.before) if self.before else None,
            "checkpoint": _checkpoint(self.config),
        }
        body = encode.dumps({key: value for key, value in asked.items() if value})
        return Request("POST", _url(self.url, self.config, "/history"), JSON_HEADERS, body)

    def take(self, request: Request, reply: Reply) -> Iterator[StateSnapshot]:
        """Yield the states of a page; arguments and errors are those of `read_state`."""
        found = _known(request, reply)
        states = [] if found is None else found
        if not isinstance(states, list):
            raise ProtocolError("the history is not a list")
        self._done = len(states) < self._page
        if self.limit is not None:
            self.limit -= len(states)
        for fields in states:
            state = snapshots.snapshot(self.serializer, fields)
            self.before = state.config
            yield state

    @property
    def _page(self) -> int:
        return PAGE if self.limit is None else min(PAGE, self.limit)


def _known(request: Request, reply: Reply) -> Any:
    try:
        return payload.checked(request, reply)
    except RequestRejected as error:
        if error.code in _UNKNOWN:
            return None
        raise


def _url(url: str, config: RunnableConfig, suffix: str) -> str:
    thread_id = config.get("configurable", {}).get("thread_id")
    if thread_id is None or thread_id == "":
        raise ValueError("the config has no thread's id: configurable.thread_id is missing")
    name = quote(str(thread_id), safe="")
    if name in (".", ".."):
        name = name.replace(".", "%2E")  # else it would be a step in the path
    return endpoint(url, f"threads/{name}{suffix}")


def _checkpoint(config: RunnableConfig) -> dict[str, Any]:
    configurable = config.get("configurable", {})
    return {key: configurable[key] for key in _CHECKPOINT_KEYS if configurable.get(key) is not None}


def _update(
    serializer: Serializer, values: Any, as_node: str | None = None, task_id: str | None = None
) -> dict[str, Any]:
    types = types_of(values) if isinstance(serializer, WireSerializer) else {}
    sent = {"values": orjson.Fragment(serializer.dumps(values)), "as_node": as_node, "task_id": task_id}
    return {**sent, "types": types} if types else sent
