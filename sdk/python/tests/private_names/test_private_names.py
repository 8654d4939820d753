"""The package imports, and does what it can, when a private name of a dependency is gone."""

import ast
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
import streamserve_sdk
from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel
from streamserve_sdk.codec.message_chunks import MessageChunks
from streamserve_sdk.private_names import httpx_aiohttp, langchain_core, langgraph, pydantic

PACKAGE = Path(streamserve_sdk.__file__).parent
# Each with all places that have it: a package may fetch a missing name from its own module again.
BETA = (
    "langchain_core._api.suppress_langchain_beta_warning",
    "langchain_core._api.beta_decorator.suppress_langchain_beta_warning",
)
MUX = ("langgraph.stream._mux.StreamMux",)
# The dependencies are whole when they import each other; then the name goes, and the package is imported anew.
WITHOUT = """
import pkgutil, sys, warnings
from importlib import import_module

def import_package():
    import streamserve_sdk
    for module in pkgutil.walk_packages(streamserve_sdk.__path__, "streamserve_sdk."):
        import_module(module.name)

warnings.simplefilter("ignore")
import_package()
for place in sys.argv[1:]:
    owner, _, name = place.rpartition(".")
    getattr(import_module(owner), name)
    delattr(import_module(owner), name)
for module in [name for name in sys.modules if name.partition(".")[0] == "streamserve_sdk"]:
    del sys.modules[module]
import_package()
"""
CHUNK = {**AIMessageChunk(content="first", id="run--1").model_dump(), "type": "AIMessageChunk"}


def is_private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("places", [BETA, MUX], ids=["langchain_core", "langgraph"])
def test_the_package_imports_without_the_name(places):
    command = [sys.executable, "-c", WITHOUT, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_no_module_imports_a_private_name():
    names = {name for path in PACKAGE.rglob("*.py") for name in imported_names(path)}
    assert not {name for name in names if is_private(name)}


def test_without_langchains_context_the_warning_is_seen(monkeypatch):
    assert not isinstance(langchain_core.without_beta_warning(), nullcontext)
    for place in BETA:
        monkeypatch.delattr(place)
    assert isinstance(langchain_core.without_beta_warning(), nullcontext)


@pytest.mark.filterwarnings("ignore:.*beta")
def test_without_langgraphs_mux_events_are_not_implemented(monkeypatch):
    assert langgraph.stream_mux().__name__ == "StreamMux"
    monkeypatch.delattr(*MUX)
    with pytest.raises(NotImplementedError, match="version of langgraph"):
        langgraph.stream_mux()


def test_without_pydantics_slots_chunks_are_validated(monkeypatch):
    class Renamed:
        pass

    assert pydantic.setters_of(BaseModel) is not None
    assert pydantic.setters_of(Renamed) is None
    monkeypatch.setattr(pydantic, "SETTERS", None)
    chunks = MessageChunks()
    for text in ("a", "b"):
        assert chunks.make(CHUNK | {"content": text}) == AIMessageChunk(**CHUNK | {"content": text})


async def test_without_aiohttps_response_a_body_is_read_whole():
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"a"
            yield b"b"

    read = httpx_aiohttp.reader(Body())
    assert [await read(), await read(), await read()] == [b"a", b"b", b""]
