"""The route class given to LangServe's router: its event streams become runs, its failures typed answers.

An exception that left the application would make uvicorn close the keep-alive connection, and the caller's next
request on it would fail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, ClassVar, cast

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from streamserve.api.access import idempotency_key, last_event_id, principal_of, runs_base, runs_of
from streamserve.api.answers import answer, batch_answer, invoke_answer, with_types
from streamserve.api.response import StreamResponse, resume, run_headers
from streamserve.call import Call, current_call
from streamserve.catalog.chain import MultitaskStrategy
from streamserve.doors.langserve import event_version
from streamserve.doors.langserve.plain_stream import PlainStream
from streamserve.doors.langserve.playground import is_playground, playground_answer
from streamserve.errors import (
    BadRequest,
    Cancelled,
    Internal,
    InvalidInput,
    InvalidOutput,
    ServeError,
    ShuttingDown,
    ThreadBusy,
    Unauthenticated,
    UnknownThread,
)
from streamserve.errors.failures import explain, record
from streamserve.graphs import arguments
from streamserve.graphs.thread_heads import require_begun
from streamserve.graphs.thread_keys import thread_key
from streamserve.http import direct
from streamserve.http.body import LARGE, ChainRequest, aside, parse
from streamserve.http.direct import Handler
from streamserve.runs import turns
from streamserve.runs.run import Events
from streamserve.runs.runs import OnDisconnect, Runs
from streamserve.serving.calls import while_connected
from streamserve.serving.config_keys import require_plausible
from streamserve.serving.output_forms import BatchResults, OtherOutput
from streamserve.serving.recovery import HEADER, Recovery
from streamserve.serving.request_body import check_shape, locate, read_kwargs
from streamserve.serving.served import ServedRunnable
from streamserve.stores import RunRecord, StoreDown
from streamserve.wire.input_types import with_types as with_input_types
from streamserve.wire.serializer import Serializer

logger = logging.getLogger(__name__)

# The field that the body of each endpoint must have.
REQUIRED = {
    "invoke": "input",
    "batch": "inputs",
    "stream": "input",
    "stream_log": "input",
    "stream_events": "input",
    "runs": "input",
}


class RunRoute(APIRoute):
    """One route of one chain."""

    served: ClassVar[ServedRunnable]
    plain: ClassVar[PlainStream]

    @classmethod
    def of(cls, served: ServedRunnable, serializer: Serializer) -> type[RunRoute]:
        """The route class for the router of a chain."""
        return type("RunRoute", (cls,), {"served": served, "plain": PlainStream(served, serializer)})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fixed = self.path.partition("{")[0]
        if direct.admission(self.dependencies) and self._direct_handler():
            self.app = direct.application(self.get_route_handler())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As upstream. Each chain has dozens of routes, which a request looks at one by one: most are not its own."""
        return super().matches(scope) if self._fixed in scope["path"] else (Match.NONE, {})

    def get_route_handler(self) -> Handler:
        """FastAPI's hook: LangServe's handler with ours around it."""
        admit, handler = self._admission(), self._direct_handler() or self._langserves_handler()

        async def handle(request: Request) -> Response:
            request = ChainRequest(request.scope, request.receive)
            entry = self.served.served
            call = Call(chain=entry.name, expose_errors=entry.chain.expose_errors)
            # Not reset: the context is the request's own, and the run's task copies it.
            current_call.set(call)
            try:
                await admit(request)  # before anything of the body is read
                return await self._answer(request, call, handler)
            except (HTTPException, StoreDown, Unauthenticated):
                raise  # the application's handlers answer
            except ClientDisconnect:
                return answer(Cancelled("The caller left"))
            except Exception as error:
                return answer(await self._explain(request, call, error), call.run_id)
            finally:
                if call.slot:
                    call.slot.release()

        return handle

    def _admission(self) -> Callable[[Request], Coroutine[Any, Any, object]]:
        plain = direct.admission(self.dependencies)
        return plain or APIRoute(self.path, _admitted, dependencies=self.dependencies).get_route_handler()

    def _direct_handler(self) -> Handler | None:
        return direct.handler(self.endpoint) if self.endpoint_name in REQUIRED else None

    def _langserves_handler(self) -> Handler:
        # FastAPI puts a route's dependencies first; LangServe's handler is called without them.
        whole = self.dependant
        self.dependant = replace(whole, dependencies=whole.dependencies[len(self.dependencies) :])
        handler = super().get_route_handler()
        self.dependant = whole
        return handler

    @property
    def endpoint_name(self) -> str:
        """The last part of the path: invoke, stream, ..."""
        return self.path.rpartition("/")[2]

    @property
    def is_frequent(self) -> bool:
        """Whether runs are started by it, and nothing about them is said in its path."""
        return self.endpoint_name in REQUIRED and self._fixed == self.path and not self.include_in_schema

    async def _answer(self, request: ChainRequest, call: Call, handler: Handler) -> Response:
        config_hash = str(request.path_params.get("config_hash", ""))
        settings = runs_of(request).settings
        require_plausible(config_hash, settings.max_config_hash)
        if request.method != "POST" or self.endpoint_name not in REQUIRED:
            self.served.config_keys.read_hash(config_hash)
            return await (playground_answer(request, handler) if is_playground(self.path) else handler(request))
        await self._prepare(request, call, config_hash)
        runs = runs_of(request)
        if self.endpoint_name in ("invoke", "batch"):
            call.turn = turns.of_call(runs, call, self.endpoint_name, self._strategy)
            with runs.observer.calling(call, self.endpoint_name):
                return await self._call(request, call, runs, handler)
        return await self._stream(request, call.body, call, runs, await self._events(request, call, handler))

    async def _events(self, request: ChainRequest, call: Call, handler: Handler) -> Events:
        if self.endpoint_name in ("stream", "runs") and (events := self.plain.events(request, call)):
            return events
        response = await handler(request)
        assert isinstance(response, EventSourceResponse)
        return cast(Events, response.body_iterator)

    async def _prepare(self, request: ChainRequest, call: Call, config_hash: str) -> None:
        runs = runs_of(request)
        body = check_shape(await request.json(), REQUIRED[self.endpoint_name], runs.settings.max_batch)
        with_input_types(body, REQUIRED[self.endpoint_name])
        if self.endpoint_name == "stream_events":
            call.events, body = event_version.taken(body)
        call.body = body
        call.kwargs = self._read_kwargs(body)
        call.configs = self.served.config_keys.read(body, config_hash)
        self._prepare_to_recover(request, call)
        raw = await request.body()
        if len(raw) >= LARGE and (error := await aside(raw, locate, body, *self._schemas)):
            raise error  # LangServe would look for the places on the event loop

    @property
    def _schemas(self) -> tuple[Any, Any]:
        return self.served.input_schema, self.served.config_schema(include=["configurable"])

    async def _call(self, request: ChainRequest, call: Call, runs: Runs, handler: Handler) -> Response:
        try:
            response = with_types(await while_connected(request, runs, handler), call.types)
        except BatchResults as batch:
            response = batch_answer(batch.results, call)
        except OtherOutput as other:
            response = invoke_answer(other.output, call)
        response.headers["Run-Id"] = call.run_id
        return response

    def _read_kwargs(self, body: dict[str, Any]) -> dict[str, Any]:
        own = frozenset({"return_exceptions"} if self.endpoint_name == "batch" else ())
        graph = self.served.graph
        if graph is None:
            return read_kwargs(body, own)
        of_graph = arguments.OF_EVENTS if self.endpoint_name == "stream_events" else arguments.NAMES
        return arguments.read_arguments(read_kwargs(body, own | of_graph), self.served.served.chain, graph)

    def _prepare_to_recover(self, request: Request, call: Call) -> None:
        said = request.headers.get(HEADER)
        call.recover = _recovery_of(request).wanted(self.served, self.endpoint_name, said, call.kwargs)
        if call.recover:  # a step's checkpoint is stored before the next begins
            call.kwargs["durability"] = "sync"

    async def _request(self, request: ChainRequest, call: Call, on_disconnect: OnDisconnect) -> bytes | None:
        if not call.recover:
            return None
        body = parse(await request.body())
        return _recovery_of(request).pack(self.served, body, call, on_disconnect, request.headers.get(HEADER))

    @property
    def _strategy(self) -> MultitaskStrategy:
        return self.served.served.chain.multitask_strategy

    async def _on_thread(self, call: Call, runs: Runs, record: RunRecord, given: Any) -> None:
        graph = self.served.graph
        if graph is None:
            return
        thread_id = (call.configs[0].get("configurable") or {}).get("thread_id") or None
        if thread_id is not None:
            record.thread = thread_key(record.chain, record.principal, thread_id)
            call.turn = turns.of_run(runs.store, record, self._strategy)
        # A run ahead may begin the thread.
        if not await runs.store.ahead(record):
            await require_begun(graph, thread_id, given)

    async def _stream(
        self, request: ChainRequest, body: dict[str, Any], call: Call, runs: Runs, events: Events
    ) -> Response:
        key = idempotency_key(request, self.path)
        chain = self.served.served.chain
        on_disconnect = self._on_disconnect(request, runs)
        asked = RunRecord(
            run_id=call.run_id,
            chain=self.served.served.name,
            endpoint=self.endpoint_name,
            principal=principal_of(request),
            created_at=time.time(),
            key=key,
            fingerprint=await request.fingerprint() if key else "",
            request=await self._request(request, call, on_disconnect),
        )
        await self._on_thread(call, runs, asked, body["input"])
        record, new = await runs.start(
            asked,
            events,
            call,
            timeout=chain.timeout,
            on_disconnect=on_disconnect,
            alone=self._strategy == "reject",
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
        shown = explain(error, call)
        if call.phase == "output" and isinstance(error, ValidationError):
            shown = InvalidOutput()
        quiet = isinstance(error, Cancelled | ShuttingDown | ThreadBusy | UnknownThread)
        if not quiet and not isinstance(shown, InvalidInput):
            record(shown, error, call.run_id, call.chain)
        return shown

    async def _explain_input(self, request: Request, error: Exception) -> ServeError:
        if isinstance(error, ServeError):
            return error
        place = None
        if request.method == "POST":
            place = locate(await request.json(), *self._schemas)
        if place is not None:
            return place
        if isinstance(error, RequestValidationError):
            raise error
        logger.error("%s failed before its chain ran", self.path, exc_info=error)
        return Internal()


def _recovery_of(request: Request) -> Recovery:
    return cast(Recovery, request.app.state.recovery)


async def _admitted() -> Response:
    return Response()
