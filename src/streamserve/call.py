"""What one request carries through LangServe, which has no place for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from secrets import token_bytes
from time import monotonic
from typing import Any, Literal, Protocol
from uuid import UUID

from langchain_core.runnables import RunnableConfig

EventVersion = Literal["v2", "v3"]


def new_run_id() -> str:
    """128 random bits in the form that LangChain's tracers take: a UUID."""
    return str(UUID(bytes=token_bytes(16)))


class Turn(Protocol):
    """Makes a run wait for its turn on a thread, and gives the runs that it undoes."""

    def __call__(self, thread_id: str, run_id: str) -> AbstractAsyncContextManager[list[str]]:
        """The turn of a run on the thread of this name."""


class Slot(Protocol):
    """A place among the runs that a caller may have under way."""

    def keep(self) -> None:
        """A run has it: the request's own end does not give it back."""

    def release(self, *, kept: bool = False) -> None:
        """Gives it back, unless a run keeps it and this is not the run's end."""


@dataclass(slots=True)
class Call:
    """One request's way through LangServe, which passes neither keyword arguments nor the place of a failure.

    Args:
        run_id: of the run, LangServe's metadata and the trace alike.
        chain: the chain's name.
        expose_errors: the chain's own error texts may be shown.
        principal: who asks; None until the guard has said it.
        configs: what the request's configs say, one for all inputs or one for each.
        slot: of the runs that the caller may have under way; None: not bounded.
        turn: of runs on threads that the caller named; None: nothing to wait for.
        body: what the request says, once it is read.
        kwargs: for the runnable.
        events: the version of the events, for /stream_events.
        output: JSON of the final output where it cannot be merged from the chunks.
        types: of the output's values, as wire_types has them.
        config: as LangServe made it of the request's, with the run's id.
        recover: another worker goes on with the run if this one dies.
        guard: raises if another worker goes on with the run; None: nobody else can.
        phase: how far it came.
        task: in which the chain streams; not LangServe's own for /stream_log, which waits for it to end.
        began: when the request came, by `time.monotonic`.
    """

    run_id: str = field(default_factory=new_run_id)
    chain: str = ""
    expose_errors: bool = False
    principal: str | None = None
    configs: list[RunnableConfig] = field(default_factory=list)
    slot: Slot | None = None
    turn: Turn | None = None
    body: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    events: EventVersion = "v2"
    output: bytes | None = None
    types: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    recover: bool = False
    guard: Callable[[], Awaitable[None]] | None = None
    phase: Literal["input", "chain", "output"] = "input"
    task: asyncio.Task[Any] | None = None
    began: float = field(default_factory=monotonic)


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
