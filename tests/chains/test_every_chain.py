"""Every chain of the repository: its declaration, its LangServe routes and its imports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from langchain_core.runnables import Runnable
from langgraph.pregel import Pregel
from langserve import add_routes

from streamserve.catalog.registry import RegisteredChain, discover

ROOT = Path(__file__).parents[2]
REGISTRY = discover("chains").require_whole()
ENTRIES = list(REGISTRY.chains.values())
# LangServe reads the schemas of graphs by the names of LangGraph 0.
pytestmark = pytest.mark.filterwarnings("ignore:`config_schema` is deprecated")
each_chain = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app = FastAPI()
    for entry in ENTRIES:
        add_routes(app.router, entry.runnable, path=entry.path)
    return app


async def get(app: FastAPI, path: str) -> Any:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(path)
        assert response.status_code == 200, response.text
        return response.json()


def test_the_chains_are_those_of_the_design() -> None:
    names = ["approval", "chat", "code-assistant", "docs-qa", "joke", "research-agent", "story"]
    assert list(REGISTRY.chains) == names


@each_chain
def test_a_chain_has_a_description_and_an_example(entry: RegisteredChain) -> None:
    assert entry.description
    assert entry.chain.examples


async def test_openapi_describes_every_chain(app: FastAPI) -> None:
    paths = (await get(app, "/openapi.json"))["paths"]
    assert {f"{entry.path}/stream" for entry in ENTRIES} <= set(paths)


@each_chain
async def test_langserve_answers_with_the_schemas_of_a_chain(app: FastAPI, entry: RegisteredChain) -> None:
    example = entry.chain.examples[0]
    schema = await get(app, f"{entry.path}/input_schema")
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    assert set(example) <= set(schema["properties"])
    assert await get(app, f"{entry.path}/output_schema")


@each_chain
async def test_a_chain_streams_its_example_in_pieces(entry: RegisteredChain) -> None:
    chunks = [chunk async for chunk in _stream(entry.runnable, entry.chain.examples[0])]
    assert len(chunks) > 5


def _stream(runnable: Runnable[Any, Any], given: Any) -> Any:
    if not isinstance(runnable, Pregel):
        return runnable.astream(given)
    from langgraph.checkpoint.memory import InMemorySaver

    graph = runnable.copy({"checkpointer": InMemorySaver()})
    return graph.astream(given, {"configurable": {"thread_id": "1"}}, stream_mode="messages")


@each_chain
def test_importing_a_chain_loads_no_server_and_needs_no_key(entry: RegisteredChain) -> None:
    code = f"import sys, {entry.module}; print({{'langserve', 'fastapi'}} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, timeout=60
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == "set()"


def test_langgraph_json_names_the_graph_of_every_graph_chain() -> None:
    declared = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    graphs = [entry for entry in ENTRIES if isinstance(entry.runnable, Pregel)]
    assert declared == {entry.module.removeprefix("chains."): f"{entry.module}:graph" for entry in graphs}
