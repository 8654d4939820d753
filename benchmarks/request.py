"""Time of a request up to its first token without a socket, by package: the server's part of that wait."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import pstats
import statistics
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from pathlib import PurePath
from typing import Any

import uvicorn

from benchmarks.plan import Plan, ratio
from benchmarks.results import Figure, report
from benchmarks.servers.applications import application
from benchmarks.servers.fleet import OURS, core
from benchmarks.servers.memory import ROOT
from benchmarks.workload import Order, body_of

VARIANTS = ("stock", "memory")
BODY = json.dumps(body_of("text", Order(3, "hot"))).encode()
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/text/stream",
    "raw_path": b"/text/stream",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
    "headers": [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
    ],
}
# Packages below this share are shown as one.
SMALL = 0.02
# Folders of packages.
FOLDERS = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), ROOT / "src", ROOT)
Function = tuple[str, int, str]  # as pstats has it: file, line, name


def main(plan: Plan) -> None:
    """Measure a request up to its first token in process, and the share of each package by a profile. A built-in
    function counts as its caller's."""
    requests = plan.amount(400, 5)
    rounds = [{variant: _round(variant, requests) for variant in VARIANTS} for _ in range(plan.rounds)]
    whole = {variant: [each[variant]["whole"] for each in rounds] for variant in VARIANTS}
    figures = [Figure(f"{variant}: to the first token", "us", values) for variant, values in whole.items()]
    figures.append(ratio("stock / memory", whole["stock"], whole["memory"]))
    for name, parts in _parts([each["memory"] for each in rounds]).items():
        figures.append(Figure(f"memory: of that, {name}", "us", parts))
    report("request", figures)


def _round(variant: str, requests: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.request", variant, str(requests)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))  # LangServe prints lines of its own before


def _parts(rounds: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return microseconds of each package, by round; small packages are one."""
    first = rounds[0]["parts"]
    large = sorted((name for name in first if first[name] >= SMALL * rounds[0]["whole"]), key=first.__getitem__)[::-1]
    parts = {name: [each["parts"].get(name, 0.0) for each in rounds] for name in large}
    others = [sum(each["parts"].values()) - sum(each["parts"].get(name, 0.0) for name in large) for each in rounds]
    return {**parts, "all others": others}


async def _measured(variant: str, requests: int) -> dict[str, Any]:
    app = application(variant, "memory:")
    async with app.router.lifespan_context(app):  # type: ignore[attr-defined]
        for _ in range(requests):  # warm-up
            await _first_token(app)
        whole = statistics.median([await _first_token(app) for _ in range(requests)]) * 1e6
        profile = cProfile.Profile()
        for _ in range(requests):
            await _first_token(app, profile)
    return {"whole": whole, "parts": {name: share * whole for name, share in shares(profile).items()}}


async def _first_token(app: Any, profile: cProfile.Profile | None = None) -> float:
    """Return seconds from a request to its first token, without the rest of the answer."""
    body, found = [{"type": "http.request", "body": BODY, "more_body": False}], 0.0

    async def receive() -> Any:
        return body.pop() if body else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        nonlocal found
        if not found and b"event: data" in message.get("body", b""):
            found = time.perf_counter() - began
            if profile:
                profile.disable()

    if profile:
        profile.enable()
    began = time.perf_counter()
    await app({**SCOPE, "headers": [*SCOPE["headers"]], "state": {}}, receive, send)  # type: ignore[misc]
    assert found, "an answer without a token"
    return found


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Return the share of each package in the time of a profile."""
    times: Counter[str] = Counter()
    for function, (_, _, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if function[0] != "~" or not callers:
            times[_package(function)] += own
        else:
            for caller, (_, _, of_it, _) in callers.items():
                times[_package(caller)] += of_it
    whole = sum(times.values())
    return {name: value / whole for name, value in times.items()}


def _package(function: Function) -> str:
    path = PurePath(function[0])
    for folder in FOLDERS:
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0].removesuffix(".py")
    return "Python's library"


if __name__ == "__main__":
    core(of_servers=True)
    if sys.argv[1] in OURS:
        gc.disable()  # as the command line does; the lifespan enables it
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        print(json.dumps(runner.run(_measured(sys.argv[1], int(sys.argv[2])))))
