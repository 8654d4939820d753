"""One router per chain: LangServe's routes, unpatched, behind our route class."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from fastapi import APIRouter, Depends, Request, params
from langserve import add_routes

from streamserve.api.access import principal_of
from streamserve.api.threads.routes import add_thread_routes
from streamserve.auth.guard import auth_of
from streamserve.call import current_call
from streamserve.doors.langserve.playground import playground_of
from streamserve.doors.langserve.route import REQUIRED, RunRoute
from streamserve.graphs.progress import marked
from streamserve.serving.limits import Limits
from streamserve.serving.served import ServedRunnable
from streamserve.wire.serializer import Serializer


def chain_router(served: ServedRunnable, dependencies: Sequence[params.Depends] = ()) -> APIRouter:
    """All routes of one chain under `/{name}`.

    Args:
        served: the runnable with its record.
        dependencies: what every route must pass first.
    """
    # Last, so that the guard has said who asks.
    dependencies = [
        *dependencies,
        Depends(_knows(served.served.name)),
        Depends(_admission(served)),
    ]
    serializer = Serializer()
    router = APIRouter(route_class=RunRoute.of(served, serializer), dependencies=dependencies)
    playground = playground_of(served)
    add_routes(
        router,
        served,
        path=served.served.path,
        playground_type=playground or "default",
        disabled_endpoints=cast(Any, ["token_feedback", *([] if playground else ["playground"])]),
        per_req_config_modifier=_with_run_id,
        serializer=serializer,
    )
    _add_background_runs(router)
    add_thread_routes(router, served.served.name, served.graph)
    return router


def _knows(chain: str) -> Callable[[Request], Awaitable[None]]:
    async def know_caller(request: Request) -> None:
        auth_of(request).check(request, chain)
        if call := current_call.get():
            call.principal = principal_of(request)

    return know_caller


def _admission(served: ServedRunnable) -> Callable[[Request], Awaitable[None]]:
    async def admit(request: Request) -> None:
        if request.method != "POST":
            return
        limits: Limits = request.app.state.limits
        entry = served.served
        starts_run = request.scope["path"].rpartition("/")[2] in REQUIRED
        await limits.admit(request, entry.name, entry.chain, starts_run=starts_run)

    return admit


def _with_run_id(config: dict[str, Any], request: Request) -> dict[str, Any]:
    # One id for the run, LangServe's metadata and the trace; the runs of a batch have one each.
    call = current_call.get()
    if call is None or request.scope["path"].endswith("/batch"):
        return config
    # What a further attempt at the run begins with.
    asked = call.configs[0] if call.configs else {}
    named = {**config, **{key: value for key, value in asked.items() if key != "configurable"}, "run_id": call.run_id}
    call.config = marked(named, call.run_id) if call.recover else named
    return call.config


def _add_background_runs(router: APIRouter) -> None:
    """`/runs` beside each `/stream`: the same body and handler; the route class answers 202."""
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
