"""Recovery: the runs that allow it, the requests that ask for it, and a further attempt in stock clients."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langserve import RemoteRunnable as StockRunnable
from streamserve_sdk import RemoteRunnable
from typing_extensions import TypedDict

from streamserve import Chain
from streamserve.api.access import ANONYMOUS
from streamserve.app import create_app
from streamserve.call import Call
from streamserve.catalog.chain import InvalidChain
from streamserve.runs.limits import RunLimits
from streamserve.runs.run import Run
from streamserve.serving.recovery import MAX_REQUEST
from streamserve.settings import Settings
from streamserve.stores import Fenced, RunRecord
from streamserve.stores.sqlite import SqliteStore
from streamserve.wire.blocks import data_block, end_block, metadata_block
from tests.doors.langserve.test_stock_clients import langchain_js  # noqa: F401 - a fixture
from tests.fakes import Gate, registry_of
from tests.runs.support import LIMIT, client_of, ended
from tests.servers import serving

TIMEOUT = 1000.0
RUN_ID = "6ff61ac8-1a26-4c26-9b3c-b2f8ab7d3d0c"


class State(TypedDict):
    text: str


def graph(checkpointer: Any = None) -> Any:
    step = StateGraph(State).add_node("step", lambda state: {"text": state["text"][:9]}).add_edge(START, "step")
    return step.compile(checkpointer)


def app(store: str = "memory:", checkpoints: str = "", **chains: Chain) -> FastAPI:
    return create_app(registry_of(chains), Settings(store=store, checkpoints=checkpoints, _env_file=None))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    chains = {
        "graph": Chain(runnable=graph()),
        "always": Chain(runnable=graph(), recover=True),
        "text": Chain(runnable=RunnableLambda(str), input_type=str),
    }
    with client_of(app(**chains)) as client:
        yield client


@pytest.mark.parametrize("runnable", [RunnableLambda(str), graph(False), graph(True)])
def test_only_a_graph_with_checkpoints_can_declare_recover(runnable: Any) -> None:
    with pytest.raises(InvalidChain, match="recover: only a graph with checkpoints"):
        Chain(runnable=runnable, input_type=Any, recover=True).build()


@pytest.mark.parametrize(
    ("runnable", "checkpoints"), [(graph(), "memory:"), (graph(InMemorySaver()), "sqlite:///points.sqlite")]
)
def test_recovery_needs_checkpoints_that_other_workers_see(runnable: Any, checkpoints: str) -> None:
    chain = Chain(runnable=runnable, recover=True)
    with pytest.raises(ValueError, match=r"chains/g\.py: recover: other workers do not see"):
        app("sqlite:///runs.sqlite", checkpoints, g=chain)
    assert app("memory:", "memory:", g=chain)


@pytest.mark.parametrize(
    ("path", "said", "detail"),
    [
        ("/graph/stream", "yes", "Run-Recover: true or false"),
        ("/graph/stream_log", "true", "Run-Recover: runs of /stream and /runs only"),
        ("/graph/stream_events", "true", "Run-Recover: runs of /stream and /runs only"),
        ("/graph/invoke", "true", "Run-Recover: runs of /stream and /runs only"),
        ("/text/stream", "true", "Run-Recover: only a graph with checkpoints can go on"),
    ],
)
def test_a_request_that_cannot_be_recovered_is_refused(path: str, said: str, detail: str, client: httpx.Client) -> None:
    body = {"input": "x" if path.startswith("/text") else {"text": "x"}, "version": "v2"}
    body = body if path.endswith("events") else {"input": body["input"]}
    answer = client.post(path, json=body, headers={"Run-Recover": said})
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_recover_in_the_record_holds_where_recovery_is_possible(client: httpx.Client) -> None:
    for path in ("stream", "stream_log", "invoke"):
        assert client.post(f"/always/{path}", json={"input": {"text": "x"}}).status_code == 200
    large = {"input": {"text": "x" * MAX_REQUEST}}
    assert client.post("/always/stream", json=large).status_code == 200
    refused = client.post("/always/stream", json=large, headers={"Run-Recover": "true"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


def test_recovery_refuses_checkpoints_at_exit_only(client: httpx.Client) -> None:
    body = {"input": {"text": "x"}, "kwargs": {"durability": "exit"}}
    refused = client.post("/graph/stream", json=body, headers={"Run-Recover": "true"})
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "kwargs", "durability"])
    assert client.post("/always/stream", json=body).status_code == 200


async def test_an_owner_is_fenced_before_it_stores_a_checkpoint(tmp_path: Path) -> None:
    async def events() -> Any:
        yield {"event": "end"}

    first, second = (SqliteStore(tmp_path / "runs.sqlite", lease=1.0) for _ in range(2))
    await first.open()
    await second.open()
    record, _ = await first.acquire(RunRecord(RUN_ID, "graph", "runs", "me", 0.0, request=b"{}"))
    call = Call(RUN_ID)
    Run(record, first, events(), call, RunLimits(10, 1000, 1.0, 1.0, 1.0))
    assert call.guard is not None
    await call.guard()
    await first.close()
    while not await second.take_over_lost():
        pass
    late = Call(RUN_ID)
    Run(record, second, events(), late, RunLimits(10, 1000, 1.0, 1.0, 1.0))
    assert late.guard is not None
    with pytest.raises(Fenced):
        await late.guard()
    await second.close()


class Slow:
    """A graph whose step waits for a gate."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = Gate()

    async def step(self, state: State) -> State:
        self.begun.set()
        await self.gate.await_()
        return state

    def chain(self) -> Chain:
        step = StateGraph(State).add_node("step", self.step).add_edge(START, "step")
        return Chain(runnable=step.compile(), recover=True, timeout=TIMEOUT)


async def lose_a_run(path: Path, age: float) -> None:
    """Store a run that began some seconds ago, and whose owner is dead."""
    request = {"input": {"text": "x"}, "types": None, "kwargs": None, "config": {}, "configs": [{}]}
    kept = json.dumps({**request, "on_disconnect": "continue", "seen_by": ""}).encode()
    record = RunRecord(RUN_ID, "slow", "runs", ANONYMOUS, time.time() - age, request=kept)
    store = SqliteStore(path)
    await store.open()
    await store.acquire(record)
    await store.close()


@pytest.mark.parametrize(("age", "code"), [(TIMEOUT + 1, "timeout"), (0, None)])
def test_a_recovered_run_has_the_time_that_is_left(age: float, code: str | None, tmp_path: Path) -> None:
    asyncio.run(lose_a_run(tmp_path / "runs.sqlite", age))
    slow = Slow()
    with client_of(
        app(f"sqlite:///{tmp_path}/runs.sqlite", f"sqlite:///{tmp_path}/p.sqlite", slow=slow.chain())
    ) as client:
        if code is None:
            assert slow.begun.wait(LIMIT)
            slow.gate.open()
        state = ended(client, RUN_ID)
    assert (state["status"], state.get("error", {}).get("code")) == ("error" if code else "done", code)


@pytest.fixture(scope="module")
def recovered() -> Iterator[str]:
    """Yield the URL of a chain whose runs are all cut and continue as attempt 2."""
    blocks = [
        metadata_block(1, RUN_ID),
        data_block(2, b'"one "'),
        metadata_block(3, RUN_ID, 2),
        data_block(4, b'"one "'),
        data_block(5, b'"two"'),
        end_block(6),
    ]
    made = FastAPI()

    @made.post("/chain/stream")
    async def stream() -> Response:
        headers = {"Run-Id": RUN_ID, "Location": f"/runs/{RUN_ID}/stream"}
        return Response(b"".join(blocks), media_type="text/event-stream", headers=headers)

    with serving(made) as url:
        yield f"{url}/chain"


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # raised by langserve
def test_langserves_client_skips_the_block_of_an_attempt(recovered: str, caplog: pytest.LogCaptureFixture) -> None:
    assert list(StockRunnable(recovered).stream("x")) == ["one ", "one ", "two"]
    assert [record for record in caplog.records if record.name.startswith("langserve")] == []


def test_langchain_js_skips_the_block_of_an_attempt(recovered: str, langchain_js: Path) -> None:  # noqa: F811 - the fixture
    script = """
      import { RemoteRunnable } from "@langchain/core/runnables/remote";
      const chunks = [];
      for await (const chunk of await new RemoteRunnable({ url: process.argv[1] }).stream("x")) chunks.push(chunk);
      console.log(JSON.stringify(chunks));
    """
    command = ["node", "--input-type=module", "-e", script, f"{recovered}/"]
    done = subprocess.run(command, cwd=langchain_js, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ["one ", "one ", "two"]


def test_our_client_reports_an_attempt_between_the_chunks(recovered: str, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Any] = []
    got.extend(RemoteRunnable(recovered).stream("x", on_attempt=got.append))
    assert got == ["one ", 2, "one ", "two"]
    assert "attempt 2" in caplog.text
