"""The server imports, and streams the same, when private names of its dependencies are gone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from prometheus_client import CollectorRegistry, Histogram

import streamserve
from streamserve import fast_paths
from streamserve.events.messages import MessageEvents
from streamserve.lcel.fast_chain import fast, pieces
from streamserve.lcel.recorder import comparable
from streamserve.private_names import find, langchain_core
from streamserve.private_names.langchain_core import WATCHED
from streamserve.private_names.langchain_openai import is_plain_completion
from streamserve.private_names.prometheus_client import observe_many
from tests.observed import chunks_of
from tests.streamed_chains import CASES, TOPIC, Case

PACKAGE = Path(streamserve.__file__).parent
DEPENDENCIES = (
    "fastapi",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "langserve",
    "openai",
    "prometheus_client",
    "pydantic",
    "redis",
    "starlette",
    "uvicorn",
)
PUBLIC = {"_replace"}  # of named tuples
RENAMED: dict[str, list[str]] = {
    # All but `_astream` and `_agenerate`, which are how a model is written.
    "langchain_core": sorted(
        {name.rpartition(".")[2].rpartition(":")[2] for names in WATCHED.values() for name in names}
        - {"_agenerate", "_astream", "astream", "atransform", "ainvoke", "parse", "get_name", "parse_result", "__add__"}
        - {"ensure_config", "patch_config", "merge_configs"}
        | {"achunks_to_events", "message_to_events", "suppress_langchain_beta_warning", "_ChatModelBinding"}
    ),
    "fastapi": ["iter_route_contexts"],
    "langchain_openai": ["_default_params", "_use_responses_api"],
    "langgraph": ["_messages_delta_reducer", "DEFAULT_RECURSION_LIMIT"],
    "openai": ["_decoder", "_iterator"],
    "uvicorn": ["HttpToolsProtocol"],
}
TEXT = ["Cats", " ", "purr", ".", ""]
LIMIT = 100  # seconds


@pytest.fixture
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fast_paths, "_noted", {})
    pieces.cache_clear()
    yield
    pieces.cache_clear()


@pytest.mark.parametrize("package", RENAMED)
def test_it_imports_and_streams_without_the_names(package: str) -> None:
    command = [sys.executable, "-m", "tests.private_names.renamed", package, *RENAMED[package]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    on, *shown = done.stdout.splitlines()
    chains = [str(TEXT)] * (2 if package == "langchain_core" else 3)
    assert shown == [*chains, "Cats", "Cats"]
    assert on == str([] if package == "langchain_core" else sorted(WATCHED))


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("name", sorted({name for names in WATCHED.values() for name in names}))
async def test_without_a_name_its_pieces_are_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(module: str, attribute: str) -> Any:
        return None if f"{module}:{attribute}" == name else find(module, attribute)

    monkeypatch.setattr(langchain_core, "find", found)
    assert pieces() == {piece for piece, names in WATCHED.items() if name not in names}
    for case in (CASES["text"], CASES["arguments bound to a sequence"]):
        assert await _streamed(case) == comparable(await chunks_of(case.make(), TOPIC))


async def _streamed(case: Case) -> list[str]:
    return comparable(await chunks_of(fast(case.make()), TOPIC))


def test_a_name_that_is_gone_is_none() -> None:
    assert find("langchain_core._gone", "name") is None
    assert find("langchain_core.runnables", "Runnable._gone.deeper") is None
    assert find("langchain_core.messages", "HumanMessage") is HumanMessage


@pytest.mark.parametrize("name", ["achunks_to_events", "message_to_events"])
def test_without_the_bridge_events_are_not_implemented(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"langchain_core.language_models._compat_bridge.{name}")
    with pytest.raises(NotImplementedError, match="version of langchain-core"):
        MessageEvents(lambda *_: None)


def test_without_langchains_context_the_warning_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(langchain_core.without_beta_warning(), nullcontext)
    monkeypatch.setattr(langchain_core, "find", lambda *_: None)
    assert isinstance(langchain_core.without_beta_warning(), nullcontext)


@pytest.mark.parametrize("name", RENAMED["langchain_openai"])
def test_an_unknown_call_of_chat_openai_is_not_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ChatOpenAI(model="gpt-4.1", api_key="-")  # type: ignore[arg-type]
    assert is_plain_completion(model, {})
    monkeypatch.setattr(ChatOpenAI, name, None)
    assert not is_plain_completion(model, {})


def test_without_private_names_a_histogram_counts_the_same() -> None:
    known = Histogram("h", "", buckets=(1.0, 2.0), registry=(registry := CollectorRegistry()))
    observe_many(cast(Any, SimpleNamespace(observe=known.observe)), (1.0, 2.0), [3, 1, 2], 12.0)
    found = [registry.get_sample_value("h_bucket", {"le": bound}) for bound in ("1.0", "2.0", "+Inf")]
    assert (found, registry.get_sample_value("h_sum")) == ([3, 4, 6], pytest.approx(3 + 2 + 4.0))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def _private_uses(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(DEPENDENCIES):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{path.name}: import {name}" for name in names if _is_private(name))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and not _is_own(node.value):
            yield f"{path.name}: {node.attr}"


def _is_own(owner: ast.expr) -> bool:
    return isinstance(owner, ast.Call) or (isinstance(owner, ast.Name) and owner.id in ("self", "cls"))


@pytest.mark.parametrize(
    "room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "private_names")
)
def test_no_other_room_uses_a_private_name(room: str) -> None:
    assert not [use for path in (PACKAGE / room).rglob("*.py") for use in _private_uses(path)]
