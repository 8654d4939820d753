"""Cross-origin requests: the origins that may call the server, and the headers that their scripts may use."""

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
    """Add the middleware for cross-origin requests, if the settings name an origin.

    The middleware must be the outermost, so that errors have the headers as well.
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
