"""The route class given to LangServe's router: its event streams become runs, its failures typed answers.

An exception that left the application would make uvicorn close the keep-alive connection, and the caller's next
request on it would fail.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast

import orjson
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sse_starlette import EventSourceResponse

from streamserve.body import ChainRequest, check_shape, locate, read_kwargs
from streamserve.call import Call, current_call
from streamserve.errors import BadRequest, Cancelled, Internal, InvalidOutput, ServeError, ShuttingDown, classify
from streamserve.serializer import to_line
from streamserve.served import BatchResults, ServedRunnable
from streamserve.stores import RunRecord, StoreDown
from streamserve.streaming.access import principal_of, runs_base, runs_of
from streamserve.streaming.response import StreamResponse, resume, run_headers
from streamserve.streaming.run import Events
from streamserve.streaming.runs import OnDisconnect, Runs
from streamserve.streaming.threads import CallsInThreads, current_calls
from streamserve.wire_types import types_of

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# The field that the body of each endpoint must have.
REQUIRED = {
    "invoke": "input",
    "batch": "inputs",
    "stream": "input",
    "stream_log": "input",
    "stream_events": "input",
    "runs": "input",
}

# An Idempotency-Key is a UUID or the like; more than this is not a key.
MAX_KEY_LENGTH = 255


class RunRoute(APIRoute):
    """One route of one chain."""

    served: ClassVar[ServedRunnable]

    @classmethod
    def of(cls, served: ServedRunnable) -> type[RunRoute]:
        """The route class for the router of a chain."""
        return type("RunRoute", (cls,), {"served": served})

    def get_route_handler(self) -> Handler:
        """FastAPI's hook: LangServe's handler with ours around it."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request = ChainRequest(request.scope, request.receive)
            call = Call()
            # Not reset: the context is the request's own, and the run's task copies it.
            current_call.set(call)
            try:
                return await self._answer(request, call, handler)
            except (HTTPException, StoreDown):
                raise  # the application's handlers answer
            except Exception as error:
                return answer(await self._explain(request, call, error), call.run_id)

        return handle

    @property
    def endpoint_name(self) -> str:
        """The last part of the path: invoke, stream, ..."""
        return self.path.rpartition("/")[2]

    async def _answer(self, request: ChainRequest, call: Call, handler: Handler) -> Response:
        if request.method != "POST" or self.endpoint_name not in REQUIRED:
            return await handler(request)
        body = check_shape(await request.json(), REQUIRED[self.endpoint_name])
        call.kwargs = read_kwargs(body, self.served.served.chain, self._allowed_kwargs())
        runs = runs_of(request)
        if self.endpoint_name in ("invoke", "batch"):
            return await self._call(request, call, runs, handler)
        response = await handler(request)
        assert isinstance(response, EventSourceResponse)
        return await self._stream(request, call, runs, cast(Events, response.body_iterator))

    async def _call(self, request: ChainRequest, call: Call, runs: Runs, handler: Handler) -> Response:
        try:
            response = with_types(await _while_connected(request, runs, handler), call.types)
        except BatchResults as batch:
            response = batch_answer(batch.results, call, self.served.served.name)
        response.headers["Run-Id"] = call.run_id
        return response

    def _allowed_kwargs(self) -> frozenset[str]:
        graph = {"stream_mode"} if self.served.graph is not None else set()
        return frozenset(graph | ({"return_exceptions"} if self.endpoint_name == "batch" else set()))

    async def _stream(self, request: ChainRequest, call: Call, runs: Runs, events: Events) -> Response:
        key = idempotency_key(request, self.path)
        chain = self.served.served.chain
        record, new = await runs.start(
            RunRecord(
                run_id=call.run_id,
                chain=self.served.served.name,
                endpoint=self.endpoint_name,
                principal=principal_of(request),
                created_at=time.time(),
                key=key,
                fingerprint=await _fingerprint(request) if key else "",
            ),
            events,
            call,
            timeout=chain.timeout,
            on_disconnect=self._on_disconnect(request, runs),
        )
        base = runs_base(request, record.run_id)
        if self.endpoint_name == "runs":
            body = {"run_id": record.run_id, "status": record.status}
            return JSONResponse(body, 202, headers=run_headers(record.run_id, base))
        if new:
            return StreamResponse(runs, record.run_id, 0, base)
        return resume(runs, record, last_event_id(request) or 0, base)

    def _on_disconnect(self, request: Request, runs: Runs) -> OnDisconnect:
        said = request.headers.get("Run-On-Disconnect")
        if said is not None and said not in ("continue", "cancel"):
            raise BadRequest("Run-On-Disconnect: continue or cancel")
        default: OnDisconnect = "continue" if self.endpoint_name == "runs" else "cancel"
        declared = self.served.served.chain.on_disconnect or runs.settings.on_disconnect
        return cast(OnDisconnect, said or declared or default)

    async def _explain(self, request: Request, call: Call, error: Exception) -> ServeError:
        if call.phase == "input":
            return await self._explain_input(request, error)
        shown = classify(error)
        if call.phase == "output" and isinstance(error, ValidationError):
            shown = InvalidOutput()
        if not isinstance(error, Cancelled | ShuttingDown):
            extra = {"run_id": call.run_id, "chain": self.served.served.name}
            logger.error("run failed: %s", shown.code, extra=extra, exc_info=error)
        return shown

    async def _explain_input(self, request: Request, error: Exception) -> ServeError:
        if isinstance(error, ServeError):
            return error
        place = None
        if request.method == "POST":
            config = self.served.config_schema(include=["configurable"])
            place = locate(await request.json(), self.served.input_schema, cast(Any, config))
        if place is not None:
            return place
        if isinstance(error, RequestValidationError):
            raise error
        logger.error("%s failed before its chain ran", self.path, exc_info=error)
        return Internal()


def answer(error: ServeError, run_id: str | None = None) -> JSONResponse:
    """The JSON answer for an error."""
    headers = {**error.headers, "Run-Id": run_id} if run_id else error.headers
    return JSONResponse(error.body(run_id), status_code=error.status, headers=headers)


def batch_answer(results: list[Any], call: Call, chain: str) -> Response:
    """The answer to a batch whose items may fail one by one: `errors` holds null or an error for each output."""
    failures = [classify(item) if isinstance(item, BaseException) else None for item in results]
    outputs = [None if failure else item for item, failure in zip(results, failures, strict=True)]
    extra = {"run_id": call.run_id, "chain": chain}
    for item in results:
        if isinstance(item, BaseException):
            logger.error("run failed: %s", classify(item).code, extra=extra, exc_info=item)
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


def idempotency_key(request: Request, path: str) -> str | None:
    """What names a run for its caller: principal, path and key together.

    Raises:
        BadRequest: the key is empty or too long.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} characters")
    return "\n".join((principal_of(request), path, str(request.path_params.get("config_hash", "")), key))


def last_event_id(request: Request) -> int | None:
    """The cursor of a reader that was here before.

    Raises:
        BadRequest: it is no number.
    """
    said = request.headers.get("Last-Event-ID")
    return None if said is None or said == "" else parse_cursor(said, "Last-Event-ID")


def parse_cursor(text: str, place: str) -> int:
    """A cursor as a number.

    Raises:
        BadRequest: it is no number, naming the place.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequest(f"{place}: a block's number, not {text[:40]!r}")
    return int(text)


async def _fingerprint(request: ChainRequest) -> str:
    canonical = orjson.dumps(await request.json(), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()


async def _while_connected(request: Request, runs: Runs, handler: Handler) -> Response:
    """Runs a handler until it is done, the caller leaves, or the server shuts down."""
    if runs.draining:
        raise ShuttingDown()
    calls = CallsInThreads()
    current_calls.set(calls)
    task = asyncio.create_task(handler(request))
    leaving = asyncio.create_task(_left(request))
    with runs.calling(cast("asyncio.Task[object]", task)):
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=runs.settings.cancel_grace)
        finally:
            leaving.cancel()
            task.cancel()
            calls.stop()
    if not task.done() or task.cancelled():
        raise ShuttingDown() if runs.draining else Cancelled("The caller left")
    return task.result()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
