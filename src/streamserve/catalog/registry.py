"""Discovery of an application's chains, with file, line and cause of every broken module.

A chain is a module of the package `chains` (one file, or one folder with an `__init__.py`) with a `Chain`
named `chain`, or an entry point of the group `streamserve.chains`. Names with a leading underscore are skipped.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from streamserve.catalog.chain import AnyRunnable, Chain, InvalidChain
from streamserve.errors.texts import text_of

ENTRY_POINT_GROUP = "streamserve.chains"

# First path segments of the server's own routes.
RESERVED_NAMES = frozenset(
    {"docs", "redoc", "openapi.json", "runs", "healthz", "readyz", "metrics", "static", "threads", "ok", "session"}
)


@dataclass(frozen=True, slots=True)
class RegisteredChain:
    """A chain with its name: `code_assistant.py` is `code-assistant`, served under `/code-assistant`.

    Args:
        place: the path that the chain is served under; None: its name (default).
    """

    name: str
    module: str
    file: str
    chain: Chain
    runnable: AnyRunnable
    description: str
    place: str | None = None

    @property
    def path(self) -> str:
        return f"/{self.name}" if self.place is None else self.place


@dataclass(frozen=True, slots=True)
class BrokenModule:
    """A module that cannot be served, with the place and cause of its error."""

    module: str
    file: str
    line: int | None
    cause: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.cause}"

    @classmethod
    def of(cls, module: str, error: BaseException) -> Self:
        """Return the report of a module's error, with the module's last line on the way to it."""
        file = _source_file(module)
        if isinstance(error, SyntaxError) and error.filename:
            return cls(module, error.filename, error.lineno, f"SyntaxError: {error.msg}")
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        kind, text = type(error).__name__, text_of(error)
        cause = f"{kind}: {text}" if text else kind
        return cls(module, file, own[-1].lineno if own else None, cause)


class BrokenModules(Exception):
    """At least one broken chain module; the message reports all of them."""

    def __init__(self, broken: tuple[BrokenModule, ...]) -> None:
        self.broken = broken
        lines = "\n".join(f"  {module}" for module in broken)
        super().__init__(f"{len(broken)} broken chain module(s):\n{lines}")


@dataclass(frozen=True, slots=True)
class Registry:
    """The chains by name, and the broken modules."""

    chains: dict[str, RegisteredChain] = field(default_factory=dict)
    broken: tuple[BrokenModule, ...] = ()

    def require_whole(self) -> Self:
        """Return this registry if no module is broken.

        Raises:
            BrokenModules: a module is broken; the error names all of them.
        """
        if self.broken:
            raise BrokenModules(self.broken)
        return self


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    module: str


def discover(package: str = "chains") -> Registry:
    """Import every chain module of a package and of the installed entry points.

    Args:
        package: name of an importable package; a missing package counts as empty (default "chains").

    Returns:
        The chains, sorted by name, and the broken modules. A broken module hides no chain.
    """
    chains: dict[str, RegisteredChain] = {}
    broken: list[BrokenModule] = []
    for candidate in _candidates(package):
        try:
            found = _load(candidate)
            _check_name(found, chains)
            chains[found.name] = found
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            broken.append(BrokenModule.of(candidate.module, error))
    return Registry(dict(sorted(chains.items())), tuple(broken))


def _candidates(package: str) -> Iterator[_Candidate]:
    spec = _package_spec(package)
    for info in pkgutil.iter_modules(spec.submodule_search_locations or []) if spec else ():
        if not info.name.startswith("_"):
            yield _Candidate(_name_of(info.name), f"{package}.{info.name}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        yield _Candidate(_name_of(entry.name), entry.value.partition(":")[0])


def _package_spec(package: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except ModuleNotFoundError as error:
        if error.name and f"{package}.".startswith(f"{error.name}."):
            return None  # the package or a parent of it is missing
        raise


def _name_of(module: str) -> str:
    return module.replace("_", "-")


def _load(candidate: _Candidate) -> RegisteredChain:
    module = importlib.import_module(candidate.module)
    chain = getattr(module, "chain", None)
    if not isinstance(chain, Chain):
        raise InvalidChain("declares no `chain = Chain(...)`")
    return RegisteredChain(
        name=candidate.name,
        module=candidate.module,
        file=inspect.getsourcefile(module) or module.__name__,
        chain=chain,
        runnable=chain.build(),
        description=chain.description or inspect.getdoc(module) or "",
    )


def _check_name(found: RegisteredChain, seen: dict[str, RegisteredChain]) -> None:
    if found.name in RESERVED_NAMES:
        raise InvalidChain(f"the name {found.name!r} is reserved for the server: rename the file")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", found.name):
        raise InvalidChain(f"the name {found.name!r} is not a valid path: use only letters, digits and _")
    if found.name in seen:
        raise InvalidChain(f"the name {found.name!r} is taken by {seen[found.name].file}")


def _source_file(module: str) -> str:
    loaded = sys.modules.get(module)
    spec = loaded.__spec__ if loaded else _find_spec(module)
    return spec.origin if spec and spec.origin else module


def _find_spec(module: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
