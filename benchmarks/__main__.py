"""The command `python -m benchmarks [NAME ...]`, which runs the benchmarks named, or all."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    cpu,
    fast_paths,
    first_token,
    hostile,
    instructions,
    memory,
    paced,
    request,
    sdk,
    startup,
    stores,
    table,
    upstream,
    waits,
)
from benchmarks.against import compare
from benchmarks.load import client
from benchmarks.plan import ROUNDS, Plan
from benchmarks.results import ELSEWHERE
from benchmarks.servers.fleet import fleet

# Benchmarks side by side with LangServe and the bare path.
COMPARED: dict[str, Callable[[Plan], None]] = {
    "hot": cpu.hot,
    "saturated": cpu.saturated,
    "graph": cpu.graph,
    "openai": cpu.openai,
    "paced": paced.main,
    "paced_openai": paced.openai,
    "latency": waits.latency,
    "request": request.main,
    "stall": waits.stall,
    "emitted": waits.emitted,
    "sdk": sdk.main,
    "startup": startup.main,
    "table": table.main,
}
ALONE: dict[str, Callable[[Plan], None]] = {
    "fast_paths": fast_paths.main,
    "first_token": first_token.main,
    "hostile": hostile.main,
    "instructions": instructions.main,
    "memory": memory.main,
    "stores": stores.main,
    "upstream": upstream.main,
}


def main() -> None:
    """Run the benchmarks that the command line names."""
    known = [*COMPARED, *ALONE]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks named, or all.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="a few tokens each, only to show that they work")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that each is measured [%(default)s]")
    parser.add_argument("--first", type=int, default=0, help="number of the first round [%(default)s]")
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout to compare with, taking turns")
    arguments = parser.parse_args()
    names = arguments.names or (COMPARED if arguments.quick else known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    if arguments.against:
        flags = ["--quick"] if arguments.quick else []
        compare(list(names), arguments.against.resolve(), arguments.rounds, flags)
        return
    if arguments.quick:
        os.environ.setdefault(ELSEWHERE, "")  # figures of so few tokens mean nothing
    rounds = 1 if arguments.quick else arguments.rounds
    with fleet() as servers, client() as load:
        plan = Plan(servers, load, arguments.quick, rounds, arguments.first)
        for name in names:
            (COMPARED | ALONE)[name](plan)


if __name__ == "__main__":
    main()
