"""LangServe's endpoints of one chain, as `add_routes` makes them: event streams become runs, failures typed answers.

An exception that left the application would make uvicorn close the keep-alive connection, and the caller's next
request on that connection would fail.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from fastapi import APIRouter, HTTPException, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from langserve import add_routes
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from streamserve.api.access import idempotency_key, last_event_id, principal_of, runs_base
from streamserve.api.answers import answer
from streamserve.api.polling import blocks_answer
from streamserve.api.records import output_answer
from streamserve.api.renderings import form_of
from streamserve.api.response import StreamResponse, resume, run_headers
from streamserve.api.services import Services, services_of
from streamserve.api.threads.routes import add_thread_routes
from streamserve.api.waiting import parse_wait, wait_for_end
from streamserve.call import Call
from streamserve.doors.langserve.calls import batch, invoke
from streamserve.doors.langserve.playground import is_playground, playground_answer, playground_of
from streamserve.doors.langserve.render import frames
from streamserve.doors.langserve.request import REQUIRED, config_of, filters_of, items_at_once, read_body
from streamserve.errors import (
    Cancelled,
    Internal,
    InvalidInput,
    ServeError,
    ShuttingDown,
    ThreadBusy,
    Unauthenticated,
    UnknownThread,
)
from streamserve.errors.failures import explain, record
from streamserve.http import direct
from streamserve.http.body import ChainRequest, parse
from streamserve.private_names.fastapi import handler_without_dependencies
from streamserve.runs import thread_lock
from streamserve.runs.chain_tasks import is_cancellation
from streamserve.runs.run import Events
from streamserve.runs.runs import OnDisconnect, Runs
from streamserve.serving.calls import as_run, while_connected
from streamserve.serving.config_keys import require_plausible
from streamserve.serving.inputs import input_of
from streamserve.serving.prepare import admit, begin_call, prepare
from streamserve.serving.recovery import HEADER, Recovery
from streamserve.serving.request_body import locate
from streamserve.serving.served import ServedRunnable
from streamserve.serving.start import ON_DISCONNECT, Order, read_on_disconnect, start
from streamserve.stores import StoreDown
from streamserve.wire.serializer import Serializer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """The parts that all routes of one chain share.

    Args:
        served: the chain.
        recovery: decides which runs are recovered.
        serializer: gives the chain's values their JSON.
    """

    served: ServedRunnable
    recovery: Recovery
    serializer: Serializer


def chain_router(served: ServedRunnable, recovery: Recovery, dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """Return all routes of one chain, under `/{name}`.

    Args:
        served: the chain.
        recovery: decides which runs are recovered.
        dependencies: the guard of every route.
    """
    door = Door(served, recovery, Serializer())
    router = APIRouter(route_class=type("RunRoute", (RunRoute,), {"door": door}), dependencies=list(dependencies))
    playground, config_keys = playground_of(served), served.served.chain.config_keys
    add_routes(
        router,
        served,
        path=served.served.path,
        playground_type=playground or "default",
        config_keys=("configurable",) if config_keys is None else config_keys,
        disabled_endpoints=cast(Any, sorted(served.served.chain.not_served)),
        serializer=door.serializer,
    )
    _add_background_runs(router)
    add_thread_routes(router, served.served.name, served.graph)
    return router


def _add_background_runs(router: APIRouter) -> None:
    """Add `/runs` beside each `/stream`, with the same body."""
    streams = [route for route in router.routes if isinstance(route, RunRoute) and route.endpoint_name == "stream"]
    for route in streams:
        documented = route.include_in_schema
        router.add_api_route(
            f"{route.path.removesuffix('stream')}runs",
            route.endpoint,
            methods=["POST"],
            status_code=202,
            tags=route.tags,
            include_in_schema=documented,
            name=route.name.replace("stream", "runs"),
            description="Runs in the background with the same body as /stream." if documented else None,
        )


class RunRoute(APIRoute):
    """One route of one chain."""

    door: ClassVar[Door]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fixed = self.path.partition("{")[0]
        if self.endpoint_name in REQUIRED and direct.admission(self.dependencies):
            self.app = direct.application(self.get_route_handler())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As upstream, without a regular expression for a path that cannot match."""
        return super().matches(scope) if self._fixed in scope["path"] else (Match.NONE, {})

    @property
    def is_frequent(self) -> bool:
        """True if the route starts runs and its path has no parameter."""
        return self.endpoint_name in REQUIRED and self._fixed == self.path and not self.include_in_schema

    @property
    def endpoint_name(self) -> str:
        """The last part of the path: invoke, stream, ..."""
        return self.path.rpartition("/")[2]

    def get_route_handler(self) -> direct.Handler:
        """Return LangServe's handler with ours around it; FastAPI's hook."""
        guard, handler = self._guard(), handler_without_dependencies(self)
        served = self.door.served

        async def handle(request: Request) -> Response:
            services = services_of(request)
            request = ChainRequest(request.scope, request.receive, services.settings)
            call = begin_call(served)
            try:
                await guard(request)
                await admit(request, call, served, self.path, starts_run=self.endpoint_name in REQUIRED)
                return await self._answer(request, call, services, handler)
            except (StoreDown, Unauthenticated):
                raise  # the application's handlers answer
            except ClientDisconnect:
                return answer(Cancelled("The caller left"))
            except BaseException as error:
                if is_cancellation(error) or (isinstance(error, HTTPException) and call.phase == "input"):
                    raise
                return answer(await self._explain(request, call, error), call.run_id)
            finally:
                if call.slot:
                    call.slot.release()

        return handle

    def _guard(self) -> Callable[[Request], Coroutine[Any, Any, object]]:
        plain = direct.admission(self.dependencies)
        return plain or APIRoute(self.path, _admitted, dependencies=self.dependencies).get_route_handler()

    async def _answer(self, request: ChainRequest, call: Call, services: Services, handler: direct.Handler) -> Response:
        config_hash = str(request.path_params.get("config_hash", ""))
        require_plausible(config_hash, services.settings.max_config_hash)
        if request.method != "POST" or self.endpoint_name not in REQUIRED:
            self.door.served.config_keys.read_hash(config_hash)
            return await (playground_answer(request, handler) if is_playground(self.path) else handler(request))
        await self._prepare(request, call, config_hash, services.settings.max_batch)
        if self.endpoint_name in ("invoke", "batch"):
            return await self._call(request, call, services, config_hash)
        return await self._stream(request, call, services.runs, await self._events(request, call, config_hash))

    async def _prepare(self, request: ChainRequest, call: Call, config_hash: str, max_batch: int) -> None:
        served = self.door.served
        parsed = await request.json()
        body, call.events = await request.aside(read_body, parsed, self.endpoint_name, max_batch)
        said = request.headers.get(HEADER)
        await prepare(request, call, served, self.door.recovery, self.endpoint_name, body, config_hash, said)

    async def _call(self, request: ChainRequest, call: Call, services: Services, config_hash: str) -> Response:
        served, runs = self.door.served, services.runs
        call.lock = thread_lock.of_call(runs, call, self.endpoint_name, served.served.chain.multitask_strategy)
        read = invoke if self.endpoint_name == "invoke" else batch
        reading = partial(read, request, served, call, served.config_keys.read_hash(config_hash))
        if "Idempotency-Key" in request.headers:
            work = await reading()
            return await self._keyed_call(request, call, runs, as_run(runs, call, work, self._places(call, services)))
        with runs.observer.calling(call, self.endpoint_name):
            work = await reading()
            body = await while_connected(request, runs, work, self._places(call, services))
        return Response(body, media_type="application/json", headers={"Run-Id": call.run_id})

    def _places(self, call: Call, services: Services) -> int:
        if self.endpoint_name == "invoke":
            return 1
        chain, busy = self.door.served.served.chain, services.runs.busy
        return services.limits.spread(call, chain, items_at_once(call), busy)

    async def _keyed_call(self, request: ChainRequest, call: Call, runs: Runs, events: Events) -> Response:
        wait = parse_wait(request)
        order = await self._order(request, call, runs)
        record, _ = await start(runs, self.door.served, call, order, call.body.get("input"), events)
        return await output_answer(runs, await wait_for_end(request, runs, record, wait), request)

    async def _events(self, request: ChainRequest, call: Call, config_hash: str) -> Events:
        served = self.door.served
        endpoint = "stream" if self.endpoint_name == "runs" else self.endpoint_name
        agent = request.headers.get("user-agent")
        try:
            config = config_of(served, call, served.config_keys.read_hash(config_hash), endpoint, agent)
            given = await request.aside(input_of, served, call.body["input"], config)
            filters = {} if endpoint == "stream" else filters_of(endpoint, call.body)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        serializer = self.door.serializer
        # The chunks of a graph have the form of its modes, which clients know.
        dumps = serializer.dumps_chunk if endpoint == "stream" and served.graph is None else serializer.dumps
        return frames(served, endpoint, given, config, filters, dumps)

    async def _stream(self, request: ChainRequest, call: Call, runs: Runs, events: Events) -> Response:
        order, form = await self._order(request, call, runs), form_of(request)
        wait = parse_wait(request) if order.key else None
        record, new = await start(runs, self.door.served, call, order, call.body["input"], events)
        base = runs_base(request, record.run_id)
        if self.endpoint_name == "runs":
            body = {"run_id": record.run_id, "status": record.status}
            return JSONResponse(body, 202, headers=run_headers(record.run_id, base))
        if wait is not None:
            return await blocks_answer(request, runs, record, last_event_id(request) or 0, wait)
        if new:
            return StreamResponse(runs, record.run_id, 0, base, form=form)
        return resume(runs, record, last_event_id(request) or 0, base, form)

    async def _order(self, request: ChainRequest, call: Call, runs: Runs) -> Order:
        key = idempotency_key(request, self.path)
        on_disconnect = self._on_disconnect(request, runs)
        return Order(
            endpoint=self.endpoint_name,
            principal=principal_of(request),
            on_disconnect=on_disconnect,
            key=key,
            fingerprint=await request.fingerprint() if key else "",
            request=await self._packed(request, call, on_disconnect),
        )

    async def _packed(self, request: ChainRequest, call: Call, on_disconnect: OnDisconnect) -> bytes | None:
        if not call.recover:
            return None
        body, said = parse(await request.body()), request.headers.get(HEADER)
        return self.door.recovery.pack(self.door.served, body, call, on_disconnect, said)

    def _on_disconnect(self, request: Request, runs: Runs) -> OnDisconnect:
        default: OnDisconnect = "continue" if self.endpoint_name == "runs" else "cancel"
        declared = self.door.served.served.chain.on_disconnect or runs.settings.on_disconnect
        return read_on_disconnect(request.headers.get(ON_DISCONNECT), declared or default)

    async def _explain(self, request: ChainRequest, call: Call, error: BaseException) -> ServeError:
        if call.phase == "input":
            return await self._explain_input(request, error)
        shown = explain(error, call)
        quiet = isinstance(error, Cancelled | ShuttingDown | ThreadBusy | UnknownThread)
        if not quiet and not isinstance(shown, InvalidInput):
            record(shown, error, call.run_id, call.chain)
        return shown

    async def _explain_input(self, request: ChainRequest, error: BaseException) -> ServeError:
        if isinstance(error, ServeError):
            return error
        place = None
        if request.method == "POST" and isinstance(error, Exception):
            place = await request.aside(locate, await request.json(), *self.door.served.request_schemas)
        if place is not None:
            return place
        if isinstance(error, RequestValidationError):
            raise error
        logger.error("%s failed before its chain ran", self.path, exc_info=error)
        return Internal()


async def _admitted() -> Response:
    return Response()
