"""What a start takes: CPU and time of imports, and of a server until it answers."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report

IMPORTS = {
    "nothing": "",
    "langserve": "import langserve",
    "streamserve.chain": "import streamserve.chain",
    "streamserve.app": "import streamserve.app",
    "streamserve_sdk": "import streamserve_sdk",
}
SERVERS = ("stock", "memory")


def main(plan: Plan) -> None:
    """Everything in processes of their own, in turn."""
    rounds = [{name: _imported(code) for name, code in IMPORTS.items()} for _ in range(plan.rounds)]
    figures = []
    for name in IMPORTS:
        figures.append(Figure(f"import {name}: CPU", "ms", [each[name][0] for each in rounds]))
        figures.append(Figure(f"import {name}: time", "ms", [each[name][1] for each in rounds]))
    starts = [{name: _started(plan, name) for name in SERVERS} for _ in range(plan.rounds)]
    for name in SERVERS:
        figures.append(Figure(f"start {name}: CPU", "ms", [each[name][0] for each in starts]))
        figures.append(Figure(f"start {name}: time", "ms", [each[name][1] for each in starts]))
    cpu = {name: [each[name][0] for each in starts] for name in SERVERS}
    report("startup", [*figures, ratio("start memory / start stock", cpu["memory"], cpu["stock"])])


def _imported(code: str) -> tuple[float, float]:
    before, began = _children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (_children() - before) * 1000, (time.perf_counter() - began) * 1000


def _started(plan: Plan, variant: str) -> tuple[float, float]:
    with plan.fleet.fresh(variant) as server:
        return server.cpu() * 1000, server.started * 1000


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
