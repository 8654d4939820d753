"""Health checks: /healthz answers while the process lives, /readyz while it takes new runs."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from streamserve.api.services import services_of
from streamserve.errors import ShuttingDown, StoreUnavailable
from streamserve.fast_paths import noted
from streamserve.graphs.checkpoints import CheckpointsDown
from streamserve.stores import StoreDown

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    """Answer while the event loop runs."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="The server can take work",
    responses={503: {"description": "The server shuts down, or its store is unreachable"}},
)
async def readyz(
    request: Request,
    verbose: Annotated[str | None, Query(description="With any value or none: the fast paths as well")] = None,
) -> dict[str, Any]:
    """Answer from the moment the chains are mounted until the server shuts down.

    With `?verbose`, `fast_paths` says which fast paths are "on" and which are "off".

    Raises:
        ShuttingDown: The server takes no new runs.
        StoreUnavailable: The store of the runs or of the checkpoints is unreachable; the detail names it.
    """
    services = services_of(request)
    if services.runs.draining:
        raise ShuttingDown()
    try:
        await services.runs.store.check()
        await services.checkpoints.check()
    except StoreDown as error:
        raise StoreUnavailable(str(error) if isinstance(error, CheckpointsDown) else None) from error
    if verbose is None:
        return {"status": "ready"}
    return {"status": "ready", "fast_paths": {path.name: "on" if path.is_on else "off" for path in noted()}}
