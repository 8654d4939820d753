"""Recovery: what is kept of a run so that another worker can go on with it, and how that one does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import replace
from typing import Any, cast

import orjson
from langchain_core.runnables import RunnableConfig

from streamserve.call import Call, current_call
from streamserve.catalog.chain import keeps_checkpoints
from streamserve.errors import BadRequest
from streamserve.errors.places import invalid
from streamserve.graphs.arguments import NAMES, read_arguments
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.graphs.graph import Graph
from streamserve.runs import thread_lock
from streamserve.runs.attempt import Attempt
from streamserve.runs.limits import RunLimits
from streamserve.runs.run import Events, Run
from streamserve.serving.inputs import input_of
from streamserve.serving.request_body import read_kwargs
from streamserve.serving.served import ServedRunnable
from streamserve.stores import RunRecord, RunStore
from streamserve.wire.input_types import decode_input_types
from streamserve.wire.serializer import to_line, typed_line

logger = logging.getLogger(__name__)

# The header, and the endpoints whose runs are recovered: the others' blocks build on each other.
HEADER = "Run-Recover"
ENDPOINTS = ("stream", "runs")
# Kept with the run until its end; what is larger is an upload, which has no place in the runs' store.
MAX_REQUEST = 2**20


# Blocks read from the store at once.
PAGE = 1000
# What is left, in seconds, to a run that is recovered after its deadline: it ends with `timeout`.
MOMENT = 0.001


class Recovery:
    """The graphs whose runs can be recovered.

    Args:
        chains: all that are served.
        checkpoints: where their graphs keep them.

    Raises:
        ValueError: a chain's record says `recover`, and other workers cannot see its checkpoints.
    """

    def __init__(self, chains: Iterable[ServedRunnable], checkpoints: Checkpoints) -> None:
        self._chains = {served.served.name: served for served in chains}
        self._checkpoints = checkpoints
        for served in self._chains.values():
            if served.served.chain.recover and (obstacle := self._obstacle(served)):
                raise ValueError(f"{served.served.file}: recover: {obstacle}")

    def _obstacle(self, served: ServedRunnable) -> str:
        if served.graph is None or not keeps_checkpoints(served.graph):
            return "only a graph with checkpoints can go on"
        if self._checkpoints.visible_to(served.graph) is None:
            return "other workers do not see the graph's checkpoints: see STREAMSERVE_CHECKPOINTS"
        return ""

    def wanted(self, served: ServedRunnable, endpoint: str, said: str | None, kwargs: dict[str, Any]) -> bool:
        """Whether a run is to be recovered.

        Args:
            served: its chain.
            endpoint: the last part of the path.
            said: the request's header, which goes before the chain's record.
            kwargs: of the request.

        Raises:
            BadRequest: the header does not fit, or asks for what cannot be.
            InvalidInput: so does an argument beside the header.
        """
        if said not in (None, "true", "false"):
            raise BadRequest(f"{HEADER}: true or false")
        if said == "true":
            self._require(served, endpoint, kwargs)
            return True
        declared = said is None and served.served.chain.recover
        return declared and endpoint in ENDPOINTS and kwargs.get("durability", "sync") == "sync"

    def _require(self, served: ServedRunnable, endpoint: str, kwargs: dict[str, Any]) -> None:
        if endpoint not in ENDPOINTS:
            raise BadRequest(f"{HEADER}: runs of /{' and /'.join(ENDPOINTS)} only")
        if obstacle := self._obstacle(served):
            raise BadRequest(f"{HEADER}: {obstacle}")
        if kwargs.get("durability", "sync") != "sync":
            raise invalid(("body", "kwargs", "durability"), f"Input should be sync with {HEADER}", "literal_error")

    def pack(
        self, served: ServedRunnable, body: dict[str, Any], call: Call, on_disconnect: str, said: str | None
    ) -> bytes | None:
        """What is kept of a run's request; None if it is too large and nobody asked for it.

        Args:
            served: the chain.
            body: of the request.
            call: with the config that LangServe made of it.
            on_disconnect: what happens when the last reader leaves.
            said: the request's header.

        Raises:
            BadRequest: it is too large, and asked for.
        """
        assert served.graph is not None
        kept = {
            **{name: body.get(name) for name in ("input", "types", "kwargs")},
            "config": call.config,
            "configs": call.configs,
            "on_disconnect": on_disconnect,
            "seen_by": self._checkpoints.visible_to(served.graph),
        }
        packed = to_line(kept)
        if len(packed) <= MAX_REQUEST:
            return packed
        if said is not None:
            raise BadRequest(f"{HEADER}: the request has more than {MAX_REQUEST} bytes")
        logger.info("a request of %d bytes is not kept: its run is not recovered", len(packed))
        return None

    async def attempt(
        self, record: RunRecord, store: RunStore, limits: Callable[[float | None], RunLimits]
    ) -> Attempt | None:
        """A further attempt at a lost run; None if there cannot be one: its chain is unknown here or has changed, its
        checkpoints are elsewhere, or somebody wants the run cancelled.

        Args:
            record: with its request.
            store: where its blocks are.
            limits: for a timeout in seconds; None: the server's.
        """
        served = self._chains.get(record.chain)
        stored = await _blocks_of(record, store)
        if served is None or served.graph is None or record.request is None or len(stored) < record.last_id:
            return None
        try:
            kept = orjson.loads(record.request)
            if kept["seen_by"] not in ("", self._checkpoints.visible_to(served.graph)):
                return None
            call, events = _continued(served, served.graph, record, kept, store)
            call.lock = thread_lock.of_run(store, record, served.served.chain.multitask_strategy)
        except Exception:  # what one version of a chain accepted another need not
            logger.warning("a lost run does not fit its chain any more", extra={"run_id": record.run_id}, exc_info=True)
            return None
        bounds = limits(served.served.chain.timeout)
        left = max(record.created_at + bounds.timeout - time.time(), MOMENT)
        run = Run(record, store, events, call, replace(bounds, timeout=left), stored)
        context = copy_context()
        context.run(current_call.set, call)
        return Attempt(run, context, kept["on_disconnect"])


async def _blocks_of(record: RunRecord, store: RunStore) -> list[bytes]:
    blocks: list[bytes] = []
    while len(blocks) < record.last_id:
        more, _ = await store.read(record.run_id, len(blocks), PAGE)
        if not more:
            break
        blocks += more
    return blocks


def _continued(
    served: ServedRunnable, graph: Graph, record: RunRecord, kept: dict[str, Any], store: RunStore
) -> tuple[Call, Events]:
    decode_input_types(kept, "input")
    kwargs = read_arguments(read_kwargs(kept, NAMES), served.served.chain, graph)
    call = Call(
        run_id=record.run_id,
        chain=record.chain,
        expose_errors=served.served.chain.expose_errors,
        principal=record.principal,
        kwargs={**kwargs, "durability": "sync"},
        config=kept["config"],
        configs=kept["configs"],
        lock=thread_lock.of_run(store, record, served.served.chain.multitask_strategy),
        recover=True,
    )
    return call, _events(served, input_of(served, kept["input"]), call)


async def _events(served: ServedRunnable, value: Any, call: Call) -> Events:
    async for chunk in served.continued(value, cast(RunnableConfig, call.config)):
        yield {"event": "data", "data": typed_line(chunk).decode()}
    yield {"event": "end"}
