"""/healthz: the process lives. /readyz: it can take work."""

from __future__ import annotations

from fastapi import APIRouter, Request

from streamserve.api.services import services_of
from streamserve.errors import ShuttingDown, StoreUnavailable
from streamserve.graphs.checkpoints import CheckpointsDown
from streamserve.stores import StoreDown

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    """Always answers while the event loop runs."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="The server can take work",
    responses={503: {"description": "It is shutting down, or its store is away"}},
)
async def readyz(request: Request) -> dict[str, str]:
    """Answers once the chains are mounted and until the server shuts down.

    Raises:
        ShuttingDown: no new runs are taken.
        StoreUnavailable: the runs' store is away, or that of the conversations; the detail says which.
    """
    services = services_of(request)
    if services.runs.draining:
        raise ShuttingDown()
    try:
        await services.runs.store.check()
        await services.checkpoints.check()
    except StoreDown as error:
        raise StoreUnavailable(str(error) if isinstance(error, CheckpointsDown) else None) from error
    return {"status": "ready"}
