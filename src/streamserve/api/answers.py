"""Answers that are JSON: errors, and outputs for which LangServe's answer has no place."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response
from fastapi.responses import JSONResponse

from streamserve.call import Call
from streamserve.errors import ServeError
from streamserve.errors.failures import explain, record
from streamserve.wire.serializer import to_line
from streamserve.wire.types import types_of


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """The JSON answer for an error."""
    headers = {**error.answer_headers, "Run-Id": run_id} if run_id else error.answer_headers
    return JSONResponse(error.body(run_id), status_code=error.status, headers=headers)


def invoke_answer(output: Any, call: Call) -> Response:
    """The answer of /invoke with an output that is not of the chain's declared type."""
    metadata = b'{"run_id":"%s","feedback_tokens":[]}' % call.run_id.encode()
    body = b'{"output":%s,"metadata":%s}' % (to_line(output), metadata)
    return with_types(Response(body, media_type="application/json"), types_of(output))


def batch_answer(results: list[Any], call: Call) -> Response:
    """The answer to a batch whose items may fail one by one: `errors` holds null or an error for each output."""
    failures = [explain(item, call) if isinstance(item, BaseException) else None for item in results]
    outputs = [None if failure else item for item, failure in zip(results, failures, strict=True)]
    for item, failure in zip(results, failures, strict=True):
        if failure is not None:
            record(failure, item, call.run_id, call.chain)
    errors = [failure and failure.body(call.run_id) for failure in failures]
    body = b'{"output":%s,"errors":%s,"metadata":{"run_ids":[],"responses":[]}}'
    answered = Response(body % (to_line(outputs), orjson.dumps(errors)), media_type="application/json")
    return with_types(answered, types_of(outputs))


def with_types(response: Response, types: dict[str, str]) -> Response:
    """LangServe's answer with the types of its output, if its JSON does not tell them."""
    if types and response.status_code == 200:
        response.body = b'%s,"types":%s}' % (bytes(response.body)[:-1], to_line(types))
        response.headers["content-length"] = str(len(response.body))
    return response
