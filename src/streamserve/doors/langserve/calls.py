"""The answers of /invoke and /batch: what the chain returns, encoded as in a stream."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi.exceptions import RequestValidationError
from langchain_core.runnables import RunnableConfig
from pydantic import ValidationError

from streamserve.call import Call
from streamserve.doors.langserve.callback_events import line_of, watch
from streamserve.doors.langserve.feedback import tokens_of
from streamserve.doors.langserve.request import config_of, configs_of
from streamserve.errors.failures import explain, record
from streamserve.http.body import ChainRequest
from streamserve.serving.calls import Work
from streamserve.serving.inputs import input_of
from streamserve.serving.outputs import check_output
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import to_line
from streamserve.wire.types import types_of


async def invoke(request: ChainRequest, served: ServedRunnable, call: Call, in_path: Mapping[str, Any]) -> Work:
    """Read the input and config of /invoke, and return the work that makes its answer.

    Args:
        request: the request.
        served: the chain.
        call: prepared.
        in_path: the config in the path, or empty.

    Raises:
        RequestValidationError: the input or a configurable field does not fit.
    """
    try:
        config = config_of(served, call, in_path, "invoke", request.headers.get("user-agent"))
        given = await request.aside(input_of, served, call.body["input"], config)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return partial(_invoke, request, served, call, given, config)


async def _invoke(
    request: ChainRequest, served: ServedRunnable, call: Call, given: Any, config: RunnableConfig
) -> bytes:
    collectors = watch(served, [config])
    output = await served.ainvoke(given, config)
    callbacks = b"".join(line_of(one, call) for one in collectors)
    named = await _named(served, call.run_id)
    return await request.aside(_encoded, served, call, output, callbacks, named)


def _encoded(served: ServedRunnable, call: Call, output: Any, callbacks: bytes, named: dict[str, Any]) -> bytes:
    return _answer(check_output(served, call, output), output, callbacks, metadata=named)


async def batch(request: ChainRequest, served: ServedRunnable, call: Call, in_path: Mapping[str, Any]) -> Work:
    """Read the inputs and configs of /batch, and return the work that makes its answer.

    With `return_exceptions`, `errors` holds null or an error for each output. Arguments and errors are those of
    `invoke`.
    """
    try:
        configs = await request.aside(configs_of, served, call, in_path, request.headers.get("user-agent"))
        given = await request.aside(_inputs_of, served, call, configs)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return partial(_batch, request, served, call, given, configs)


def _inputs_of(served: ServedRunnable, call: Call, configs: Sequence[RunnableConfig]) -> list[Any]:
    return [input_of(served, value, config) for value, config in zip(call.body["inputs"], configs, strict=True)]


async def _batch(
    request: ChainRequest, served: ServedRunnable, call: Call, given: list[Any], configs: list[RunnableConfig]
) -> bytes:
    collectors = watch(served, configs)
    results = await served.abatch(given, configs)
    callbacks = b"[%s]" % b",".join(line_of(one, call) for one in collectors) if collectors else b""
    named = [await _named(served, str(config["run_id"])) for config in configs]
    return await request.aside(_all_encoded, served, call, results, named, callbacks)


def _all_encoded(
    served: ServedRunnable, call: Call, results: Sequence[Any], named: list[dict[str, Any]], callbacks: bytes
) -> bytes:
    metadata = {"run_ids": [each["run_id"] for each in named], "responses": named}
    if not call.kwargs.get("return_exceptions"):
        lines = [check_output(served, call, result) for result in results]
        return _answer(b"[%s]" % b",".join(lines), results, callbacks, metadata=metadata)
    items = [_item(served, call, result) for result in results]
    outputs = [None if error else result for result, (_, error) in zip(results, items, strict=True)]
    line = b"[%s]" % b",".join(line for line, _ in items)
    return _answer(line, outputs, callbacks, errors=[error for _, error in items], metadata=metadata)


async def _named(served: ServedRunnable, run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "feedback_tokens": await tokens_of(served.served.chain, run_id)}


def _item(served: ServedRunnable, call: Call, result: Any) -> tuple[bytes, dict[str, Any] | None]:
    try:
        if isinstance(result, BaseException):
            raise result
        return check_output(served, call, result), None
    except Exception as error:
        shown = explain(error, call)
        record(shown, error, call.run_id, call.chain)
        return b"null", shown.body(call.run_id)


def _answer(line: bytes, output: Any, callbacks: bytes, **fields: Any) -> bytes:
    if types := types_of(output):
        fields["types"] = types
    beside = b'"callback_events":%s,' % callbacks if callbacks else b""
    return b'{"output":%s,%s%s' % (line, beside, to_line(fields)[1:])
