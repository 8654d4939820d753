"""`python -m benchmarks [NAME ...]`: runs the benchmarks named, or all."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from benchmarks import (
    cpu,
    first_token,
    hostile,
    instructions,
    memory,
    paced,
    request,
    sdk,
    startup,
    stores,
    upstream,
    waits,
)
from benchmarks.load import client
from benchmarks.plan import Plan
from benchmarks.results import ELSEWHERE
from benchmarks.servers import fleet

# Side by side with LangServe and the bare path.
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
}
ALONE: dict[str, Callable[[], object]] = {
    "first_token": first_token.main,
    "hostile": hostile.main,
    "instructions": instructions.main,
    "memory": memory.main,
    "stores": stores.main,
    "upstream": upstream.main,
}


def main() -> None:
    """Runs what the command line names."""
    known = [*COMPARED, *ALONE]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Runs the benchmarks named, or all.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="a few tokens each, only to show that they work")
    arguments = parser.parse_args()
    names = arguments.names or (COMPARED if arguments.quick else known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    if arguments.quick:
        os.environ.setdefault(ELSEWHERE, "")  # its figures mean nothing
    with fleet() as servers, client() as load:
        plan = Plan(servers, load, arguments.quick)
        for name in names:
            COMPARED[name](plan) if name in COMPARED else ALONE[name]()


if __name__ == "__main__":
    main()
