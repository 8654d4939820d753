"""A server with a Redis store that ends itself by SIGKILL at a certain moment of a run."""

from __future__ import annotations

import os
import signal
from typing import Any

from streamserve.stores import RunStore
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.scripts import APPEND, CLAIM, CREATE, Script

# Variable of the environment: the phase.
DIES = "FAULTS_DIE_AT"
# Blocks that are stored by then, where it dies between the first block and the last.
STORED = 50
PHASES = (
    "before the row",
    "after the row, before its key",
    "after the key, before the answer",
    "before the first block",
    "before a batch",
    "after a batch, before its reply",
    "before the terminal append",
    "after the terminal append, before its reply",
    "when told to cancel",
)


def die_at(phase: str, store: RunStore) -> None:
    """Makes this process die there.

    Args:
        phase: one of PHASES.
        store: not opened yet.
    """
    assert phase in PHASES
    assert isinstance(store, RedisStore)
    if phase == "when told to cancel":
        store.on_cancel = lambda _run_id: _die()
        return
    run = store._client.run

    async def run_or_die(script: Script, keys: Any, *args: Any) -> Any:
        moment = _moment(script, args)
        if phase in {f"before {name}" for name in moment}:
            _die()
        answer = await run(script, keys, *args)
        if any(phase.startswith(f"after {name}") for name in moment):
            _die()
        return answer

    store._client.run = run_or_die  # type: ignore[method-assign]


def _moment(script: Script, args: Any) -> list[str]:
    if script is CREATE:
        return ["the row"]
    if script is CLAIM:
        return ["the key"]
    if script is not APPEND:
        return []
    first, status = args[1], args[3]
    if status:
        return ["the terminal append"]
    return ["the first block"] if first == 1 else ["a batch"] if first > STORED else []


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
