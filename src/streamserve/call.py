"""What one request carries through LangServe, which has no place for it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, Literal
from uuid import UUID


def new_run_id() -> str:
    """128 random bits in the form that LangChain's tracers take: a UUID."""
    return str(UUID(bytes=token_bytes(16)))


@dataclass(slots=True)
class Call:
    """One request's way through LangServe, which passes neither keyword arguments nor the place of a failure.

    Args:
        run_id: of the run, LangServe's metadata and the trace alike.
        kwargs: for the runnable.
        output: JSON of the final output where it cannot be merged from the chunks.
        types: of the output's values, as wire_types has them.
        phase: how far it came.
        task: in which the chain streams; not LangServe's own for /stream_log, which waits for it to end.
    """

    run_id: str = field(default_factory=new_run_id)
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: bytes | None = None
    types: dict[str, str] = field(default_factory=dict)
    phase: Literal["input", "chain", "output"] = "input"
    task: asyncio.Task[Any] | None = None


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
