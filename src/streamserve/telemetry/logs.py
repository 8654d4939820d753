"""Structured logs: each record of each library is one line, with the ids of its request, run and trace.

The modules log with the standard library; structlog renders. `streamserve serve` configures it in each of its
processes; under another server, call `configure(settings)`.
"""

import logging
import logging.config
import sys
from collections.abc import Sequence
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from streamserve.settings import Settings
from streamserve.telemetry.redact import Redactor

# Fields that uvicorn adds for its colours and structlog for its own use.
_INTERNAL_FIELDS = ("color_message", "_record", "_from_structlog")


def configure(settings: Settings) -> None:
    """Configure all loggers of this process to write structured records to stderr."""
    logging.config.dictConfig(log_config(settings))


def log_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig` or for uvicorn's `log_config`."""
    as_json = not sys.stderr.isatty() if settings.log_format == "auto" else settings.log_format == "json"
    loggers = {name: {"handlers": [], "level": "INFO", "propagate": True} for name in ("uvicorn", "uvicorn.access")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"structured": {"()": formatter, "as_json": as_json}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        # At INFO, libraries log details that only their own developers need.
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {**loggers, "streamserve": {"level": settings.log_level.upper()}},
    }


def formatter(as_json: bool, redactor: Redactor | None = None) -> structlog.stdlib.ProcessorFormatter:
    """Return a formatter for the records of the standard library: one JSON object per line, or text for people.

    The default redactor knows the environment's secrets.
    """
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED, processors=[_drop_internal_fields, *_processors(as_json, redactor or Redactor())]
    )


_SHARED: Sequence[Processor] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def _processors(as_json: bool, redactor: Redactor) -> list[Processor]:
    def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: redactor.value(name, value) for name, value in event.items()}

    renderer: Processor = structlog.processors.JSONRenderer(default=str) if as_json else _console()
    return [structlog.processors.format_exc_info, redact, renderer]


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)


def _drop_internal_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in _INTERNAL_FIELDS:
        event.pop(name, None)
    return event
