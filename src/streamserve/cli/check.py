"""The command `streamserve check`, which compares chains, langgraph.json and OpenAPI."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langgraph.pregel import Pregel
from pydantic import BaseModel, ValidationError

from streamserve.app import create_app
from streamserve.catalog.registry import BrokenModules, RegisteredChain, Registry, discover
from streamserve.doors.langserve.playground import playground_of
from streamserve.doors.langserve.request import REQUIRED
from streamserve.serving.chains import serve_all
from streamserve.serving.served import ServedRunnable
from streamserve.settings import Settings


class _Declared(BaseModel):
    # The checked part of langgraph.json.
    graphs: dict[str, str] = {}
    http: dict[str, Any] = {}
    auth: dict[str, Any] = {}


def check(root: Path, settings: Settings) -> list[str]:
    """Return one line for each problem of an application's folder, which has langgraph.json if there are graphs."""
    registry = discover(settings.chains)
    chains, broken = serve_all(registry)
    return [
        *(f"broken: {module}" for module in broken),
        *_check_langgraph(root / "langgraph.json", registry),
        *_check_openapi(chains, settings),
    ]


def _check_langgraph(file: Path, registry: Registry) -> Iterator[str]:
    graphs = {name: entry for name, entry in registry.chains.items() if isinstance(entry.runnable, Pregel)}
    if not file.exists():
        if graphs:
            yield f"{file.name}: missing, and these chains are graphs: {', '.join(graphs)}"
        return
    try:
        declared = _Declared.model_validate_json(file.read_bytes())
    except ValidationError as error:
        yield from (f"{file.name}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return
    targets = {entry.module: entry for entry in graphs.values()}
    for name, target in declared.graphs.items():
        yield from _check_listed(name, target, targets)
    for module in targets.keys() - {target.partition(":")[0] for target in declared.graphs.values()}:
        yield f"{file.name}: the graph of {module} is not listed"
    for place, named in (("http.app", declared.http.get("app")), ("auth.path", declared.auth.get("path"))):
        if named:
            yield from _check_resolves(place, str(named))


def _check_listed(name: str, target: str, graphs: dict[str, RegisteredChain]) -> Iterator[str]:
    module, _, attribute = target.partition(":")
    if module not in graphs:
        yield f"langgraph.json: {name}: {target} is not a graph of the chains"
    elif getattr(importlib.import_module(module), attribute, None) is not graphs[module].chain.runnable:
        yield f"langgraph.json: {name}: {target} is not the graph that {module} serves"


def _check_resolves(place: str, target: str) -> Iterator[str]:
    module, _, attribute = target.partition(":")
    if "/" in module:  # LangGraph's server accepts a file, but imports it a second time under another name
        yield f"langgraph.json: {place}: {target}: name a module, not a file"
        return
    try:
        getattr(importlib.import_module(module), attribute)
    except BrokenModules:
        return  # already reported
    except (ImportError, AttributeError) as error:
        yield f"langgraph.json: {place}: {target} does not resolve: {error}"


def _check_openapi(chains: Sequence[ServedRunnable], settings: Settings) -> Iterator[str]:
    app = create_app(Registry({served.served.name: served.served for served in chains}), settings)
    paths = app.openapi()["paths"]
    for served in chains:
        entry = served.served
        off = entry.chain.not_served
        for endpoint in (*REQUIRED, "input_schema", "output_schema", "config_schema"):
            name = "stream" if endpoint == "runs" else endpoint
            if name not in off and f"{entry.path}/{endpoint}" not in paths:
                yield f"OpenAPI: {entry.path}/{endpoint} is missing"
        if playground_of(served) and not entry.chain.examples:
            yield f"{entry.file}: a playground without `examples` starts empty"
        if playground_of(served) and ("stream_log" in off or not served.shows_steps):
            yield f"{entry.file}: a playground shows only what stream_log sends"
