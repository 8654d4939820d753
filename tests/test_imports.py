"""The modules that an import loads: a client needs no server, and a chain needs no key and no network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamserve.catalog.registry import discover

SERVER = ("langserve", "fastapi", "starlette", "uvicorn", "sse_starlette")


def loaded_by(statement: str, *modules: str) -> list[str]:
    """Return those modules that a statement loads in a new interpreter without environment variables and sockets."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection while importing')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "sys.path.insert(0, '')\n"
        f"{statement}\n"
        f"print(*(module for module in {modules!r} if module in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_sdk_loads_no_server() -> None:
    assert loaded_by("from streamserve_sdk import RemoteRunnable", *SERVER, "streamserve", "langgraph") == []


def test_the_record_and_the_models_load_no_server() -> None:
    assert loaded_by("import streamserve; from streamserve.models import chat_model; chat_model()", *SERVER) == []


@pytest.mark.parametrize("module", [entry.module for entry in discover("chains").require_whole().chains.values()])
def test_a_chain_needs_no_server_no_key_and_no_network(module: str) -> None:
    assert loaded_by(f"import {module}", *SERVER) == []


def test_the_probe_finds_a_loaded_module() -> None:
    assert loaded_by("import fastapi", *SERVER) == ["fastapi", "starlette"]
