"""Instructions per token of streams in process, counted by valgrind: repeatable where times are not.

The cost of a token is the difference of two streams of different length, without the cost before the first token.
Memory addresses remain as chance: Python looks methods up in a table by address, and two methods that share a place
there cost 2 %. So each round is a process whose types lie elsewhere, and the median counts. The medians of two runs
from different folders differed by 0.02 to 0.15 %, because the allocator depends on addresses too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.runnables import Runnable

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.workload import HOT, YIELDING, Order, TokenModel, messages_chain, text_chain
from streamserve.lcel.fast_chain import fast

LENGTHS = (500, 1500)
WARM_UP = 100  # tokens before the first that count
TIMES = 3
TYPES = (0, 37, 101, 211, 307)  # made before all others: a number for each round
# valgrind writes its counts and starts again at each call of the C library's getpgrp; nothing else calls that.
COUNTING = ("valgrind", "--tool=callgrind", "--dump-before=getpgrp")
mark = os.getpgrp
CHILD = """
for number in range({round}):
    type(f"Unused{{number}}", (), {{}}).__doc__
from benchmarks.instructions import stream_all
stream_all()
"""
# The order of a set changes some loops; the size of the environment changes addresses.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANGSMITH_TRACING": "false"}
KEPT = ("PATH", "PYTHONPATH")

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


def main(plan: Plan) -> None:
    """Count the instructions per token of streams in process; without valgrind, only say so."""
    if shutil.which(COUNTING[0]) is None:
        print("\ninstructions: left out, valgrind is not installed")
        return
    with ThreadPoolExecutor(os.cpu_count()) as processes:  # other processes do not change counts
        numbers = islice(cycle(TYPES), plan.first, plan.first + plan.rounds)
        rounds = list(processes.map(_counted, numbers))
    counts = {name: [each[name] for each in rounds] for name in VARIANTS}
    figures = [Figure(name, "kinstr/token", values) for name, values in counts.items()]
    ratios = [ratio(f"{above} / {below}", counts[above], counts[below]) for above, below in RATIOS]
    report("instructions", [*figures, *ratios])


def _counted(number: int) -> dict[str, float]:
    """Count thousands of instructions per token of each variant, in a process of its own."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with TemporaryDirectory() as directory:
        command = [*COUNTING, f"--callgrind-out-file={directory}/counted", sys.executable, "-c"]
        command.append(CHILD.format(round=number))
        done = subprocess.run(command, env=kept | ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        between = _between_marks(Path(directory))
    each = TIMES * len(LENGTHS)
    per_variant = [between[at : at + each] for at in range(0, len(between), each)]
    return {name: _per_token(counts) for name, counts in zip(VARIANTS, per_variant, strict=True)}


def _between_marks(directory: Path) -> list[int]:
    """Return the instructions between two marks around a stream: every second part."""
    parts = dict(_part(file.read_text(encoding="utf-8")) for file in directory.iterdir())
    return [parts[number] for number in sorted(parts)][1::2]


def _part(written: str) -> tuple[int, int]:
    number, total = re.search(r"^part: (\d+)", written, re.M), re.search(r"^totals: (\d+)", written, re.M)
    assert number, written
    assert total, written
    return int(number[1]), int(total[1])


def _per_token(counts: Sequence[int]) -> float:
    """Return the median of the differences of long and short streams."""
    differences = (long - short for short, long in zip(counts[::2], counts[1::2], strict=True))
    return statistics.median(differences) / (LENGTHS[1] - LENGTHS[0]) / 1000


class _Listener(AsyncCallbackHandler):
    """A handler that listens, as a tracer does, and does nothing."""


def _listened(chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return chain.with_config(callbacks=[_Listener()])


def stream_all() -> None:
    """Stream every variant between marks; valgrind runs this."""
    gc.disable()  # its moments depend on imports
    asyncio.run(_stream_all())


async def _stream_all() -> None:
    for make, pace in VARIANTS.values():
        runnable = make()
        await _stream(runnable, Order(WARM_UP, pace))
        for length in LENGTHS * TIMES:
            gc.collect()
            mark()
            await _stream(runnable, Order(length, pace))
            mark()


async def _stream(runnable: Runnable[Any, Any], order: Order) -> None:
    value = str(order) if isinstance(runnable, TokenModel) else {"order": str(order)}
    seen = [None async for _ in runnable.astream(value)]
    assert len(seen) == order.count + 1, len(seen)  # the model's last chunk is empty
