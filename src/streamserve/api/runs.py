"""The runs' own endpoints: status, stream, output, cancel, delete."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request, Response

from streamserve.api.access import last_event_id, parse_cursor, principal_of, runs_base
from streamserve.api.openapi import EVENT_STREAM
from streamserve.api.polling import blocks_answer
from streamserve.api.records import output_answer, state_answer
from streamserve.api.renderings import form_of
from streamserve.api.response import resume
from streamserve.api.services import services_of
from streamserve.api.waiting import MAX_WAIT, wait_for_end, while_connected
from streamserve.auth import Auth, shares
from streamserve.stores import RunRecord

Wait = Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds to wait.")]
After = Annotated[str, Query(description="Sequence number of your last block, or `now`.")]
ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"description": "The run does not exist, or belongs to another principal"},
    410: {"description": "The run is past its retention"},
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: EVENT_STREAM,
    204: {"description": "The cursor is at the end"},
    400: {"description": "The cursor is not a number"},
    429: {"description": "Too many readers"},
    **ERRORS,
}
BLOCKS: dict[int | str, dict[str, Any]] = {**STREAM, 200: {"description": "The blocks; perhaps none yet"}}


def router(auth: Auth) -> APIRouter:
    """Return the routes under /runs."""
    routes = APIRouter(prefix="/runs", tags=["runs"], dependencies=list(auth.dependencies))
    _add_shared(routes, auth)
    routes.get("/{run_id}", summary="State of a run", responses=ERRORS)(status)
    routes.get("/{run_id}/stream", summary="Stream a run from a cursor", responses=STREAM)(stream)
    routes.get("/{run_id}/blocks", summary="Blocks of a run from a cursor, as JSON", responses=BLOCKS)(blocks)
    routes.get("/{run_id}/output", summary="Output of a run, as from /invoke", responses={202: {}, 409: {}, **ERRORS})(
        output
    )
    routes.post("/{run_id}/cancel", summary="Cancel a run", responses={202: {}, **ERRORS})(cancel)
    routes.delete("/{run_id}", summary="Cancel a run and drop it", status_code=204, responses={202: {}, **ERRORS})(
        delete
    )
    routes.post("/{run_id}/share", summary="Make a token for a run", status_code=201, responses=ERRORS)(share)
    return routes


def _add_shared(routes: APIRouter, auth: Auth) -> None:
    # Before the guarded routes: these match requests with a share token only.
    for path, endpoint, method, action in (
        ("", status, "GET", "read"),
        ("/stream", stream, "GET", "read"),
        ("/blocks", blocks, "GET", "read"),
        ("/output", output, "GET", "read"),
        ("/cancel", cancel, "POST", "cancel"),
    ):
        allowed = [Depends(shares.shared(cast(shares.Action, action), auth))]
        routes.routes.append(
            shares.SharedRoute(
                f"/runs/{{run_id}}{path}",
                endpoint,
                methods=[method],
                dependencies=allowed,
                include_in_schema=False,
                response_model=None,
            )
        )


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
