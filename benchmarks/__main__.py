"""`python -m benchmarks [NAME ...]`: runs the benchmarks named, or all."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import first_token, memory, stores

BENCHMARKS: dict[str, Callable[[], None]] = {
    "first_token": first_token.main,
    "memory": memory.main,
    "stores": stores.main,
}


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Runs the benchmarks named, or all.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
