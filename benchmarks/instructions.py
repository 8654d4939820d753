"""Instructions per token of what runs in process, counted by valgrind: repeatable where times are not.

One process for each variant and length; the difference of two lengths leaves start-up out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import Runnable

from benchmarks.plan import ratio
from benchmarks.results import Figure, report
from benchmarks.workload import HOT, YIELDING, Order, TokenModel, messages_chain, text_chain
from streamserve.fast_chain import fast

LENGTHS = (500, 2500)
ROUNDS = 1  # rounds differ by less than 0.1 %
COUNTING = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
# The order of a set decides what some loops do.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANGSMITH_TRACING": "false"}

Made = Callable[[], Runnable[Any, Any]]

VARIANTS: dict[str, tuple[Made, str]] = {
    "model": (TokenModel, HOT),
    "stock text": (text_chain, HOT),
    "streamed text": (lambda: fast(text_chain()), HOT),
    "stock messages": (messages_chain, HOT),
    "streamed messages": (lambda: fast(messages_chain()), HOT),
    "model, yielding": (TokenModel, YIELDING),
    "streamed text, yielding": (lambda: fast(text_chain()), YIELDING),
    "stock text, listened to": (lambda: _listened(text_chain()), HOT),
    "streamed text, listened to": (lambda: fast(_listened(text_chain())), HOT),
}
RATIOS = (
    ("streamed text", "model"),
    ("stock text", "model"),
    ("streamed messages", "model"),
    ("stock messages", "model"),
    ("streamed text, yielding", "model, yielding"),
    ("stock text, listened to", "streamed text, listened to"),
)


def main() -> None:
    """Counts, prints and keeps; without valgrind it only says so."""
    if shutil.which(COUNTING[0]) is None:
        print("\ninstructions: left out, valgrind is not installed")
        return
    with ThreadPoolExecutor(os.cpu_count()) as processes:  # counts do not mind what else runs
        rounds = [dict(zip(VARIANTS, processes.map(_per_token, VARIANTS), strict=True)) for _ in range(ROUNDS)]
    counts = {name: [each[name] for each in rounds] for name in VARIANTS}
    figures = [Figure(name, "kinstr/token", values) for name, values in counts.items()]
    ratios = [ratio(f"{above} / {below}", counts[above], counts[below]) for above, below in RATIOS]
    report("instructions", [*figures, *ratios])


def _per_token(variant: str) -> float:
    short, long = (_counted(variant, length) for length in LENGTHS)
    return (long - short) / (LENGTHS[1] - LENGTHS[0]) / 1000


def _counted(variant: str, length: int) -> int:
    command = [*COUNTING, sys.executable, "-m", "benchmarks.instructions", variant, str(length)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


class _Listener(AsyncCallbackHandler):
    """Listens, as a tracer does, and does nothing."""


def _listened(chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return chain.with_config(callbacks=[_Listener()])


async def _stream(variant: str, length: int) -> None:
    make, pace = VARIANTS[variant]
    runnable, order = make(), str(Order(length, pace))
    value = order if isinstance(runnable, TokenModel) else {"order": order}
    tokens: AsyncIterator[Any] = runnable.astream(value)
    seen = [None async for _ in tokens]
    assert len(seen) == length + 1, len(seen)  # the model's last chunk is empty


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        gc.disable()  # when it runs depends on what was imported
        asyncio.run(_stream(sys.argv[1], int(sys.argv[2])))
