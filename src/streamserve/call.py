"""The call: the state of one request on its way through LangServe, in a context variable."""

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

from streamserve.user import User

EventVersion = Literal["v2", "v3"]


def new_run_id() -> str:
    """Return 128 random bits as a UUID, the form that LangChain's tracers take."""
    return str(UUID(bytes=token_bytes(16)))


class ThreadLock(Protocol):
    """Locks threads, each for one run at a time."""

    def __call__(self, thread_id: str, run_id: str) -> AbstractAsyncContextManager[list[str]]:
        """Return a context manager that holds the lock of a thread for a run.

        It yields the ids of the runs that were cancelled for this run.
        """


class Slot(Protocol):
    """One or more of the runs that a principal may have at the same time."""

    def keep(self) -> None:
        """Keep the slot for a run beyond the end of the request."""

    def release(self, *, kept: bool = False) -> None:
        """Release the slot; a slot that a run keeps is released with `kept` only, at the run's end."""


@dataclass(slots=True)
class Call:
    """The state of one request, from its head to the end of its run.

    Args:
        run_id: the id of the run, of LangServe's metadata and of the trace. Default: a new id.
        expose_errors: True to show the chain's own error texts. Default: False.
        serializer: the record's own serializer of values without a JSON form, or None.
        principal: the principal; None until the guard has set it.
        user: the caller as the chain sees it; None until the guard has set it.
        configs: the request's configs, one for all inputs or one per input.
        lock: the lock of the threads that the caller named; None: the run waits for no other run.
        places: how many items of a batch may run at once; None: no limit bounds them.
        body: the parsed request body; empty before it is read.
        events: the version of the events of /stream_events. Default: v2.
        output: the final output as JSON if it cannot be merged from the chunks, else None.
        recover: True if another worker recovers the run after this worker's death. Default: False.
        guard: function that raises Fenced if the run has another owner; None: the run cannot have another owner.
        task: the task that streams the chain; for /stream_log and /stream_events an inner one, which the run's awaits.
        started_at: the time of the request, in seconds of `time.monotonic`. Default: now.
    """

    run_id: str = field(default_factory=new_run_id)
    chain: str = ""
    expose_errors: bool = False
    serializer: Any = None
    principal: str | None = None
    user: User | None = None
    configs: list[RunnableConfig] = field(default_factory=list)
    slot: Slot | None = None
    lock: ThreadLock | None = None
    places: int | None = None
    body: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    events: EventVersion = "v2"
    output: bytes | None = None
    config: dict[str, Any] = field(default_factory=dict)
    recover: bool = False
    guard: Callable[[], Awaitable[None]] | None = None
    phase: Literal["input", "chain", "output"] = "input"
    task: asyncio.Task[Any] | None = None
    started_at: float = field(default_factory=monotonic)

    def input_place(self, index: int) -> tuple[str | int, ...]:
        """Return the place of an input in the request's body."""
        return ("body", "inputs", index) if "inputs" in self.body else ("body", "input")


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
