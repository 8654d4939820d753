"""An event loop with virtual time: no selector, no OS thread, and a seeded order of what is ready."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from itertools import count
from random import Random
from typing import Any, Protocol

# Virtual seconds that one callback takes at most.
STEP = 0.0005
# Virtual seconds until work given to an executor is done, at most.
EXECUTOR_DELAY = 0.003


class Process(Protocol):
    """A process of the world, whose callbacks do not run once it is killed, and wait while it is frozen."""

    killed: bool
    frozen: bool


# The process that the current callback belongs to; None: the world's own, such as a client's.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Stuck(AssertionError):
    """Nothing is ready, nothing is scheduled, and the world has not ended."""


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose hash is its number: sets of futures have one order in all processes."""

    _numbers = count()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.number = next(self._numbers)

    def __hash__(self) -> int:
        return self.number


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number."""

    def __init__(self, work: Any, **options: Any) -> None:
        self.number = next(SimulatedFuture._numbers)
        context = options.get("context")
        self.process = context.get(PROCESS) if context is not None else PROCESS.get()
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self.number


# Called with the coroutine of each new task; returns what the task is to run instead.
Wrap = Callable[[Coroutine[Any, Any, Any]], Any]


class SimulatedLoop(asyncio.BaseEventLoop):
    """The loop.

    Args:
        random: the source of every choice.
        shuffles: whether tasks that are ready run in any order; else first come, first served.
        wrap: wraps the coroutine of each task.
    """

    def __init__(self, random: Random, *, shuffles: bool, wrap: Wrap) -> None:
        super().__init__()
        self._random = random
        self._shuffles = shuffles
        self._wrap = wrap
        self._now = 0.0
        self._kept: list[asyncio.Handle] = []
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.errors: list[str] = []
        # Connects to a server outside the world's processes, as `create_connection`.
        self.connect: Callable[..., Awaitable[Any]] = super().create_connection
        self.set_exception_handler(self._note_error)
        self.set_task_factory(self._task)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def create_future(self) -> Any:
        """Return a new future."""
        return SimulatedFuture(loop=self)

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return SimulatedTask(self._wrap(work), loop=loop, **options)

    def _note_error(self, _loop: Any, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Carry out a function within a moment, in the loop's own thread."""
        done = self.create_future()

        def carry_out() -> None:
            if done.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(self._random.random() * EXECUTOR_DELAY, carry_out)
        return done

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as the world does."""
        return await self.connect(*args, **options)

    def wake_up(self) -> None:
        """Make the callbacks of processes that are no longer frozen ready again."""
        kept, self._kept = self._kept, []
        self._ready.extend(kept)

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    def _run_once(self) -> None:
        self._take_due()
        if not self._ready:
            if not self._scheduled:
                raise Stuck(f"nothing happens any more at {self._now:.3f} s")
            self._now = max(self._now, self._scheduled[0].when())
            self._take_due()
        if self._ready:
            self._step(self._choose())

    def _take_due(self) -> None:
        while self._scheduled and (self._scheduled[0].cancelled() or self._scheduled[0].when() <= self._now):
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            if not handle.cancelled():
                self._ready.append(handle)

    def _choose(self) -> asyncio.Handle:
        if not self._shuffles or len(self._ready) == 1:
            return self._ready.popleft()
        # Plain callbacks keep their order, which asyncio promises; a task may be late by any number of them.
        plain = next((place for place, handle in enumerate(self._ready) if not _is_step(handle)), None)
        places = [place for place, handle in enumerate(self._ready) if _is_step(handle) or place == plain]
        place = places[self._random.randrange(len(places))]
        handle = self._ready[place]
        del self._ready[place]
        return handle

    def _step(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        process = _context(handle).get(PROCESS)
        if process is not None and process.killed:
            return
        if process is not None and process.frozen:
            self._kept.append(handle)
            return
        self.steps += 1
        self._now += self._random.random() * STEP
        handle._run()
        self.after_step()


def _is_step(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)


def _context(handle: asyncio.Handle) -> Context:
    return handle._context


class Points:
    """The places where tasks of the processes wait: each is counted, and something may happen at one of them.

    Args:
        at: number of the place; None: nothing happens.
        happen: called at that place, in its task.
    """

    def __init__(self, at: int | None = None, happen: Callable[[], None] = lambda: None) -> None:
        self.seen: list[str] = []
        self.counting = False
        self._at, self._happen = at, happen

    def note(self, work: Any) -> None:
        """Count the place at which a coroutine waits now."""
        if not self.counting or PROCESS.get() is None:
            return
        self.seen.append(_place(work))
        if len(self.seen) - 1 == self._at:
            self._happen()


class Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells where it waits."""

    def __init__(self, work: Coroutine[Any, Any, Any], points: Points) -> None:
        self._work = work
        self._points = points
        self.__name__ = getattr(work, "__name__", "task")
        self.__qualname__ = getattr(work, "__qualname__", "task")

    def send(self, value: Any) -> Any:
        """Run to the next place."""
        awaited = self._work.send(value)
        self._points.note(self._work)
        return awaited

    def throw(self, *error: Any) -> Any:
        """Run to the next place from an exception."""
        awaited = self._work.throw(*error)
        self._points.note(self._work)
        return awaited

    def close(self) -> None:
        """Close the coroutine."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._work.__await__())


def _place(work: Any) -> str:
    """Return where a coroutine waits: the innermost frame of our own code, else "" for a dependency's."""
    found, inner = "", work
    for _ in range(100):
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None and "/src/streamserve/" in frame.f_code.co_filename:
            found = f"{frame.f_code.co_filename.rpartition('/src/')[2]}:{frame.f_lineno}"
        deeper = (getattr(inner, name, None) for name in ("cr_await", "gi_yieldfrom", "ag_await"))
        if (inner := next((each for each in deeper if each is not None), None)) is None:
            break
    return found
