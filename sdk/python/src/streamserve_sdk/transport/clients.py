"""The HTTP clients: made at the first call, one per event loop and process, closed without blocking a loop."""

import asyncio
import atexit
import os
import ssl
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import httpx

from streamserve_sdk.transport.redirects import OwnOrigins

Transport = Literal["httpx", "aiohttp"]
CertTypes = str | tuple[str, str] | tuple[str, str, str]

# httpx's default of 100 connections makes stream 101 wait silently; idle connections stay bounded.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)
# Seconds that a close, or the end of an iterator, waits for a cancel request under way.
CANCEL_WAIT = 2.0


@lru_cache(maxsize=32)
def tls_context(verify: str | bool, cert: CertTypes | None) -> ssl.SSLContext:
    """Return the TLS context for these settings; making one takes 75 ms, so equal settings share one."""
    if isinstance(verify, str):
        is_folder = os.path.isdir(verify)
        context = ssl.create_default_context(capath=verify if is_folder else None, cafile=None if is_folder else verify)
    else:
        context = httpx.create_ssl_context(verify=verify)
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


class HttpClients:
    """The clients of one RemoteRunnable.

    Args:
        verify: httpx's `verify`: True, False, a path of certificates, or a context.
        cert: httpx's `cert`: the client's certificate.
        options: further arguments of httpx.Client and httpx.AsyncClient.
        transport: "aiohttp" carries asynchronous calls over aiohttp; default "httpx".
        urls: URLs at the origins that get the caller's headers and cookies; default: every origin.

    Attributes:
        own_sync: the caller's own client for synchronous calls, which the caller closes; or None.
        own_async: the caller's own client for asynchronous calls of every loop, which the caller closes; or None.
    """

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool,
        cert: CertTypes | None,
        options: dict[str, Any],
        transport: Transport = "httpx",
        urls: Sequence[str] = (),
    ) -> None:
        """Keep the settings; open nothing yet."""
        self._verify = verify
        self._cert = cert
        self._options = {"limits": LIMITS, **options}
        self._transport = transport
        self._urls = tuple(urls)
        self._own = OwnOrigins(urls) if urls else None
        self.process = 0
        self.own_sync: httpx.Client | None = None
        self.own_async: httpx.AsyncClient | None = None
        self._begin()
        _ALL.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the settings: connections stay in their process."""
        return type(self), (self._verify, self._cert, self._options, self._transport, self._urls)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._sync: httpx.Client | None = None
        self._forgotten: weakref.finalize[..., Any] | None = None
        self._async: _Table = WeakKeyDictionary()
        self._threads: set[threading.Thread] = set()
        self._open: dict[object, Callable[[], None]] = {}

    @property
    def limit(self) -> float | None:
        """The caller's seconds to wait for an answer, or None."""
        timeout = self._options.get("timeout")
        return timeout.read if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout).read

    def begin_anew(self) -> None:
        """Leave all connections and streams to the parent of this new process."""
        # Garbage would be closed, and closing may wait for a lock of a thread that this process does not have.
        _OF_PARENTS.append((self._sync, self._async, self._open))
        if self._forgotten is not None:
            self._forgotten.detach()
        self.process += 1
        self._begin()

    def opened(self, leave: Callable[[], None]) -> object:
        """Note an open stream, and return its key.

        Args:
            leave: a function that leaves the stream's run; called if the process exits before the stream is taken.
        """
        key = object()
        self._open[key] = leave
        return key

    def taken(self, key: object) -> bool:
        """Forget an open stream, and return whether the caller is to leave its run."""
        return self._open.pop(key, None) is not None

    def leave_open(self, until: float) -> None:
        """Leave the open streams, and start none of it after a moment of the monotonic clock."""
        while self._open:
            _, leave = self._open.popitem()
            if time.monotonic() < until:
                leave()

    def sync(self) -> httpx.Client:
        """Return the client for synchronous calls."""
        if self.own_sync is not None:
            return self.own_sync
        with self._lock:
            if self._sync is None:
                self._sync = httpx.Client(verify=self._context(), **self._watched(asynchronous=False))
                self._forgotten = weakref.finalize(self, self._sync.close)
                self._forgotten.atexit = False  # streams are left first
            return self._sync

    async def current(self) -> httpx.AsyncClient:
        """Return the client of the running event loop, which is closed with the loop."""
        if self.own_async is not None:
            return self.own_async
        entry = self._of_loop()
        await entry.start()
        return entry.client

    def of_loop(self) -> httpx.AsyncClient:
        """Return the client that `current` returns, without a call.

        Raises:
            RuntimeError: no event loop runs.
        """
        return self.own_async or self._of_loop().client

    def _of_loop(self) -> "_LoopClient":
        loop = asyncio.get_running_loop()
        with self._lock:
            for dead in [known for known in list(self._async) if known.is_closed()]:
                del self._async[dead]
            entry = self._async.get(loop)
            if entry is None or entry.client.is_closed:
                client = httpx.AsyncClient(
                    verify=self._context(), **self._carried(), **self._watched(asynchronous=True)
                )
                entry = self._async[loop] = _LoopClient(client, weakref.ref(self._async))
        return entry

    def run_beside(self, work: Callable[[], None]) -> None:
        """Do work in an OS thread and wait `CANCEL_WAIT` seconds at most: the caller may be the garbage collector."""
        if sys.is_finalizing():
            return
        thread = threading.Thread(target=self._forget_after, args=(work,), name="streamserve-cancel")
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 and later start no thread while functions of `atexit` run.
            self._threads.discard(thread)
            work()
        else:
            thread.join(CANCEL_WAIT)

    async def arun_beside(self, work: "asyncio.Task[None]") -> None:
        """Wait `CANCEL_WAIT` seconds at most for a task that outlives the caller's cancellation."""
        loop_client = self._async.get(asyncio.get_running_loop())
        if loop_client is not None:
            loop_client.tasks.add(work)
            work.add_done_callback(loop_client.tasks.discard)
        await asyncio.wait([work], timeout=CANCEL_WAIT)

    def close(self) -> None:
        """Close the synchronous client."""
        for thread in list(self._threads):
            thread.join(CANCEL_WAIT)
        with self._lock:
            self._sync, forgotten, self._forgotten = None, self._forgotten, None
        if forgotten is not None:
            forgotten()

    async def aclose(self) -> None:
        """Close the running loop's client, and the synchronous one."""
        with self._lock:
            entry = self._async.pop(asyncio.get_running_loop(), None)
        if entry is not None:
            await entry.stop()
        self.close()

    def _watched(self, *, asynchronous: bool) -> dict[str, Any]:
        return self._own.watched(self._options, asynchronous=asynchronous) if self._own else self._options

    def _carried(self) -> dict[str, Any]:
        if self._transport == "httpx":
            return {}
        from streamserve_sdk.transport.aiohttp_transport import transport

        return {"transport": transport(self._context())}

    def _context(self) -> ssl.SSLContext:
        if isinstance(self._verify, ssl.SSLContext):
            return self._verify
        return tls_context(self._verify, self._cert)

    def _forget_after(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._threads.discard(threading.current_thread())


_ALL: WeakSet[HttpClients] = WeakSet()
# What a forked process has of its parent's: kept, so that nothing of it is closed here.
_OF_PARENTS: list[Any] = []


def _leave_all() -> None:
    until = time.monotonic() + CANCEL_WAIT
    for clients in list(_ALL):
        clients.leave_open(until)


def _begin_anew() -> None:
    for clients in list(_ALL):
        clients.begin_anew()


atexit.register(_leave_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class _LoopClient:
    """A client bound to one event loop, closed with it.

    The keeper is an asynchronous generator. The loop closes such a generator when the loop shuts down or when the
    generator is garbage, so this class needs no finalizer.
    """

    def __init__(self, client: httpx.AsyncClient, table: "weakref.ref[_Table]") -> None:
        self.client = client
        self.tasks: set[asyncio.Task[None]] = set()
        self._keeper = _keep(client, self.tasks, table)
        self._started = False

    async def start(self) -> None:
        if not self._started:
            self._started = True
            await anext(self._keeper)

    async def stop(self) -> None:
        await self._keeper.aclose()


_Table = WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClient]


async def _keep(
    client: httpx.AsyncClient, tasks: set[asyncio.Task[None]], table: weakref.ref[_Table]
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT)
        await client.aclose()
        # The closed client still refers to its loop: an entry left in the table would keep both alive.
        clients, loop = table(), asyncio.get_running_loop()
        if clients is not None and (entry := clients.get(loop)) and entry.client is client:
            del clients[loop]
