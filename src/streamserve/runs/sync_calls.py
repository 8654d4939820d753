"""The threads in which LangChain runs sync models and tools, counted per run.

A cancelled task leaves its thread running until the sync code returns: only with this count can a run tell the
truth about its end, and only from within can it be stopped, at a model's next token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook


class CallsInThreads:
    """What one run does in threads."""

    def __init__(self) -> None:
        self.busy: set[Future[Any]] = set()
        self.stopper = _Stopper()

    def stop(self) -> None:
        """Makes sync code end when it calls a model or tool next, or its model has the next token."""
        self.stopper.stopped = True


class _Stopper(BaseCallbackHandler):
    raise_error = True
    run_inline = True
    stopped = False

    def _check(self, *_args: Any, **_kwargs: Any) -> None:
        # No Exception: retries and fallbacks would call the next model.
        if self.stopped:
            raise asyncio.CancelledError

    on_llm_new_token = on_llm_start = on_chat_model_start = on_tool_start = _check


# The calls of the run whose context this is; None outside a run.
current_calls: ContextVar[CallsInThreads | None] = ContextVar("current_calls", default=None)


class _StopperInThread:
    """What LangChain's configure hook reads like a ContextVar: async code is cancelled by its task and pays nothing."""

    def get(self) -> _Stopper | None:
        calls = current_calls.get()
        return calls.stopper if calls is not None and not _in_event_loop() else None


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


register_configure_hook(cast("ContextVar[Any]", _StopperInThread()), inheritable=True)


class RunThreads(ThreadPoolExecutor):
    """The event loop's default executor, which LangChain and LangGraph hand sync code to."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the base class, remembering the call for the current run."""
        calls = current_calls.get()
        future = super().submit(fn, *args, **kwargs)
        if calls is not None:
            calls.busy.add(future)
            future.add_done_callback(calls.busy.discard)
        return future
