"""Answers about one run from its record: its state, and its output or its error."""

import math
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from streamserve.api.access import runs_base
from streamserve.api.response import run_headers
from streamserve.errors import NoOutput, RunExpired, error_body
from streamserve.runs.output import CALLS, output_of
from streamserve.runs.runs import Runs
from streamserve.stores import RunRecord, Status


async def state_answer(runs: Runs, record: RunRecord, request: Request, answered: int = 200) -> Response:
    """Return the state of a run; `answered` is the status of the answer."""
    body: dict[str, Any] = {
        "run_id": record.run_id,
        "chain": record.chain,
        "status": await _status_of(runs, record),
        "first_id": None if record.purged else 1,
        "last_id": record.last_id,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "expires_at": record.expires_at,
        "attempt": record.attempt,
    }
    if record.error is not None:
        body["error"] = record.error
    return JSONResponse(body, answered, headers=_headers(record, request))


async def output_answer(runs: Runs, record: RunRecord, request: Request) -> Response:
    """Return the output of a run as from /invoke: 202 while it runs, 409 if it failed. A call has its error's status.

    Raises:
        RunExpired: the output is past its retention.
        NoOutput: the run has no single output.
    """
    if not record.ended:
        return await state_answer(runs, record, request, 202)
    headers = _headers(record, request)
    if record.error is not None:
        return _error_answer(record.error, headers, None if record.endpoint in CALLS else 409)
    if record.purged:
        raise RunExpired(None, record.last_id, record.status)
    if record.endpoint in CALLS and record.output is not None:
        return Response(record.output, media_type="application/json", headers=headers)
    found = await output_of(runs.store, record)
    if found is None:
        raise NoOutput()
    data, types = found
    metadata = b'{"run_id":"%s","feedback_tokens":[]}' % record.run_id.encode()
    body = b'{"output":%s,"metadata":%s%s}' % (data, metadata, b',"types":' + types if types else b"")
    return Response(body, media_type="application/json", headers=headers)


def _error_answer(error: dict[str, Any], headers: dict[str, str], failed: int | None) -> Response:
    body = error_body(error.get("detail", error["message"]), error["code"], error["retryable"], error["run_id"])
    headers = {**error.get("headers", {}), **headers}
    if later := error.get("retry_after"):
        headers = {**headers, "Retry-After": str(max(1, math.ceil(later)))}
    return JSONResponse(body, failed or error["status_code"], headers=headers)


def _headers(record: RunRecord, request: Request) -> dict[str, str]:
    return run_headers(record.run_id, runs_base(request, record.run_id))


async def _status_of(runs: Runs, record: RunRecord) -> Status:
    # A run with a first block may still wait for its thread, and a call has no blocks: the queue knows.
    if record.ended or (record.thread is None and record.endpoint not in CALLS):
        return record.status
    return "queued" if await runs.store.ahead(record) else "running"
