"""The OS threads for sync code: the event loop's default executor, in which LangChain and LangGraph run it.

They are daemons. A process that stops has cancelled all its runs and waited for them: it does not wait once more for
sync code that ignores its cancellation, as it does for the threads of a ThreadPoolExecutor.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from streamserve.runs.sync_calls import current_calls

Work = tuple[Future[Any], Callable[[], Any]]
_END: Work = (Future(), lambda: None)


class SyncCallExecutor(ThreadPoolExecutor):
    """An executor with daemon threads, each started when no other is idle; asyncio takes no other class of executor."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads)  # which starts none by itself
        self._free = threads
        self._name = name
        self._work: SimpleQueue[Work] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._starting = threading.Lock()
        self._is_closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call and add it to the current run's sync calls."""
        future: Future[Any] = Future()
        calls = current_calls.get()
        if calls is not None:
            calls.pending.add(future)
            future.add_done_callback(calls.pending.discard)
        with self._starting:
            if self._is_closed:
                raise RuntimeError("the server has stopped")
            self._work.put((future, partial(fn, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._free:
                self._free -= 1
                threading.Thread(target=self._run, name=f"{self._name}_{self._free}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as in the base
        """End the threads once they are idle, and return at once."""
        with self._starting:
            self._is_closed = True
        while cancel_futures and not self._work.empty():
            self._work.get()[0].cancel()
        self._work.put(_END)

    def _run(self) -> None:
        while (work := self._next()) is not _END:
            _carry_out(*work)
            del work  # an idle thread keeps no result alive
        self._work.put(_END)  # for the next thread

    def _next(self) -> Work:
        try:
            return self._work.get_nowait()
        except Empty:
            self._idle.release()
            return self._work.get()


def _carry_out(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
        del future  # otherwise the exception's traceback and the future would keep each other alive
    else:
        future.set_result(result)
