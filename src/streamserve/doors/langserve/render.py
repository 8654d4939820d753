"""Frames of the event streams, and answers of /invoke and /batch for which LangServe's own answer has no place."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import Response
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.log_stream import RunLogPatch

from streamserve.call import Call
from streamserve.errors.failures import explain, record
from streamserve.lcel.traced_stream import close
from streamserve.runs.run import Events
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import to_line
from streamserve.wire.types import types_of

Dumps = Callable[[Any], bytes]


async def frames(
    served: ServedRunnable, endpoint: str, given: Any, config: RunnableConfig, filters: Mapping[str, Any], dumps: Dumps
) -> Events:
    """Yield the events of a stream as LangServe does, without its `metadata` and `error`, which runs have already.

    Args:
        served: the chain.
        endpoint: "stream", "stream_log" or "stream_events".
        given: the input.
        config: the config of the run.
        filters: the filters of logs and events.
        dumps: the serializer.
    """
    source: Any
    form: Callable[[Any], Any] | None = None
    if endpoint == "stream":
        source = served.astream(given, config)
    elif endpoint == "stream_log":
        source, form = served.astream_log(given, config, diff=True, **filters), _operations
    else:
        source, form = served.astream_events(given, config, **filters), _without_internal_keys
    try:
        async for value in source:
            yield {"event": "data", "data": dumps(form(value) if form else value).decode()}
        yield {"event": "end"}
    finally:
        await close(source)


def _operations(patch: RunLogPatch) -> dict[str, Any]:
    return {"ops": patch.ops}


def _without_internal_keys(event: dict[str, Any]) -> dict[str, Any]:
    event["metadata"] = {name: value for name, value in event["metadata"].items() if not name.startswith("__")}
    return event


def invoke_answer(output: Any, call: Call) -> Response:
    """Return the answer of /invoke with an output in another form than the chain's declared type.

    Args:
        output: what the chain returned.
        call: the request's call.
    """
    metadata = b'{"run_id":"%s","feedback_tokens":[]}' % call.run_id.encode()
    body = b'{"output":%s,"metadata":%s}' % (to_line(output), metadata)
    return add_types(Response(body, media_type="application/json"), types_of(output))


def batch_answer(results: list[Any], call: Call) -> Response:
    """Return the answer to a batch whose items may fail one by one: `errors` holds null or an error for each output.

    Args:
        results: outputs and exceptions, in the order of the inputs.
        call: the request's call.
    """
    failures = [explain(item, call) if isinstance(item, BaseException) else None for item in results]
    outputs = [None if failure else item for item, failure in zip(results, failures, strict=True)]
    for item, failure in zip(results, failures, strict=True):
        if failure is not None:
            record(failure, item, call.run_id, call.chain)
    errors = [failure and failure.body(call.run_id) for failure in failures]
    body = b'{"output":%s,"errors":%s,"metadata":{"run_ids":[],"responses":[]}}'
    answered = Response(body % (to_line(outputs), orjson.dumps(errors)), media_type="application/json")
    return add_types(answered, types_of(outputs))


def add_types(response: Response, types: dict[str, str]) -> Response:
    """Return LangServe's answer with the types of its output beside the JSON, if the JSON does not tell them.

    Args:
        response: the answer, which is changed.
        types: the types of the output's values, by JSON pointer.
    """
    if types and response.status_code == 200:
        response.body = b'%s,"types":%s}' % (bytes(response.body)[:-1], to_line(types))
        response.headers["content-length"] = str(len(response.body))
    return response
