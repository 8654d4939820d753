"""/healthz: the process lives. /readyz: it can take work."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> dict[str, str]:
    """Always answers while the event loop runs."""
    return {"status": "ok"}


@router.get("/readyz", summary="The server can take work")
async def readyz() -> dict[str, str]:
    """Answers once the chains are mounted."""
    return {"status": "ready"}
