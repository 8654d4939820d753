"""The check at the start that each piece of `streamserve.lcel` streams as the installed langchain-core does.

Canned chains stream as declared and as rebuilt. Their chunks, runs, events, errors and cancellation are compared. A
piece that differs is off by itself. One whose original was replaced, for example by instrumentation, is off as well,
because the rebuilt chain would go around the replacement.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import langchain_core
from langchain_core.runnables import Runnable

from streamserve.fast_paths import FastPath, note
from streamserve.lcel.canned_chains import CannedChain, canned_chains
from streamserve.lcel.isolation import isolated
from streamserve.lcel.recorder import (
    SHOWN,
    AsyncTokens,
    Recorder,
    ThreadRecorder,
    comparable,
    difference,
    until_the_end,
)
from streamserve.private_names.langchain_core import WATCHED, watched

Pieces = frozenset[str]
Rebuild = Callable[[Runnable[Any, Any], Pieces], Runnable[Any, Any]]

# Measured by `python -m benchmarks fast_paths`.
SAVES = {
    "sequence": "about 50 us of CPU per token of a sequence",
    "binding": "about 30 us of CPU per token of a bound model",
    "parser": "about 200 us of CPU per token of a chain that ends with a text parser",
    "json": "a parse of the whole text so far per token of JSON",
    "tools": "a sum of all messages and a parse of all arguments so far per token of a tool call",
    "prompt": "the run of a prompt per request",
    "model": "about 30 us of CPU per token of a chat model",
    "fallbacks": "about 30 us of CPU per token of a model with fallbacks",
    "configurable": "about 15 us of CPU per token of a configurable model",
    "handlers": "about 40 us of CPU per token for each handler that is not inline",
    "call": "the runs of the steps per call of /invoke",
}
_HOME = str(Path(langchain_core.__file__).parent)
_LIMIT = 5.0  # seconds; it takes a tenth of one, and a stream that never ends must not hold the start


def passed(rebuild: Rebuild) -> Pieces:
    """Return the pieces with which chains stream as declared; the others are logged.

    Args:
        rebuild: returns a chain with the given pieces rewritten.
    """
    try:
        differences = isolated(_differences(rebuild))
    except Exception as error:  # the canned chains do not even stream as declared
        differences = dict.fromkeys(WATCHED, repr(error)[:SHOWN])
    return frozenset(
        piece for piece in WATCHED if note(FastPath(f"langchain {piece}", SAVES[piece], differences.get(piece)))
    )


async def _differences(rebuild: Rebuild) -> dict[str, str]:
    found = {piece: reason for piece in WATCHED if (reason := _replacement(piece))}
    left = frozenset(WATCHED.keys() - found.keys())
    async with asyncio.timeout(_LIMIT):
        declared = await _observations(lambda chain: chain)
    if await _difference(rebuild, left, declared) is None:
        return found
    on: Pieces = frozenset()
    for piece in sorted(left, key=list(WATCHED).index):
        if reason := await _difference(rebuild, on | {piece}, declared):
            found[piece] = reason
        else:
            on |= {piece}
    return found


def _replacement(piece: str) -> str | None:
    """Return which original of a piece is gone, or is no longer langchain-core's own."""
    for name, function in zip(WATCHED[piece], watched(piece), strict=True):
        if function is None:
            return f"{name} is gone"
        if not isinstance(function, FunctionType) or not function.__code__.co_filename.startswith(_HOME):
            return f"{name} is replaced"
    return None


Observations = dict[str, list[Any]]


async def _difference(rebuild: Rebuild, on: Pieces, declared: Observations) -> str | None:
    try:
        async with asyncio.timeout(_LIMIT):
            rebuilt = await _observations(lambda chain: rebuild(chain, on))
    except Exception as error:  # a piece that meets what it does not know may raise anything
        return repr(error)[:SHOWN]
    return next((f"{seen}: {each}" for seen in declared if (each := difference(rebuilt[seen], declared[seen]))), None)


async def _observations(make: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]) -> Observations:
    seen: Observations = {}
    for canned in canned_chains():
        chain = make(canned.chain)
        for way in canned.ways:
            shown = await asyncio.create_task(_WAYS[way](chain, canned))
            seen[f"{way} of {canned.name}"] = comparable([*shown, *canned.model.taken()])
    return seen


async def _chunks(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    stream = getattr(chain, "astream_in_own_task", chain.astream)
    return await until_the_end(stream(canned.value, {"tags": ["asked"], "metadata": {"a": 1}}))


async def _calls(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    recorder = Recorder()
    shown = await until_the_end(chain.astream(canned.value, {"callbacks": [recorder], "tags": ["asked"]}))
    return [*shown, *recorder.calls]


async def _tokens(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    recorder, after = ThreadRecorder(), AsyncTokens()
    shown = await until_the_end(chain.astream(canned.value, {"callbacks": [after, recorder], "tags": ["asked"]}))
    return [*shown, *recorder.calls, *after.calls]


async def _answer(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    try:
        return [await chain.ainvoke(canned.value, {"tags": ["asked"], "metadata": {"a": 1}})]
    except Exception as error:
        return [(type(error), str(error))]


async def _events(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    return await until_the_end(chain.astream_events(canned.value, version="v2"))


async def _cancelled(chain: Runnable[Any, Any], canned: CannedChain) -> list[Any]:
    shown: list[Any] = []

    async def read() -> None:
        async for chunk in chain.astream(canned.value):
            shown.extend([chunk])  # the chunks before the cancellation count

    task, waits = asyncio.create_task(read()), asyncio.create_task(canned.model.until_it_waits())
    await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    waits.cancel()
    await asyncio.wait({task, waits})
    return [*shown, task.cancelled()]


_WAYS = {
    "answer": _answer,
    "tokens": _tokens,
    "chunks": _chunks,
    "calls": _calls,
    "events": _events,
    "cancelled": _cancelled,
}
