"""Run simulated worlds: `python -m tests.simulation`; see docs/simulation.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product
from multiprocessing import get_context

from tests.simulation.campaign import KINDS, VISITS, Case, at_every_place, by_seed, fault_of, places, prepare
from tests.simulation.scenarios import SCENARIOS

# Worlds that one process runs: what killed workers leave is kept until it ends, and each new process warms up.
PER_PROCESS = 300
# Worlds after which a line tells how far the campaign is.
PROGRESS = 3000


def run_some(cases: tuple[Case, ...]) -> list[tuple[Case, str]]:
    """Run cases; return those in which something does not hold."""
    return [(case, fault) for case in cases if (fault := fault_of(case)) is not None]


def main() -> int:
    """Run the worlds that the command line asks for; return 1 if something does not hold in one."""
    arguments = _arguments()
    if arguments.replay:
        return _replay(Case.parse(arguments.replay))
    began = time.perf_counter()
    warnings.simplefilter("ignore", DeprecationWarning)  # LangChain's, of the endpoint stream_log
    kinds = arguments.stores.split(",")
    prepare(kinds)
    context = get_context("fork")
    cases: Iterable[Case] = by_seed(range(arguments.first, arguments.first + arguments.seeds), kinds)
    if arguments.places:
        pairs = list(product([arguments.scenario] if arguments.scenario else SCENARIOS, kinds))
        with context.Pool(arguments.jobs) as pool:
            counts = pool.starmap(places, pairs)
        visits = range(*map(int, arguments.visits.split("-"))) if arguments.visits else VISITS
        at_places = [
            case for pair, found in zip(pairs, counts, strict=True) for case in at_every_place(*pair, found, visits)
        ]
        faults = Counter(case.fault for case in at_places)
        print(
            f"{sum(map(len, counts))} places of {len(pairs)} scenarios, {len(at_places)} worlds: {dict(faults)}",
            flush=True,
        )
        cases = chain(at_places, cases)
    worlds, found = 0, []
    with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for size, faults in pool.imap_unordered(_counted, _batches(cases)):
            if (worlds + size) // PROGRESS > worlds // PROGRESS:
                print(f"{worlds + size} worlds, {len(found)} with a fault", flush=True)
            worlds += size
            for case, fault in faults:
                found.append(fault)
                print(f"{case}: {fault}", flush=True)
    print(f"{worlds} worlds in {time.perf_counter() - began:.0f} s, {len(found)} with a fault")
    for kind, count in Counter(fault.partition(":")[0] for fault in found).most_common():
        print(f"  {count} {kind}")
    return 1 if found else 0


def _batches(cases: Iterable[Case]) -> Iterator[tuple[Case, ...]]:
    left = iter(cases)
    while batch := tuple(islice(left, PER_PROCESS)):
        yield batch


def _counted(cases: tuple[Case, ...]) -> tuple[int, list[tuple[Case, str]]]:
    return len(cases), run_some(cases)


def _replay(case: Case) -> int:
    prepare([case.kind], case.scenario.split("+"))
    world = case.world()
    try:
        world.run(case.acts)
    finally:
        print("\n".join([*world.trace, *world.logged, *world.loop.errors]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--places", action="store_true", help="disturb every scenario at every place, too")
    parser.add_argument("--scenario", default="", help="only this scenario at every place")
    parser.add_argument("--visits", default="", help="only the visits FROM-TO of each process to a line, from 0")
    parser.add_argument("--stores", default=",".join(KINDS), help="kinds of stores, separated by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--replay", default="", help="run one world and print its trace")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
