"""Recovery: keep the request of a run, with which another worker can make another attempt at the run."""

import json
import logging
import time
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from streamserve.call import Call, current_call
from streamserve.catalog.chain import keeps_checkpoints
from streamserve.errors import BadRequest
from streamserve.errors.places import invalid
from streamserve.graphs.arguments import NAMES, read_arguments
from streamserve.graphs.checkpoints import Checkpoints
from streamserve.graphs.graph import Graph
from streamserve.http.body import parse
from streamserve.runs import thread_lock
from streamserve.runs.attempt import Attempt
from streamserve.runs.chain_tasks import is_cancellation
from streamserve.runs.limits import RunLimits
from streamserve.runs.output import blocks_of
from streamserve.runs.run import Events, Run
from streamserve.serving.inputs import input_of
from streamserve.serving.request_body import read_kwargs
from streamserve.serving.served import ServedRunnable
from streamserve.settings import Settings
from streamserve.stores import RunRecord, RunStore
from streamserve.user import User
from streamserve.wire.input_types import decode_input_types
from streamserve.wire.serializer import to_line, typed_line

logger = logging.getLogger(__name__)

# The header, and the endpoints whose runs can be recovered: each block of the others builds on the block before it.
HEADER = "Run-Recover"
ENDPOINTS = ("stream", "runs")
# Maximum bytes of a request that is kept with its run until the end: a larger one is an upload.
MAX_REQUEST = 2**20
# Seconds for a run that is recovered after its deadline: it ends with `timeout`.
MOMENT = 0.001


class Recovery:
    """Decides which runs are recovered, keeps their requests, and makes further attempts at them.

    Args:
        chains: the chains, by name.
    """

    def __init__(self, chains: Mapping[str, ServedRunnable], checkpoints: Checkpoints) -> None:
        self._chains = chains
        self._checkpoints = checkpoints

    def require(self, served: ServedRunnable) -> None:
        """Raise ValueError if a chain declares `recover`, and other workers cannot see its checkpoints."""
        if served.served.chain.recover and (obstacle := self._obstacle(served)):
            raise ValueError(f"{served.served.file}: recover: {obstacle}")

    def _obstacle(self, served: ServedRunnable) -> str:
        if served.graph is None or not keeps_checkpoints(served.graph):
            return "only a graph with checkpoints can go on"
        if self._checkpoints.visible_to(served.graph) is None:
            return "other workers do not see the graph's checkpoints: see STREAMSERVE_CHECKPOINTS"
        return ""

    def wanted(self, served: ServedRunnable, endpoint: str, said: str | None, kwargs: dict[str, Any]) -> bool:
        """Return whether a run is recovered; the request's header `said` overrides the chain's record.

        Raises:
            BadRequest: the header has another value, or the run cannot be recovered.
            InvalidInput: an argument does not fit the header.
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
        """Return the request as it is kept with the run, or None if it is too large and has no header.

        Raises:
            BadRequest: the request is too large, and its header demands recovery.
        """
        assert served.graph is not None
        kept = {
            **{name: body.get(name) for name in ("input", "types", "kwargs")},
            "config": call.config,
            "user": _packed_user(call.user),
            "configs": call.configs,
            "on_disconnect": on_disconnect,
            "seen_by": self._checkpoints.visible_to(served.graph),
        }
        if not _is_json([kept["configs"], kept["user"]]):
            if said is not None:
                raise BadRequest(f"{HEADER}: the caller's claims or the chain's config hold values that JSON lacks")
            logger.warning("claims or a config that JSON cannot hold: the run is not recovered")
            return None
        packed = to_line(kept)
        if len(packed) <= MAX_REQUEST:
            return packed
        if said is not None:
            raise BadRequest(f"{HEADER}: the request has more than {MAX_REQUEST} bytes")
        logger.info("a request of %d bytes is not kept: its run is not recovered", len(packed))
        return None

    async def attempt(self, record: RunRecord, store: RunStore, settings: Settings) -> Attempt | None:
        """Return another attempt at a lost run, or None if there cannot be one.

        There cannot be one if the chain is unknown here or has changed, if its checkpoints are in another place, or if
        blocks of the run are missing.
        """
        served = self._chains.get(record.chain)
        stored = [block async for block in blocks_of(store, record)]
        if served is None or served.graph is None or record.request is None or len(stored) < record.last_id:
            return None
        try:
            kept = parse(record.request)
            if kept["seen_by"] not in ("", self._checkpoints.visible_to(served.graph)):
                return None
            call, events = _continued(served, served.graph, record, kept, store)
        except BaseException as error:  # another version of the chain may not accept the request
            if is_cancellation(error):
                raise
            logger.warning("a lost run does not fit its chain any more", extra={"run_id": record.run_id}, exc_info=True)
            return None
        bounds = RunLimits.of(settings, served.served.chain.timeout)
        left = max(record.created_at + bounds.timeout - time.time(), MOMENT)
        run = Run(record, store, events, call, replace(bounds, timeout=left), stored)
        context = copy_context()
        context.run(current_call.set, call)
        return Attempt(run, context, kept["on_disconnect"])


def _packed_user(user: User | None) -> dict[str, Any] | None:
    if user is None:
        return None
    return {"permissions": user.permissions, "claims": user.claims, "is_authenticated": user.is_authenticated}


def _is_json(value: Any) -> bool:
    # The form of other values, such as callbacks, would not be theirs in the next attempt.
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _continued(
    served: ServedRunnable, graph: Graph, record: RunRecord, kept: dict[str, Any], store: RunStore
) -> tuple[Call, Events]:
    decode_input_types(kept, "input")
    kwargs = read_arguments(read_kwargs(kept, NAMES), served.served.chain, graph)
    call = Call(
        run_id=record.run_id,
        chain=record.chain,
        expose_errors=served.served.chain.expose_errors,
        serializer=served.served.chain.serializer,
        principal=record.principal,
        user=User(record.principal, **(kept.get("user") or {})),
        kwargs={**kwargs, "durability": "sync"},
        config=kept["config"],
        configs=kept["configs"],
        lock=thread_lock.of_run(store, record, served.served.chain.multitask_strategy),
        recover=True,
    )
    return call, _events(served, input_of(served, kept["input"]), call)


async def _events(served: ServedRunnable, value: Any, call: Call) -> Events:
    async for chunk in served.continued(value, cast(RunnableConfig, call.config)):
        yield {"event": "data", "data": typed_line(chunk)}
    yield {"event": "end"}
