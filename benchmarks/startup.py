"""Cost of a start: CPU and time of imports, and of a server until its port answers.

Each measurement is a process of its own. `import nothing` is the interpreter alone, and is part of every other figure.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from deploy.services import HOST, ROOT, answers, free_port

CHAIN, MODELS = "from streamserve import Chain", "from streamserve.models import chat_model"
IMPORTS = {
    "nothing": "",
    "langserve": "import langserve",
    "streamserve": "import streamserve",
    "streamserve.Chain": CHAIN,
    "streamserve.Chain and models": f"{CHAIN}; {MODELS}",
    "streamserve.app": "import streamserve.app",
    "streamserve_sdk": "import streamserve_sdk",
}
ALL = "import langserve, streamserve.app, streamserve_sdk"
SERVERS = ("stock", "memory")
COMMAND = "`streamserve serve`"
STARTS_WITHIN = 60.0
LOOK_AGAIN = 0.005  # seconds; the time of a start is as fine as this

Cost = tuple[float, float]  # milliseconds: CPU, time


def main(plan: Plan) -> None:
    """Measure imports, two servers of one chain, and `streamserve serve` with the chains of this folder."""
    _imported(ALL)  # writes the bytecode of modules that were never imported
    rounds = [_round(plan) for _ in range(plan.rounds)]
    figures = []
    for name in rounds[0]:
        figures.append(Figure(f"{name}: CPU", "ms", [each[name][0] for each in rounds]))
        figures.append(Figure(f"{name}: time", "ms", [each[name][1] for each in rounds]))
    cpu = {name: [each[f"start {name}"][0] for each in rounds] for name in SERVERS}
    report("startup", [*figures, ratio("start memory / start stock", cpu["memory"], cpu["stock"])])


def _round(plan: Plan) -> dict[str, Cost]:
    imports = {f"import {name}": _imported(code) for name, code in IMPORTS.items()}
    return {**imports, **{f"start {name}": _started(plan, name) for name in SERVERS}, f"start {COMMAND}": _served()}


def _imported(code: str) -> Cost:
    before, began = _children(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return (_children() - before) * 1000, (time.perf_counter() - began) * 1000


def _started(plan: Plan, variant: str) -> Cost:
    with plan.fleet.fresh(variant) as server:
        return server.cpu() * 1000, server.started * 1000


def _served() -> Cost:
    port = free_port()
    command = [sys.executable, "-m", "streamserve.cli", "serve", "--host", HOST, "--port", str(port)]
    environment = os.environ | {"STREAMSERVE_MODEL": "offline"}
    before, began = _children(), time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers(f"http://{HOST}:{port}/healthz"):
            if process.poll() is not None or time.perf_counter() - began > STARTS_WITHIN:
                raise RuntimeError(f"the server did not start: {command}")
            time.sleep(LOOK_AGAIN)
        took = time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    return (_children() - before) * 1000, took * 1000


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
