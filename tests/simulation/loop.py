"""An event loop with virtual time: no selector, no OS thread, and a seeded order of what is ready."""

from __future__ import annotations

import asyncio
import heapq
import linecache
import re
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar
from functools import lru_cache, partial
from itertools import count
from random import Random
from typing import Any, NamedTuple, Protocol

from streamserve.runs.sync_calls import SyncCalls, current_calls
from streamserve.runs.sync_threads import _carry_out

# Virtual seconds that one callback takes at most.
STEP = 0.0005
# Virtual seconds until work given to an executor is done, at most: the server's own, and a chain's sync step.
EXECUTOR_DELAY, SYNC_DELAY = 0.003, 3.0


class Process(Protocol):
    """A process of the world, whose callbacks do not run once it is killed, and wait while it is frozen."""

    name: str
    killed: bool
    frozen: bool


# The process that the current callback belongs to; None: the world itself.
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Stuck(AssertionError):
    """Nothing is ready, nothing is scheduled, and the world has not ended."""


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose hash is its number in its world: sets of futures have one order in all processes."""

    def __init__(self, *, loop: SimulatedLoop) -> None:
        super().__init__(loop=loop)
        self.number = next(loop.numbers)

    def __hash__(self) -> int:
        return self.number


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number in its world."""

    def __init__(self, work: Any, *, loop: SimulatedLoop, **options: Any) -> None:
        self.number = next(loop.numbers)
        context = options.get("context")
        self.process = context.get(PROCESS) if context is not None else PROCESS.get()
        super().__init__(work, loop=loop, **options)

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
        self.numbers = count()
        self._now = 0.0
        # Those that come at the same time keep the order of their calls.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_numbers = count()
        self._kept: list[asyncio.Handle] = []
        # Not asyncio.all_tasks, which looks at those of all worlds of this process.
        self._tasks: list[SimulatedTask] = []
        self.steps = 0
        # The sync steps under way of each process, with the timers of their ends, and the executors.
        self._steps: dict[Process | None, dict[Future[Any], asyncio.TimerHandle]] = {}
        self._executors: dict[Process | None, Any] = {}
        self._slept = 0.0
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

    def _task(self, _loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        task = SimulatedTask(self._wrap(work), loop=self, **options)
        self._tasks.append(task)
        return task

    @property
    def tasks(self) -> list[SimulatedTask]:
        """The tasks that have not ended."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that have neither come nor been cancelled."""
        return [timer for _, _, timer in self._timers if not timer.cancelled()]

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        """Call a function at a virtual time."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def _note_error(self, _loop: Any, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Carry out a function within a moment, in the loop's own thread."""
        if executor is None and (calls := current_calls.get()) is not None:
            return self._run_sync_step(partial(func, *args), calls)
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

    def submit(self, func: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """Carry out a function within a moment, as an executor of the server's own."""
        future: Future[Any] = Future()
        self.call_later(self._random.random() * EXECUTOR_DELAY, _carry_out, future, partial(func, *args, **options))
        return future

    def _run_sync_step(self, call: Callable[[], Any], calls: SyncCalls) -> Any:
        # As SyncCallExecutor does; nothing ends an OS thread that has begun.
        future: Future[Any] = Future()
        calls.pending.add(future)
        future.add_done_callback(calls.pending.discard)
        steps = self._steps.setdefault(PROCESS.get(), {})
        steps[future] = self.call_later(self._random.random() * SYNC_DELAY, self._carry_out_step, future, call)
        future.add_done_callback(lambda done: steps.pop(done, None))
        return asyncio.wrap_future(future, loop=self)

    def _carry_out_step(self, future: Future[Any], call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        outcome: Future[Any] = Future()
        self._slept = 0.0
        _carry_out(outcome, call)
        self._steps[PROCESS.get()][future] = self.call_later(self._slept, _hand_over, outcome, future)

    def sleep_in_step(self, seconds: float) -> None:
        """Let the present sync step take longer, as `time.sleep`."""
        self._slept += seconds

    def set_default_executor(self, executor: Any) -> None:
        """Note the executor of the present process."""
        self._executors[PROCESS.get()] = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """End the OS threads of the present process, as asyncio.run does."""
        steps = self._steps.pop(PROCESS.get(), {})
        if steps and waits_for_steps(type(self._executors[PROCESS.get()])):
            await asyncio.wait([asyncio.wrap_future(future, loop=self) for future in steps])
        for handle in steps.values():
            handle.cancel()

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
            if not self._timers:
                raise Stuck(f"nothing happens any more at {self._now:.3f} s")
            self._now = max(self._now, self._timers[0][0])
            self._take_due()
        if self._ready:
            self._step(self._choose())

    def _take_due(self) -> None:
        timers = self._timers
        while timers and (timers[0][0] <= self._now or timers[0][2].cancelled()):
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)

    def _choose(self) -> asyncio.Handle:
        ready = self._ready
        if not self._shuffles or len(ready) == 1:
            return ready.popleft()
        # Plain callbacks keep their order, which asyncio promises; a task may be late by any number of them.
        places, seen_plain = [], False
        for place, handle in enumerate(ready):
            if isinstance(getattr(handle._callback, "__self__", None), asyncio.Task):
                places.append(place)
            elif not seen_plain:
                seen_plain = True
                places.append(place)
        place = places[self._random.randrange(len(places))]
        handle = ready[place]
        del ready[place]
        return handle

    def _step(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None:
            if process.killed:
                return
            if process.frozen:
                self._kept.append(handle)
                return
        self.steps += 1
        self._now += self._random.random() * STEP
        handle._run()


@lru_cache
def waits_for_steps(executor: type[ThreadPoolExecutor]) -> bool:
    """Return whether the end of such an executor waits for a step that goes on, by trying it with real OS threads."""
    tried, goes_on = executor(1, "tried"), threading.Event()
    tried.submit(goes_on.wait)
    end = threading.Thread(target=tried.shutdown)
    end.start()
    end.join(timeout=0.5)
    waits = end.is_alive()
    goes_on.set()
    end.join()
    return waits


def _hand_over(outcome: Future[Any], future: Future[Any]) -> None:
    if error := outcome.exception():
        future.set_exception(error)
    else:
        future.set_result(outcome.result())


class Place(NamedTuple):
    """A place where a task waits: its process, and the innermost line of our own code or of a chain."""

    process: str
    line: str


class Points:
    """The places where tasks of the processes wait: each is counted, and something may happen at some of them.

    Args:
        at: numbers of the places.
        happen: called at those places, in their task.
        records: whether to keep all places that were seen.
    """

    def __init__(
        self, at: Collection[int] = (), happen: Callable[[Place], None] = lambda _place: None, *, records: bool = False
    ) -> None:
        self.seen: list[Place] = []
        self.counting = False
        # What the coroutine that waits at the present place gets instead of what it waits for.
        self.raises: BaseException | None = None
        self._count = 0
        self._at, self._happen, self._records = frozenset(at), happen, records

    def note(self, work: Any) -> BaseException | None:
        """Count the place at which a coroutine waits now; return what it gets instead of what it waits for."""
        process = PROCESS.get()
        if not self.counting or process is None:
            return None
        happens = self._count in self._at
        self._count += 1
        if happens or self._records:
            place = Place(process.name, _line(work))
            self.seen.append(place)
            if happens:
                self._happen(place)
        raises, self.raises = self.raises, None
        return raises


class Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells where it waits."""

    def __init__(self, work: Coroutine[Any, Any, Any], points: Points) -> None:
        self._work = work
        self._points = points
        self._raises: BaseException | None = None
        self.__name__ = getattr(work, "__name__", "task")
        self.__qualname__ = getattr(work, "__qualname__", "task")

    def send(self, value: Any) -> Any:
        """Run to the next place."""
        if self._raises is not None:
            raises, self._raises = self._raises, None
            return self.throw(raises)
        awaited = self._work.send(value)
        self._raises = self._points.note(self._work)
        return awaited

    def throw(self, *error: Any) -> Any:
        """Run to the next place from an exception."""
        self._raises = None
        awaited = self._work.throw(*error)
        self._raises = self._points.note(self._work)
        return awaited

    def close(self) -> None:
        """Close the coroutine."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._work.__await__())


# Code whose lines are places: ours, and that of the chains, the network and the file of the world.
_OURS = re.compile(r"/src/(streamserve\w*/.*)|/tests/(simulation/(?:chains|network)\.py)")


def _line(work: Any) -> str:
    """Return where a coroutine waits: the innermost frame of our own code or of a chain, else ""."""
    found, inner = "", work
    for _ in range(100):
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None and (ours := _OURS.search(frame.f_code.co_filename)):
            code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            found = f"{ours[1] or ours[2]}:{frame.f_lineno} {code}"
        deeper = (getattr(inner, name, None) for name in ("cr_await", "gi_yieldfrom", "ag_await"))
        if (inner := next((each for each in deeper if each is not None), None)) is None:
            break
    return found
