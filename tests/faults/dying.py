"""Phases of a run in which a server with a Redis store kills itself with SIGKILL."""

from __future__ import annotations

import os
import signal
from typing import Any

from streamserve.stores import RunStore
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.pipeline import Append
from streamserve.stores.redis.scripts import CLAIM, CREATE, Script

# Variable of the environment: the phase.
DIES = "FAULTS_DIE_AT"
# Blocks stored before a death between the first block and the last.
STORED = 50
MOMENTS = {CREATE: "the row", CLAIM: "the key"}
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
    """Make this process die in a phase of its next run.

    Args:
        phase: one of PHASES.
        store: not opened yet.
    """
    assert phase in PHASES
    assert isinstance(store, RedisStore)
    if phase == "when told to cancel":
        store.on_cancel = lambda _run_id: _die()
        return
    run, post = store._client.run, store._appends.post

    async def run_or_die(script: Script, keys: Any, *args: Any) -> Any:
        moment = MOMENTS.get(script, "")
        _die_if(phase, "before", moment)
        answer = await run(script, keys, *args)
        _die_if(phase, "after", moment)
        return answer

    def post_or_die(append: Append) -> None:
        moment, answer = _moment(append), append.answer

        def answer_or_die(result: Any) -> None:
            _die_if(phase, "after", moment)
            answer(result)

        _die_if(phase, "before", moment)
        post(append._replace(answer=answer_or_die))

    store._client.run = run_or_die  # type: ignore[method-assign]
    store._appends.post = post_or_die  # type: ignore[method-assign]


def _moment(append: Append) -> str:
    if append.ending:
        return "the terminal append"
    return "the first block" if append.first_seq == 1 else "a batch" if append.first_seq > STORED else ""


def _die_if(phase: str, when: str, moment: str) -> None:
    if moment and phase.startswith(f"{when} {moment}"):
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
