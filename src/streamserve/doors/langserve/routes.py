"""LangServe's endpoints of one chain, as `add_routes` makes them: event streams become runs, failures typed answers.

An exception that left the application would make uvicorn close the keep-alive connection, and the caller's next
request on that connection would fail.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

from fastapi import APIRouter, HTTPException, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from langserve import add_routes
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from streamserve.api.access import idempotency_key, last_event_id, principal_of, runs_base
from streamserve.api.answers import answer, answer_of, places_of
from streamserve.api.checks import Checks
from streamserve.api.polling import blocks_answer
from streamserve.api.records import output_answer
from streamserve.api.renderings import form_of
from streamserve.api.response import StreamResponse, resume, run_headers
from streamserve.api.route import Ready, ServedRoute
from streamserve.api.services import Services, services_of
from streamserve.api.threads.routes import add_thread_routes
from streamserve.api.waiting import parse_wait, wait_for_end
from streamserve.call import Call, current_call
from streamserve.doors.langserve.calls import batch, invoke
from streamserve.doors.langserve.feedback import ENDPOINTS, feedback_answer, options_of
from streamserve.doors.langserve.playground import is_playground, playground_answer, playground_of
from streamserve.doors.langserve.render import frames
from streamserve.doors.langserve.request import REQUIRED, config_of, filters_of, items_at_once, read_body
from streamserve.errors import (
    Cancelled,
    ChainAnswer,
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


@dataclass(eq=False, kw_only=True)
class Door:
    """The parts that all routes of one chain share.

    Args:
        served: the chain.
        prefix: the prefix of the router that has the routes.
        dependencies: the dependencies of every route, beside those of the router. Default: none.
        late: the guard of the application, which a router does not know before it is included. Default: none.
        recovery: decides which runs are recovered; None until the application is known.
    """

    served: ServedRunnable
    prefix: str = ""
    dependencies: Sequence[params.Depends] = ()
    late: Checks = field(default_factory=Checks)
    recovery: Recovery | None = None
    serializer: Serializer = field(default_factory=Serializer)

    @property
    def path(self) -> str:
        """The path of the chain on its router."""
        return self.served.served.path.removeprefix(self.prefix)


def add_chain_routes(router: APIRouter, door: Door, ready: Ready) -> None:
    """Add all routes of one chain to a router.

    Args:
        ready: starts what an application needs.
    """
    served, first = door.served, len(router.routes)
    playground, config_keys = playground_of(served), served.served.chain.config_keys
    before = router.route_class
    # LangServe adds each route to the router itself, so that the router's own settings hold.
    router.route_class = type("RunRoute", (RunRoute,), {"door": door, "ready": ready})
    try:
        add_routes(
            router,
            served,
            path=door.path,
            playground_type=playground or "default",
            config_keys=("configurable",) if config_keys is None else config_keys,
            disabled_endpoints=cast(Any, sorted(served.served.chain.not_served)),
            dependencies=list(door.dependencies),
            serializer=door.serializer,
            **options_of(served.served.chain),
        )
        _add_background_runs(router, router.routes[first:], door)
        add_thread_routes(router, door.path, served.served.name, served.graph, door.dependencies)
    finally:
        router.route_class = before


def _add_background_runs(router: APIRouter, routes: Sequence[BaseRoute], door: Door) -> None:
    """Add `/runs` beside each `/stream`, with the same body."""
    streams = [route for route in routes if isinstance(route, RunRoute) and route.endpoint_name == "stream"]
    for route in streams:
        documented = route.include_in_schema
        router.add_api_route(
            f"{route.path.removeprefix(door.prefix).removesuffix('stream')}runs",
            route.endpoint,
            methods=["POST"],
            status_code=202,
            dependencies=list(door.dependencies),
            tags=route.tags[len(router.tags) :],
            include_in_schema=documented,
            name=route.name.replace("stream", "runs"),
            description="Runs in the background with the same body as /stream." if documented else None,
        )


class RunRoute(ServedRoute):
    """One route of one chain.

    Args:
        endpoint: LangServe's endpoint, or one of ours; a caller is admitted before it is called.
    """

    door: ClassVar[Door]
    _is_made = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.upstream, self._is_run = endpoint, _is_run(path, **options)
        super().__init__(path, self._run if self._is_run else self._admitting(endpoint), **options)
        self._is_made = True
        self._fixed = self.path.partition("{")[0]
        self._tail = self.path_format.removeprefix(self.door.prefix)
        if self._is_run and direct.admission(self.dependencies):
            self.app = direct.application(self._handler(inclusion=False), self.app)

    @property
    def _key_place(self) -> str:
        # Not the path: two routers may have the same paths.
        entry = self.door.served.served
        return f"/{entry.name}{self.path.removeprefix(entry.path)}"

    def place_of(self, path: str, params: dict[str, Any]) -> str:
        """Return the part of a path that stands before the path on the router."""
        tail = self._tail.format_map(params) if "{" in self._tail else self._tail
        return path[: len(path) - len(tail)] if self._is_run else ""

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
        """Return a handler that solves the dependencies, then admits the caller; FastAPI's hook."""
        # It is called again for an inclusion, whose dependencies only FastAPI knows.
        return self._handler(inclusion=self._is_made)

    def _handler(self, *, inclusion: bool) -> direct.Handler:
        whole, plain = APIRoute.get_route_handler(self), None
        if self._is_run and not inclusion:
            plain = direct.admission(self.dependencies)

        async def solve(request: Request) -> Response:
            if plain is None or direct.is_overridden(request.app):
                return await whole(request)
            await plain(request)
            return await self._run(request)

        async def handle(request: Request) -> Response:
            request = ChainRequest(request.scope, request.receive, services_of(request).settings)
            call = begin_call(self.door.served)
            try:
                return await solve(request)
            except (StoreDown, Unauthenticated) as error:
                return answer_of(request, error)
            except ClientDisconnect:
                return answer(Cancelled("The caller left"))
            except BaseException as error:
                # An error of the team's own dependency is left to the team's application.
                if is_cancellation(error) or (call.principal is None and not isinstance(error, ServeError)):
                    raise
                return answer(await self._explain(request, call, error), call.run_id)
            finally:
                if call.slot:
                    call.slot.release()

        return handle

    async def _admit(self, request: Request) -> str:
        """Admit a caller whose dependencies are solved, and return the config in the path."""
        await self.door.late(request)
        call, services = current_call.get(), services_of(request)
        assert call is not None
        await admit(request, call, self.door.served, self._key_place, starts_run=self._is_run)
        config_hash = str(request.path_params.get("config_hash", ""))
        require_plausible(config_hash, services.settings.max_config_hash)
        return config_hash

    def _admitting(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Return an endpoint with the same arguments that first admits its caller."""
        signature = inspect.signature(endpoint, eval_str=True)
        # A config of the server's is no argument of a request.
        taken = {name: each for name, each in signature.parameters.items() if name != "server_config"}
        named = next((name for name, each in taken.items() if _is_request(each.annotation)), None)
        own = inspect.Parameter(named or "request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)

        @functools.wraps(endpoint)
        async def admitting(**given: Any) -> Any:
            request = given[own.name] if named else given.pop(own.name)
            self.door.served.config_keys.read_hash(await self._admit(request))
            if is_playground(self.path):
                return await playground_answer(endpoint, given)
            if self.endpoint_name in ENDPOINTS:
                return await feedback_answer(endpoint, given, services_of(request).runs, principal_of(request))
            return await endpoint(**given)

        parameters = [each.replace(kind=own.kind) for each in {**taken, own.name: own}.values()]
        admitting.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return admitting

    async def _run(self, request: Request) -> Response:
        """Start a run, or call the chain; the endpoint of these routes."""
        call, services = current_call.get(), services_of(request)
        assert call is not None
        assert isinstance(request, ChainRequest)
        config_hash = await self._admit(request)
        await self._prepare(request, call, config_hash, services.settings.max_batch)
        if self.endpoint_name in ("invoke", "batch"):
            return await self._call(request, call, services, config_hash)
        return await self._stream(request, call, services.runs, await self._events(request, call, config_hash))

    async def _prepare(self, request: ChainRequest, call: Call, config_hash: str, max_batch: int) -> None:
        served = self.door.served
        parsed = await request.json()
        body, call.events = await request.aside(read_body, parsed, self.endpoint_name, max_batch)
        said = request.headers.get(HEADER)
        assert self.door.recovery is not None
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
        key = idempotency_key(request, self._key_place)
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
        if not call.recover or self.door.recovery is None:
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
            return places_of(error)
        if isinstance(error, HTTPException):
            return ChainAnswer(error.status_code, error.detail, error.headers)
        logger.error("%s failed before its chain ran", self.path, exc_info=error)
        return Internal()


def _is_request(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Request)


def _is_run(path: str, *, include_in_schema: bool = True, **_options: Any) -> bool:
    # LangServe has a second route for each, which only documents the body.
    return path.rpartition("/")[2] in REQUIRED and not include_in_schema
