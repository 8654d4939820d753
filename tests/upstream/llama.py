"""Fixtures of llama.cpp's real OpenAI-compatible server on loopback, one for each kind of answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamserve.models.gguf import wait_until_ready

from .sayer import CHATML, REASONING, TOOLS, make_gguf

TEXT = "Tokens arrive one by one, and every one of them arrives."
REASONED = "<think>\nShort is kind.\n</think>\n\nForty-two."
TOOL_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 20, "b": 22}}\n</tool_call>'


@dataclass(frozen=True)
class Upstream:
    """A running model server.

    Args:
        base_url: value for OPENAI_BASE_URL.
        path: GGUF file of its model.
    """

    base_url: str
    path: Path


@contextmanager
def llama_server(path: Path) -> Iterator[Upstream]:
    """Serve a GGUF file on a free loopback port until the block ends."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.verbosity = -1
    params.ui = False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    wait_until_ready(server.listening_address)
    try:
        yield Upstream(f"{server.listening_address}/v1", path)
    finally:
        # Alive in the traceback of a failed test, it would block the interpreter's exit.
        del server


def _serving(folder: Path, text: str, template: str, context: int = 4096) -> Iterator[Upstream]:
    with llama_server(make_gguf(folder / "sayer.gguf", text, template=template, context=context)) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def llama_text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Serve a model that answers everything with TEXT."""
    yield from _serving(tmp_path_factory.mktemp("text"), TEXT, CHATML)


@pytest.fixture(scope="session")
def llama_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Serve a model that calls the tool `add` with a=20 and b=22."""
    yield from _serving(tmp_path_factory.mktemp("tools"), TOOL_CALL, TOOLS)


@pytest.fixture(scope="session")
def llama_reasoning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Serve a model that thinks "Short is kind." and answers "Forty-two."."""
    yield from _serving(tmp_path_factory.mktemp("reasoning"), REASONED, REASONING)


@pytest.fixture(scope="session")
def llama_small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Serve a model with a context of 256 tokens."""
    yield from _serving(tmp_path_factory.mktemp("small"), TEXT, CHATML, context=256)
