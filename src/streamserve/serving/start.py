"""From a call to its run: store the run, wait for its thread, start it, or find the run that its key names."""

import time
from dataclasses import dataclass
from typing import Any, cast

from streamserve.call import Call
from streamserve.errors import BadRequest
from streamserve.graphs import input as graph_input
from streamserve.graphs.thread_heads import require_thread
from streamserve.graphs.thread_keys import thread_key
from streamserve.runs import thread_lock
from streamserve.runs.run import Events
from streamserve.runs.runs import OnDisconnect, Runs
from streamserve.serving.served import ServedRunnable
from streamserve.stores import RunRecord

# The header that says what happens when the last reader leaves.
ON_DISCONNECT = "Run-On-Disconnect"


@dataclass(frozen=True, slots=True)
class Order:
    """A door's order to start a run.

    Args:
        on_disconnect: what happens when the last reader leaves.
        key: the caller's key of the run; None: every request is a run of its own.
        fingerprint: the digest of the body; a key stands for one body.
        request: the request, packed for another attempt; None: the run is not recovered.
    """

    endpoint: str
    principal: str
    on_disconnect: OnDisconnect
    key: str | None = None
    fingerprint: str = ""
    request: bytes | None = None


def read_on_disconnect(said: str | None, default: OnDisconnect) -> OnDisconnect:
    """Return what happens when the last reader of a run leaves.

    Raises:
        BadRequest: the header has another value.
    """
    if said not in (None, "continue", "cancel"):
        raise BadRequest(f"{ON_DISCONNECT}: continue or cancel")
    return cast(OnDisconnect, said or default)


async def start(
    runs: Runs, served: ServedRunnable, call: Call, order: Order, given: Any, events: Events
) -> tuple[RunRecord, bool]:
    """Start the run of a call, or find the run that its key names.

    Returns:
        The run's record, and whether the run is new.

    Raises:
        ServeError: the thread is busy, has not begun or is missing; the key names a run with another body; or the
            server shuts down.
    """
    record = RunRecord(
        run_id=call.run_id,
        chain=served.served.name,
        endpoint=order.endpoint,
        principal=order.principal,
        created_at=time.time(),
        key=order.key,
        fingerprint=order.fingerprint,
        request=order.request,
    )
    chain = served.served.chain
    await _put_on_thread(runs, served, call, record, given)
    return await runs.start(
        record,
        events,
        call,
        timeout=chain.timeout,
        on_disconnect=order.on_disconnect,
        alone=chain.multitask_strategy == "reject",
    )


async def _put_on_thread(runs: Runs, served: ServedRunnable, call: Call, record: RunRecord, given: Any) -> None:
    graph = served.graph
    if graph is None or record.endpoint == "batch":  # each input of a batch has a thread and a lock of its own
        return
    thread_id = (call.configs[0].get("configurable") or {}).get("thread_id") or None
    if thread_id is not None:
        record.thread = thread_key(record.chain, record.principal, thread_id)
        call.lock = thread_lock.of_run(runs.store, record, served.served.chain.multitask_strategy)
    # A run ahead may begin the thread.
    if not await runs.store.ahead(record):
        of_graph = graph_input.given(graph, served.served.chain, given, call.input_place(0))
        await require_thread(graph, thread_id, of_graph)
