"""Write the bodies of requests, and read the bodies of answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables.config import DEFAULT_RECURSION_LIMIT, RunnableConfig

from streamserve_sdk.codec import encode
from streamserve_sdk.codec.input_types import types_of
from streamserve_sdk.codec.json_text import parse_answer
from streamserve_sdk.codec.serializer import Serializer, WireSerializer
from streamserve_sdk.errors import Position, ProtocolError
from streamserve_sdk.transport.failures import from_answer, public_url
from streamserve_sdk.transport.wire import Reply, Request

# Callbacks stay local, and the server chooses the run's id.
SENT_KEYS = ("tags", "metadata", "run_name", "max_concurrency", "recursion_limit", "configurable")
# The prefix of a surrounding LangGraph run's keys; its checkpoints mean nothing to another server's graph.
_GRAPH_MARK = "__pregel_"
# Tells the server that a graph wrote this config: keys that its chain does not know are not mistakes of the caller.
_NESTED = {"__pregel_nested": True}
_OWN_CHECKPOINT = frozenset({"checkpoint_id", "checkpoint_map", "checkpoint_ns"})
# Keys that a server sets; a chain in it hands them on to a client, and they may tell who calls that server.
_SERVERS_OWN = ("__", "langgraph_auth_", "streamserve_")
# LangChain's fillings. A server takes a config with all of these keys for one of a chain around its own, whose further
# keys are no mistakes; so the config of a caller who calls this chain directly is sent without them.
_FILLINGS = {"tags": [], "metadata": {}, "recursion_limit": DEFAULT_RECURSION_LIMIT}
_SCALARS = (str, int, float, bool, type(None))


def body(
    serializer: Serializer,
    name: str,
    value: Any,
    config: RunnableConfig | Sequence[RunnableConfig],
    **fields: Any,
) -> bytes:
    """Return the body of a call.

    Args:
        serializer: the serializer of the input.
        name: `input` or `inputs`.
        value: the input or inputs.
        config: the caller's config, or one for each input.
        fields: further fields of the body, `kwargs` among them.
    """
    configs = [for_server(one) for one in config] if isinstance(config, Sequence) else for_server(config)
    types = types_of(value) if isinstance(serializer, WireSerializer) else {}
    rest = {"config": configs, **fields, **({"types": types} if types else {})}
    return b'{"%s":%s,%s' % (name.encode(), serializer.dumps(value), encode.dumps(rest)[1:])


def for_server(config: RunnableConfig) -> dict[str, Any]:
    """Return the part of a config that the server understands and JSON can hold.

    Args:
        config: the caller's config.
    """
    sent = {key: _sendable(value) for key, value in config.items() if key in SENT_KEYS and value is not None}
    if not _is_nested(config):
        sent = {key: value for key, value in sent.items() if key not in _FILLINGS or value != _FILLINGS[key]}
    if configurable := sent.get("configurable"):
        sent["configurable"] = _without_graph(configurable)
    return sent


def of_caller(config: RunnableConfig, run: BaseRunManager) -> RunnableConfig:
    """Return the config of a call as its caller made it, without the callbacks of the call's own run."""
    return config if run.parent_run_id else {**config, "callbacks": None}


def _is_nested(config: RunnableConfig) -> bool:
    callbacks = config.get("callbacks")
    return isinstance(callbacks, BaseCallbackManager) and callbacks.parent_run_id is not None


def _without_graph(configurable: dict[str, Any]) -> dict[str, Any]:
    nested = any(key.startswith(_GRAPH_MARK) for key in configurable)
    kept = {
        key: value
        for key, value in configurable.items()
        if not key.startswith(_SERVERS_OWN) and not (nested and key in _OWN_CHECKPOINT)
    }
    return {**kept, **_NESTED} if nested else kept


def _sendable(value: Any) -> Any:
    """Drop the values that JSON cannot hold, such as objects that local code keeps in a config."""
    if isinstance(value, Mapping):
        return {key: _sendable(item) for key, item in value.items() if isinstance(key, str) and _fits(item)}
    if isinstance(value, list | tuple):
        return [_sendable(item) for item in value if _fits(item)]
    return value


def _fits(value: Any) -> bool:
    # Users of LangGraph often name threads with UUIDs.
    return isinstance(value, (*_SCALARS, UUID, Mapping, list, tuple))


class Answer(NamedTuple):
    """The answer of `/invoke` or `/batch`."""

    output: Any
    callback_events: Any


def answer(serializer: Serializer, request: Request, reply: Reply) -> Answer:
    """Return the output in an answer.

    Args:
        serializer: the serializer of the output.
        request: the request.
        reply: the server's reply.

    Raises:
        ServerError: the server reported an error.
        ProtocolError: the answer has no output.
    """
    fields = checked(request, reply)
    if not isinstance(fields, dict) or "output" not in fields:
        raise ProtocolError(f"{public_url(request.url)} answered without an output")
    types = fields.get("types")
    if types and isinstance(serializer, WireSerializer):
        output = serializer.loadd(fields["output"], types)
    else:
        output = serializer.loadd(fields["output"])
    return Answer(output, fields.get("callback_events"))


def checked(request: Request, reply: Reply) -> Any:
    """Return the JSON of a successful answer; arguments and errors are those of `answer`."""
    position = Position(reply.headers.get("run-id"))
    if not httpx.codes.is_success(reply.status):
        raise from_answer(request.method, request.url, reply.status, reply.headers, reply.body, position)
    try:
        return parse_answer(reply.body) if reply.body else None
    except ValueError as error:
        raise ProtocolError(f"{public_url(request.url)} did not answer with JSON", position=position) from error
