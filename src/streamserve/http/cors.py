"""Which other web origins may call the server, and what their scripts may send and see."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from streamserve.settings import Settings

SENT = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "Run-On-Disconnect",
    "Run-Recover",
    "X-API-Key",
)
SEEN = ("Run-Id", "Content-Location", "Location", "Run-Replay-From", "Retry-After")


def allow_origins(app: FastAPI, settings: Settings) -> None:
    """Adds the answers to browsers, if the settings name an origin.

    Args:
        app: gets the middleware; it must be the outermost, so that errors have the headers as well.
        settings: with the origins.
    """
    origins = [origin.strip().rstrip("/") for origin in settings.cors_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=list(SENT),
            expose_headers=list(SEEN),
            max_age=3600,
        )
