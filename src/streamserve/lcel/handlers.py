"""Callback handlers of a stream without a task and an OS thread per token.

A handler that is not inline gets the same calls in the same order, in an OS thread, but several tokens at a time, and
all before the next other event. An async handler gets its tokens without a task. A handler without
`on_llm_new_token` gets none. A handler whose errors end the stream is left as it is.
"""

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManagerForChainRun, BaseCallbackHandler

# langchain-core's own, in which people look for the errors of their handlers.
_logger = logging.getLogger("langchain_core.callbacks.manager")

_ON_TOKEN = "on_llm_new_token"  # noqa: S105
# Seconds in which tokens gather for one way to the handler's OS thread.
PAUSE = 0.01
# Tokens that may wait for a slow handler, whose stream then waits for it, as it does upstream for each token.
MOST = 64
_UNUSED = [getattr(kind, _ON_TOKEN, None) for kind in (BaseCallbackHandler, AsyncCallbackHandler)]


def stand_in(run: AsyncCallbackManagerForChainRun) -> None:
    """Exchange the handlers of a stream's run, which its steps inherit, for those with less work per token."""
    made: dict[int, BaseCallbackHandler] = {}
    run.handlers = _exchanged(run.handlers, made)
    run.inheritable_handlers = _exchanged(run.inheritable_handlers, made)


def _exchanged(handlers: list[BaseCallbackHandler], made: dict[int, BaseCallbackHandler]) -> list[BaseCallbackHandler]:
    inline = [handler for handler in handlers if _stays(handler)]
    others = [handler for handler in handlers if not _stays(handler)]
    # As upstream, the inline ones are called first.
    return [*inline, *(made.setdefault(id(each), cast(BaseCallbackHandler, Hops(each))) for each in others)]


def _stays(handler: BaseCallbackHandler) -> bool:
    # What shows the chunks of `astream_log` and `astream_events` also takes them out of the stream itself.
    return handler.run_inline or handler.raise_error or hasattr(handler, "tap_output_aiter")


class Hops:
    """A stand-in for a handler that is not inline; it passes for the handler wherever one looks for it.

    Args:
        handler: the handler.
    """

    run_inline = True

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler
        self._waiting: deque[Callable[[], Any]] = deque()
        self._calling = threading.Lock()
        self._hop: asyncio.Future[None] | None = None
        self._due: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(self._handler)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._handler

    def __hash__(self) -> int:
        return hash(self._handler)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._handler, name)
        if not name.startswith("on_"):
            return found
        if not _in_event_loop():  # a sync step, in an OS thread
            self._deliver()
            return found
        if name != _ON_TOKEN:
            return partial(self._apart, found)
        if getattr(found, "__func__", found) in _UNUSED:
            return _nothing
        return found if inspect.iscoroutinefunction(found) else partial(self._later, found)

    async def _apart(self, event: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a handler as upstream does, after all tokens before."""
        if self._is_elsewhere():
            self._deliver()
            result = event(*args, **kwargs)
            await (result if inspect.isawaitable(result) else _nothing())
            return
        while self._waiting or (self._hop and not self._hop.done()):
            await self._start()
        if inspect.iscoroutinefunction(event):
            await asyncio.create_task(event(*args, **kwargs))
        else:
            await _in_thread(partial(copy_context().run, event, *args, **kwargs))

    async def _later(self, event: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._waiting.append(partial(copy_context().run, event, *args, **kwargs))
        if self._is_elsewhere():
            self._deliver()
            return
        if len(self._waiting) >= MOST:
            await self._start()
        elif self._due is None:
            self._due = self._loop.call_later(PAUSE, self._start_due)

    def _start_due(self) -> None:
        self._due = None
        if self._waiting:
            self._start()

    def _is_elsewhere(self) -> bool:
        # A sync step called on the event loop: langchain-core runs its async callbacks in a loop of another OS thread.
        return asyncio.get_running_loop() is not self._loop

    def _start(self) -> asyncio.Future[None]:
        if self._hop is None or self._hop.done():
            self._hop = _in_thread(self._deliver)
        return self._hop

    def _deliver(self) -> None:
        with self._calling:  # a step in another OS thread may deliver, too
            while self._waiting:
                call = self._waiting.popleft()
                try:
                    call()
                except NotImplementedError as error:
                    _logger.warning(
                        "NotImplementedError in %s.%s callback: %r", self.__class__.__name__, _ON_TOKEN, error
                    )
                except Exception as error:
                    _logger.warning("Error in %s.%s callback: %r", self.__class__.__name__, _ON_TOKEN, error)


async def _nothing(*_: Any, **__: Any) -> None:
    pass


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    return asyncio.get_running_loop().run_in_executor(None, work)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
