"""The runs' own endpoints: status, stream, output, cancel, delete."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request, Response, params
from starlette.routing import Match
from starlette.types import Scope

from streamserve.api.access import last_event_id, parse_cursor, principal_of, runs_base
from streamserve.api.openapi import EVENT_STREAM
from streamserve.api.polling import blocks_answer
from streamserve.api.records import output_answer, state_answer
from streamserve.api.renderings import form_of
from streamserve.api.response import resume
from streamserve.api.route import Ready, ServedRoute
from streamserve.api.services import services_of
from streamserve.api.waiting import MAX_WAIT, wait_for_end, while_connected
from streamserve.auth import Auth, shares
from streamserve.stores import RunRecord

Wait = Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait.")]
After = Annotated[str, Query(description="Sequence number of your last block, or `now`.")]
Answers = dict[int | str, dict[str, Any]]
ERRORS: Answers = {
    404: {"description": "The run does not exist, or belongs to another principal"},
    410: {"description": "The run is past its retention"},
}
STREAM: Answers = {
    200: EVENT_STREAM,
    204: {"description": "The cursor is at the end"},
    400: {"description": "The cursor is not a number"},
    429: {"description": "Too many readers"},
    **ERRORS,
}
BLOCKS: Answers = {**STREAM, 200: {"description": "The blocks; perhaps none yet"}}


class SharedRoute(ServedRoute):
    """A route that matches requests with a share token; the route after it answers those without one."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As upstream, if the request has a token, which no log shows from then on."""
        match, found = super().matches(scope)
        return (match, found) if match is not Match.NONE and shares.take_token(scope) else (Match.NONE, {})


def add_run_routes(router: APIRouter, ready: Ready, dependencies: Sequence[params.Depends]) -> None:
    """Add the routes under /runs, which know the runs of a router's chains.

    Args:
        ready: starts what an application needs.
        dependencies: the guard, and the checks of a run's own chain.
    """
    _add_shared(router, type("SharedRoute", (SharedRoute,), {"ready": ready}))
    route_class = type("RunsRoute", (ServedRoute,), {"ready": ready})
    deleted: Answers = {202: {}, **ERRORS}
    for method, path, endpoint, summary, responses, code in (
        ("GET", "", status, "State of a run", ERRORS, 200),
        ("GET", "/stream", stream, "Stream a run from a cursor", STREAM, 200),
        ("GET", "/blocks", blocks, "Blocks of a run from a cursor, as JSON", BLOCKS, 200),
        ("GET", "/output", output, "Output of a run, as from /invoke", {202: {}, 409: {}, **ERRORS}, 200),
        ("POST", "/cancel", cancel, "Cancel a run", deleted, 200),
        ("DELETE", "", delete, "Cancel a run and drop it", deleted, 204),
        ("POST", "/share", share, "Make a token for a run", ERRORS, 201),
    ):
        router.add_api_route(
            f"/runs/{{run_id}}{path}",
            endpoint,
            methods=[method],
            summary=summary,
            responses=responses,
            status_code=code,
            tags=["runs"],
            dependencies=list(dependencies),
            route_class_override=route_class,
        )


def _add_shared(router: APIRouter, route_class: type[SharedRoute]) -> None:
    # Before the guarded routes, and without the router's own dependencies: the token says who calls.
    for path, endpoint, method, action in (
        ("", status, "GET", "read"),
        ("/stream", stream, "GET", "read"),
        ("/blocks", blocks, "GET", "read"),
        ("/output", output, "GET", "read"),
        ("/cancel", cancel, "POST", "cancel"),
    ):
        allowed = [Depends(shares.shared(cast(shares.Action, action), _auth_of))]
        router.routes.append(
            route_class(
                f"{router.prefix}/runs/{{run_id}}{path}",
                endpoint,
                methods=[method],
                dependencies=allowed,
                include_in_schema=False,
                response_model=None,
            )
        )


def _auth_of(request: Request) -> Auth:
    return services_of(request).auth


async def status(run_id: str, request: Request) -> Response:
    """Return the state of the run."""
    record = await _find(run_id, request)
    return await state_answer(services_of(request).runs, record, request)


async def stream(
    run_id: str,
    request: Request,
    after: After = "",
) -> Response:
    """Stream the blocks after a cursor, then the live ones.

    The cursor is `Last-Event-ID`, else `after`, else the start of the run.
    """
    record = await _find(run_id, request)
    cursor, base, runs = _cursor(request, record, after), runs_base(request, run_id), services_of(request).runs
    return resume(runs, record, cursor, base, form_of(request), joins=_joins(request))


async def blocks(run_id: str, request: Request, after: After = "", wait: Wait = 0) -> Response:
    """Return the blocks after a cursor as JSON: `id`, and `event`, `data` and `types` as texts, as in the stream.

    If there are none yet, wait for the first one. The cursor is that of the stream.
    """
    record = await _find(run_id, request)
    cursor, runs = _cursor(request, record, after), services_of(request).runs
    return await blocks_answer(request, runs, record, cursor, wait, joins=_joins(request))


def _joins(request: Request) -> bool:
    """Return whether the reader does not have the chunk at its cursor: it has read no block before."""
    return last_event_id(request) is None


def _cursor(request: Request, record: RunRecord, after: str) -> int:
    cursor = last_event_id(request)
    if cursor is not None:
        return cursor
    return record.last_id if after == "now" else parse_cursor(after or "0", "after")


async def output(run_id: str, request: Request, wait: Wait = 0) -> Response:
    """Return the whole output of a run that is done; 202 while it runs, 409 with the run's error if it failed."""
    runs = services_of(request).runs
    record = await wait_for_end(request, runs, await _find(run_id, request), wait)
    return await output_answer(runs, record, request)


async def cancel(run_id: str, request: Request, wait: Wait = 0) -> Response:
    """Cancel the run: 200 once it has ended, 202 while the chain still runs. A repeated cancel changes nothing."""
    runs = services_of(request).runs
    record = await _find(run_id, request)
    await runs.cancel(record)
    record = await while_connected(request, runs.wait(record, wait))
    return await state_answer(runs, record, request, 200 if record.ended else 202)


async def delete(run_id: str, request: Request) -> Response:
    """Cancel the run if it is live, then drop its blocks; 202 if it has not ended yet, so that nothing is dropped."""
    runs = services_of(request).runs
    record = await _find(run_id, request)
    await runs.cancel(record)
    # A caller that leaves meanwhile asked for it all the same.
    record = await runs.wait(record, runs.settings.cancel_grace + 1.0)
    if not record.ended:
        return await state_answer(runs, record, request, 202)
    await runs.store.purge(record.run_id)
    return Response(status_code=204)


async def share(run_id: str, body: shares.ShareRequest, request: Request) -> shares.Share:
    """Make a token with which others read or cancel only this run.

    The token goes into `?token=`, because EventSource sends no headers.
    """
    record = await _find(run_id, request)
    return shares.make(services_of(request).auth, record.run_id, record.principal, body, runs_base(request, run_id))


async def _find(run_id: str, request: Request) -> RunRecord:
    record = await services_of(request).runs.find(run_id, principal_of(request))
    if not shares.is_shared(request):
        services_of(request).auth.check(request, record.chain)
    return record
