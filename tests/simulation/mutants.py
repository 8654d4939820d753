"""Mutants of the engine in simulated worlds: a change of one place that no world of the standard set sees is a missing
invariant. `python -m tests.simulation.mutants src/streamserve/runs --sample 20`; see scripts/mutants.py.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import CodeType, FunctionType

from scripts.mutants import ROOT, SDK, SERVER, mutants_of
from tests.simulation.campaign import KINDS, Case, at_every_place, by_seed, fault_of, places, prepare
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.test_simulation import REGRESSIONS, cases_of

MODULES = [f"{SERVER}/runs", f"{SERVER}/stores", f"{SDK}/transport"]
# The stores of the worlds in which a module takes part.
STORES = {
    f"{SERVER}/stores/memory.py": ["memory"],
    f"{SERVER}/stores/sqlite": ["sqlite"],
    f"{SERVER}/stores/redis": ["redis"],
    f"{SERVER}/stores": ["sqlite", "redis"],
    "": ["memory", "sqlite"],
}
# Seconds of CPU in which a mutant's worlds end; one that goes on is seen.
LIMIT = 100
# The number of worlds with a fault at a place, for each store.
DISTURBED = 60
# The functions of a module by their names and their order among those of one name.
Codes = dict[tuple[str, int], CodeType]


def standard_set(kinds: Sequence[str], seeds: int) -> list[Case]:
    """Return the worlds in which a mutant must show: undisturbed ones, those of regressions, and some of all others."""
    calm = [Case(scenario, kind, 1, "none") for kind in kinds for scenario in SCENARIOS]
    known = [case for case in cases_of(REGRESSIONS) if case.kind in kinds]
    disturbed: list[Case] = []
    for kind in kinds:
        worlds = [case for name in SCENARIOS for case in at_every_place(name, kind, places(name, kind))]
        disturbed += random.Random(seeds).sample(worlds, DISTURBED)
    return [*calm, *known, *disturbed, *by_seed(range(seeds), kinds)]


def codes_of(source: str) -> Codes:
    """Return the code of each function of a module."""
    found: Codes = {}
    numbers = Counter[str]()
    for code in _nested(compile(source, "module", "exec")):
        found[code.co_qualname, numbers[code.co_qualname]] = code
        numbers[code.co_qualname] += 1
    return found


def _nested(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from _nested(const)


def functions_of(files: Iterable[Path]) -> dict[str, list[FunctionType]]:
    """Return all functions that there are of some modules."""
    found: dict[str, list[FunctionType]] = {str(file): [] for file in files}
    gc.unfreeze()  # else the collector names none of them
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename in found:
            found[each.__code__.co_filename].append(each)
    gc.freeze()
    return found


def put_in(functions: Iterable[FunctionType], original: str, source: str) -> None:
    """Give the functions of a module the code of another source, whose functions have the same names."""
    keys = {(key[0], code.co_firstlineno): key for key, code in codes_of(original).items()}
    codes = codes_of(source)
    for function in functions:
        code = function.__code__
        key = keys.get((code.co_qualname, code.co_firstlineno))
        with suppress(ValueError):  # a living closure over another number of names
            function.__code__ = codes.get(key, code) if key else code


def verdict(functions: Iterable[FunctionType], original: str, source: str, cases: Sequence[Case]) -> str:
    """Return the first world that sees a mutant and its fault, or the status of its process; "" if none sees it."""
    receiver, sender = os.pipe()
    if not (pid := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
            put_in(functions, original, source)
            seen = next((f"{case}: {fault}" for case in cases if (fault := fault_of(case)) is not None), "")
            os.write(sender, seen.encode()[:300])
            os._exit(0)
        finally:  # never back into the parent's code
            os._exit(70)
    os.close(sender)
    with os.fdopen(receiver, "rb") as answer:
        seen = answer.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return seen or (f"status {status}" if status else "")


def main() -> None:
    """Run the campaign that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help="modules or folders (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=60, help="number of mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another number takes another sample")
    parser.add_argument("--seeds", type=int, default=40, help="worlds by seed for each mutant (default: %(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    files = [file for name in options.modules for file in (sorted((ROOT / name).rglob("*.py")) or [ROOT / name])]
    mutants = list(chain.from_iterable(((file, each) for each in mutants_of(file.read_text())) for file in files))
    chosen = random.Random(options.seed).sample(mutants, min(options.sample, len(mutants)))
    prepare(KINDS)
    functions = functions_of(files)
    sets: dict[str, list[Case]] = {}
    counts = Counter[str]()
    for file, mutant in sorted(chosen, key=lambda each: (str(each[0]), each[1].line)):
        module, original = str(file.relative_to(ROOT)), file.read_text()
        room = max((name for name in STORES if module.startswith(name)), key=len)
        if room not in sets:
            sets[room] = standard_set(STORES[room], options.seeds)
            if fault := verdict(functions[str(file)], original, original, sets[room]):
                sys.exit(f"without a mutant: {fault}")
        seen = verdict(functions[str(file)], original, mutant.source, sets[room])
        counts["seen" if seen else "unseen"] += 1
        about = f"{module}:{mutant.line}: {mutant.before} -> {mutant.after}"
        print(f"{'seen' if seen else 'unseen':6} {about} [{seen}]", flush=True)
    print(f"{counts['seen']} of {counts.total()} mutants seen, of {len(mutants)}")


if __name__ == "__main__":
    main()
