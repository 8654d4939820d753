"""LangGraph's own development server runs the graphs of langgraph.json and our routes, in one process."""

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from streamserve_sdk import RemoteRunnable

from deploy.services import free_port

ROOT = Path(__file__).parents[1]
STARTS_WITHIN = 60  # seconds: it imports two frameworks, on a busy machine too
STOPS_WITHIN = 15
ANSWERS_WITHIN = 30
ENVIRONMENT = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "STREAMSERVE_MODEL": "offline",
    "STREAMSERVE_OFFLINE_PACE": "0",
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


# A team's own auth: LangGraph's server calls it for every request, and the guard passes its user to our routes.
AUTH = """
from langgraph_sdk import Auth

auth = Auth()
KEYS = {"key-of-ann": "ann", "key-of-bob": "bob"}


@auth.authenticate
async def authenticate(headers):
    name = KEYS.get(headers.get(b"x-api-key", b"").decode())
    if name is None:
        raise Auth.exceptions.HTTPException(status_code=401, detail="No such key")
    return name
"""
GUARDED_SERVER = """
from fastapi import Request

from streamserve.app import create_app
from streamserve.catalog.registry import discover


def principal(request: Request) -> None:
    request.state.principal = request.user.identity


app = create_app(discover("chains"), guard=principal)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with development_server(application_in(tmp_path_factory.mktemp("application"))) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    """Run the same application with custom auth for LangGraph's routes and ours."""
    folder = application_in(tmp_path)
    (folder / "auth.py").write_text(AUTH)
    (folder / "server.py").write_text(GUARDED_SERVER)
    config = json.loads((folder / "langgraph.json").read_text())
    config["auth"] = {"path": "auth:auth"}
    config["http"]["enable_custom_route_auth"] = True
    (folder / "langgraph.json").write_text(json.dumps(config))
    async with development_server(folder) as address:
        yield address


def application_in(folder: Path) -> Path:
    for name in ("langgraph.json", "server.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("chains", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest_asyncio.fixture(loop_scope="module")
async def client(url: str) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=url, api_key=None) as client:
        yield client


@asynccontextmanager
async def development_server(folder: Path) -> AsyncIterator[str]:
    port = free_port()
    flags = ["--no-browser", "--no-reload", "--n-jobs-per-worker", "50", "--host", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "langgraph_cli", "dev", *flags),
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    log: list[bytes] = []
    ready = asyncio.Event()
    reading = asyncio.create_task(_follow(process, log, ready, port))
    try:
        async with asyncio.timeout(STARTS_WITHIN):
            await ready.wait()
        assert process.returncode is None, b"".join(log).decode()
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)
        await reading


async def _follow(process: Process, log: list[bytes], ready: asyncio.Event, port: int) -> None:
    """Read the log, so that the pipe never fills, and try the server after each line."""
    assert process.stdout
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        async for line in process.stdout:
            log.append(line)
            if not ready.is_set() and await _answers(http):
                ready.set()
    await process.wait()
    ready.set()


async def _answers(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/ok")).is_success
    return False


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOPS_WITHIN):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_the_server_of_langgraph_serves_every_graph(client: LangGraphClient) -> None:
    declared = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    assistants = await client.assistants.search()
    assert {assistant["graph_id"] for assistant in assistants} == set(declared)


async def test_the_client_of_langgraph_streams_the_tokens(client: LangGraphClient) -> None:
    question = {"messages": [{"role": "user", "content": "What is 17 * 24?"}]}
    parts = [
        part async for part in client.runs.stream(None, "research_agent", input=question, stream_mode="messages-tuple")
    ]
    messages = [part.data[0] for part in parts if part.event == "messages"]
    tokens = [message["content"] for message in messages if message["type"] == "AIMessageChunk"]
    assert [part for part in parts if part.event == "error"] == []
    assert len(tokens) > 5
    assert "408" in "".join(tokens)


async def test_a_story_stops_for_a_choice_and_resumes_in_its_thread(client: LangGraphClient) -> None:
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "story", input={"premise": "a lighthouse"})
    (stop,) = (await client.threads.get_state(thread))["interrupts"]
    assert stop["value"]["choices"]
    state = await client.runs.wait(thread, "story", command={"resume": "1"})
    assert state["chosen"] == stop["value"]["choices"][:1]
    assert len(state["messages"]) == 2


async def test_remote_runnable_streams_a_chain_from_the_same_process(url: str) -> None:
    async with asyncio.timeout(ANSWERS_WITHIN), RemoteRunnable[dict[str, str], str](f"{url}/joke") as joke:
        chunks = [chunk async for chunk in joke.astream({"topic": "llamas"})]
    assert len(chunks) > 5
    assert "llamas" in "".join(chunks)


async def test_custom_auth_guards_its_routes_and_ours(guarded: str) -> None:
    async with asyncio.timeout(2 * ANSWERS_WITHIN), httpx.AsyncClient(base_url=guarded, trust_env=False) as http:
        joke, story = {"input": {"topic": "llamas"}}, {"input": {"premise": "a lighthouse"}}
        for path, body in (
            ("/assistants/search", {}),
            ("/joke/invoke", joke),
            ("/joke/stream", joke),
            ("/joke/batch", {"inputs": [joke["input"]]}),
            ("/story/invoke", story),
        ):
            for key, status in ((None, 401), ("no such key", 401), ("key-of-ann", 200)):
                answer = await http.post(path, json=body, headers={"X-Api-Key": key} if key else {})
                assert answer.status_code == status, (path, key, answer.text)
        assert (await http.get("/joke/playground/")).status_code == 401
        async with get_client(url=guarded, api_key="key-of-ann") as client:
            assert await client.assistants.search()
        started = await http.post("/joke/runs", json=joke, headers={"X-Api-Key": "key-of-ann"})
        stream = f"/runs/{started.headers['Run-Id']}/stream"
        owners = {"key-of-ann": 200, "key-of-bob": 404, "no such key": 401}
        assert {key: (await http.get(stream, headers={"X-Api-Key": key})).status_code for key in owners} == owners
