"""The calls of sync models and tools, which LangChain runs in OS threads, per run.

A cancelled task leaves its OS thread running until the sync code returns. With a list of these calls, a run's end
waits for them; the code itself stops from within, at a model's next token.
"""

import asyncio
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook


class SyncCalls:
    """The sync calls of one run in OS threads."""

    def __init__(self) -> None:
        self.pending: set[Future[Any]] = set()
        self.stopper = _Stopper()

    def stop(self) -> None:
        """Stop sync code at its next call of a model or tool, or at its model's next token."""
        self.stopper.stopped = True


class _Stopper(BaseCallbackHandler):
    raise_error = True
    run_inline = True
    stopped = False

    def _check(self, *_args: Any, **_kwargs: Any) -> None:
        # Not an Exception: retries and fallbacks would call the next model.
        if self.stopped:
            raise asyncio.CancelledError

    on_llm_new_token = on_llm_start = on_chat_model_start = on_tool_start = _check


# The calls of the current context's run; None outside a run.
current_calls: ContextVar[SyncCalls | None] = ContextVar("current_calls", default=None)


class _StopperInOSThread:
    """A stand-in for the ContextVar of LangChain's configure hook.

    It is empty on the event loop: async code is cancelled through its task and pays nothing for this handler.
    """

    def get(self) -> _Stopper | None:
        calls = current_calls.get()
        return calls.stopper if calls is not None and not _in_event_loop() else None


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


register_configure_hook(cast("ContextVar[Any]", _StopperInOSThread()), inheritable=True)
