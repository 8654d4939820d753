"""Mutants: change one place of a module at a time, run the tests of its room, and name the changes that none sees."""

import argparse
import ast
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
SERVER, SDK = "src/streamserve", "sdk/python/src/streamserve_sdk"
STORES = ["tests/conformance/test_stores.py", "tests/conformance/test_retention.py"]
CLIENT = "sdk/python/tests/transport"
# The tests of each room; the longest name that a module begins with counts.
TESTS = {
    f"{SERVER}/auth": ["tests/auth"],
    f"{SERVER}/runs": ["tests/runs"],
    f"{SERVER}/stores": ["tests/stores", *STORES],
    **{
        f"{SERVER}/stores/{name}.py": [f"tests/stores/test_{name}.py"]
        for name in ("base", "pragmas", "private_file", "tails", "urls")
    },
    f"{SERVER}/stores/memory.py": ["tests/stores/test_memory.py", *STORES, "-k", "memory"],
    f"{SERVER}/stores/redis": ["tests/stores", *STORES, "-k", "redis and not cluster"],
    f"{SERVER}/stores/redis/client.py": ["tests/stores", "-k", "redis"],
    f"{SERVER}/stores/sqlite": ["tests/stores", *STORES, "-k", "sqlite"],
    f"{SDK}/transport": [CLIENT],
    **{f"{SDK}/transport/{name}.py": [CLIENT, "sdk/python/tests/test_processes.py"] for name in ("clients", "http")},
    **{f"{SDK}/transport/{name}.py": [CLIENT, "tests/faults/test_held_back.py"] for name in ("opening", "polling")},
}
MODULES = [f"{SERVER}/runs", f"{SERVER}/stores", f"{SERVER}/auth", f"{SDK}/transport"]
OPTIONS = (
    "-x -q --tb=no -p no:cacheprovider -p no:xdist -o timeout=60 --hypothesis-profile=mutants"
    " -W ignore::pytest.PytestAssertRewriteWarning"
)
# The examples of the tests, without the minutes that Hypothesis takes to find a smaller one.
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
# Loaded once: each run of the tests begins as a fork of this process.
PRELOADED = [
    *("fastapi", "langchain_openai", "langgraph.prebuilt", "langserve", "redis.asyncio", "uvicorn"),
    *("anyio._backends._asyncio", "gguf", "hypothesis.stateful", "pydantic_settings"),
]
PAIRS: list[tuple[type[Any], type[Any]]] = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.Add, ast.Sub), (ast.Mult, ast.Div)),
]
SWAPS = {old: new for pair in PAIRS for old, new in (pair, pair[::-1])}
EFFECTS = ast.AugAssign | ast.Raise | ast.Break | ast.Continue | ast.Delete


class Mutant(NamedTuple):
    """A version of a module with one change."""

    line: int
    before: str
    after: str
    source: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield all mutants of a module's functions."""
    tree = ast.parse(source)
    for siblings, place, node in _places(tree, inside=False):
        for new in _changes(node):
            siblings[place] = new
            before, after = (ast.unparse(each).partition("\n")[0] for each in (node, new))
            yield Mutant(node.lineno, before, after, ast.unparse(ast.fix_missing_locations(tree)))
        siblings[place] = node


def _places(node: ast.AST, *, inside: bool) -> Iterator[tuple[Any, Any, Any]]:
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(value, ast.arguments):
            continue
        siblings, places = (value, range(len(value))) if isinstance(value, list) else (vars(node), [name])
        for place in places:
            child = siblings[place]
            # A log line is no behaviour.
            if not isinstance(child, ast.AST) or (isinstance(child, ast.Expr) and "logger." in ast.unparse(child)):
                continue
            if inside and isinstance(child, ast.stmt | ast.expr):
                yield siblings, place, child
            yield from _places(child, inside=inside)


def _changes(node: ast.stmt | ast.expr) -> Iterator[ast.AST]:
    return _statements(node) if isinstance(node, ast.stmt) else _expressions(node)


def _expressions(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            yield ast.Compare(node.left, [SWAPS[type(op)]()], node.comparators)
        case ast.BinOp(op=op) if type(op) in SWAPS:
            yield ast.BinOp(node.left, SWAPS[type(op)](), node.right)
        case ast.BoolOp(values=[*values]):
            yield from (ast.BoolOp(node.op, [*values[:at], *values[at + 1 :]]) for at in range(len(values)))
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(number + 1)
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            yield ast.Call(ast.Name("max" if name == "min" else "min"), node.args, node.keywords)


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        # None in place of False changes nothing for a caller that asks for the truth; `return True` is a mutant, too.
        case ast.Return(value=ast.expr()) if ast.unparse(node) not in ("return None", "return False"):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call()):
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case _ if isinstance(node, EFFECTS):
            yield ast.Pass()


def run(copy: Path, tests: list[str], limit: float) -> str:
    """Run tests in a copy of the repository; return "passed", the first failure, or "timeout"."""
    log = copy / "log"
    if not (pid := os.fork()):
        try:
            _enter(copy, log)
            os._exit(pytest.main([*OPTIONS.split(), *tests]))
        finally:  # never back into the parent's code
            os._exit(70)
    end = time.monotonic() + limit
    while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the servers that the tests left, too
    if not done[0]:
        os.waitpid(pid, 0)
        return "timeout"
    failures = (line for line in log.read_text(errors="replace").splitlines() if line.startswith(("FAILED", "ERROR")))
    return "passed" if done[1] == 0 else next(failures, f"status {done[1]}")


def _enter(copy: Path, log: Path) -> None:
    os.setsid()
    os.chdir(copy)
    output = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sources = [str(copy / "src"), str(copy / "sdk/python/src"), str(copy)]
    sys.path[:0] = sources
    os.environ["PYTHONPATH"] = os.pathsep.join(sources)
    os.environ["TMPDIR"] = tempfile.tempdir = str(copy)


def campaign(modules: list[str], copy: Path, options: argparse.Namespace) -> Counter[str]:
    """Test a sample of each module's mutants; print each of them, and return how many were killed and survived."""
    total, limits, version = Counter[str](), dict[str, float](), 1_000_000_000
    for module in modules:
        path, counts = copy / module, Counter[str]()
        original = path.read_text()
        mutants = list(mutants_of(original))
        tests = options.tests.split() or TESTS[max((name for name in TESTS if module.startswith(name)), key=len)]
        if (room := " ".join(tests)) not in limits:
            began = time.monotonic()
            if (outcome := run(copy, tests, 3600)) != "passed":
                sys.exit(f"{room}: without a mutant: {outcome}")
            limits[room] = 3 * (time.monotonic() - began) + 30
        own = sorted(map(str, (ROOT / tests[0]).glob(f"test_*{path.name}")))
        for mutant in random.Random(options.seed).sample(mutants, min(options.sample or 9999, len(mutants))):
            path.write_text(mutant.source)
            version += 1
            os.utime(path, (version, version))  # no stale bytecode runs
            outcome = run(copy, [*own, *tests], limits[room])
            verdict = "survived" if outcome == "passed" else "killed"
            counts[verdict] += 1
            print(f"{verdict:8} {module}:{mutant.line}: {mutant.before} -> {mutant.after} [{outcome}]", flush=True)
        path.write_text(original)
        print(f"{module}: {counts['killed']} of {counts.total()} killed, of {len(mutants)} mutants", flush=True)
        total += counts
    return total


def main() -> None:
    """Run the campaign that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help="modules or folders (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=5, help="mutants per module; 0: all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another number takes another sample")
    parser.add_argument("--tests", default="", help="arguments for pytest in place of the tests of the room")
    options = parser.parse_args()
    files = [file for name in options.modules for file in (sorted((ROOT / name).rglob("*.py")) or [ROOT / name])]
    for name in PRELOADED:
        import_module(name)
    gc.freeze()  # else each run's collections go through all of that again
    with tempfile.TemporaryDirectory() as folder:
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=-1, check=True)
        for name in listed.stdout.decode().split():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, Path(folder) / name)
        counts = campaign([str(file.relative_to(ROOT)) for file in files], Path(folder), options)
    print(f"{counts['killed']} of {counts.total()} mutants killed: {100 * counts['killed'] / counts.total():.0f} %")


if __name__ == "__main__":
    main()
