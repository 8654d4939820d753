"""After its worker is killed, a graph's run resumes in another worker from its last checkpoint."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamserve_sdk import RemoteRunnable, RetryPolicy, RunLost

from tests.faults.steps import LIMIT, RECOVER, TOKENS, WITHOUT, Workers, working
from tests.stores.servers import redis_server

# Several processes start one after another, on a busy machine.
pytestmark = pytest.mark.timeout(240)

LEASE = 1.0
WAIT = 30.0
INPUT = {"messages": [{"role": "user", "content": "go"}]}
RETRY = RetryPolicy(first=0.01, longest=0.2)
SETTINGS = {"STREAMSERVE_LEASE": str(LEASE), RECOVER: "true"}


def environment(store: str, folder: Path, stack: ExitStack) -> dict[str, str]:
    points = {"STREAMSERVE_CHECKPOINTS": f"sqlite:///{folder}/points.sqlite"}
    if store == "sqlite":
        return {**SETTINGS, **points, "STREAMSERVE_STORE": f"sqlite:///{folder}/runs.sqlite"}
    redis = stack.enter_context(redis_server())
    return {**SETTINGS, **points, "STREAMSERVE_STORE": redis.url}


@pytest.fixture(params=["sqlite", "redis"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """Two workers on one port."""
    with ExitStack() as stack:
        yield stack.enter_context(working(tmp_path, environment(request.param, tmp_path, stack)))


@pytest.fixture
def sqlite_workers(tmp_path: Path) -> Iterator[Workers]:
    """Two workers on one port, with SQLite."""
    with ExitStack() as stack, working(tmp_path, environment("sqlite", tmp_path, stack)) as workers:
        yield workers


def remote(workers: Workers, name: str = "steps") -> RemoteRunnable[Any, Any]:
    return RemoteRunnable(f"{workers.url}/{name}", retry=RETRY, keepalive=0.2)


def get(workers: Workers, path: str) -> httpx.Response:
    return httpx.get(workers.url + path, timeout=LIMIT, trust_env=False)


def start(workers: Workers, name: str = "steps", **headers: str) -> str:
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    url = f"{workers.url}/{name}/runs"
    answer = httpx.post(url, json={"input": INPUT}, headers=names, timeout=LIMIT, trust_env=False)
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Run-Id"])


def blocks_of(workers: Workers, run_id: str) -> list[dict[str, str]]:
    """Return the fields of all blocks of an ended run; check that ids are dense and only the last is terminal."""
    assert get(workers, f"/runs/{run_id}/output?wait={WAIT}").status_code != 202
    text = get(workers, f"/runs/{run_id}/stream").text
    lines = [[line for line in block.split("\n") if line and not line.startswith(":")] for block in text.split("\n\n")]
    blocks = [dict(line.partition(":")[::2] for line in block) for block in lines if block]
    found = [{name: value.strip() for name, value in block.items()} for block in blocks]
    assert [int(block["id"]) for block in found] == list(range(1, len(found) + 1))
    assert [block["event"] in ("end", "error") for block in found] == [False] * (len(found) - 1) + [True]
    return found


def attempts_in(blocks: list[dict[str, str]]) -> list[int]:
    said = [json.loads(block["data"]) for block in blocks if block["event"] == "metadata"]
    return [metadata.get("attempt", 1) for metadata in said]


def wait_until_kept(workers: Workers, *steps: str) -> None:
    """Wait until the results of some steps are stored: only then they count as finished."""
    (path,) = workers.folder.glob("*points.sqlite")
    with closing(sqlite3.connect(path)) as points:
        end = time.monotonic() + WAIT
        while points.execute("SELECT count(DISTINCT task_id) FROM writes").fetchone()[0] < len(steps):
            assert time.monotonic() < end, f"not kept: {steps}"


def kill(workers: Workers, step: str, count: int = 1) -> None:
    """Kill the worker that executes a step, and let the next worker resume it."""
    workers.end(workers.owner_of(step, count))


def test_a_recovered_run_repeats_no_finished_step(workers: Workers) -> None:
    workers.hold("speak")
    said: list[Any] = []
    run_ids: list[str] = []
    for chunk in remote(workers).stream(INPUT, on_run=run_ids.append, on_attempt=said.append):
        said.append(chunk)
        if len(workers.processes) == 2 and len(said) == 3:  # begun, left, one
            wait_until_kept(workers, "__start__", "begin", "left")
            kill(workers, "speak")
            workers.release("speak")
    before, after = said[:3], said[said.index(2) + 1 :]
    assert sorted(chunk.content for chunk in before) == ["begun ", "left ", "one "]
    (again,) = {chunk.id for chunk in after if chunk.content in TOKENS}
    assert again not in {chunk.id for chunk in before}
    # What is said again has an id that was there already, or belongs to a message that was cut.
    assert "".join(chunk.content for chunk in after if chunk.id not in {"begun", "left"}) == "one two three done"
    assert sorted(workers.began()) == ["begin", "finish", "left", "speak", "speak"]
    output = get(workers, f"/runs/{run_ids[0]}/output").json()["output"]
    contents = [message["content"] for message in output["messages"]]
    assert contents == ["go", "begun ", "left ", "one two three", " done"]
    assert attempts_in(blocks_of(workers, run_ids[0])) == [1, 2]
    state = get(workers, f"/runs/{run_ids[0]}").json()
    assert (state["status"], state["attempt"]) == ("done", 2)


async def test_a_reader_that_awaits_is_told_of_the_attempt_too(sqlite_workers: Workers) -> None:
    sqlite_workers.hold("finish")
    run_id, attempts = start(sqlite_workers), list[int]()
    async with remote(sqlite_workers) as client:
        async for chunk in client.ajoin(run_id, on_attempt=attempts.append):
            if chunk.content == "three":
                kill(sqlite_workers, "finish")
                sqlite_workers.release("finish")
    assert attempts == [2]
    assert sorted(sqlite_workers.began()) == ["begin", "finish", "finish", "left", "speak"]


def test_a_request_can_say_that_its_run_is_not_recovered(sqlite_workers: Workers) -> None:
    sqlite_workers.hold("speak")
    stream = remote(sqlite_workers).stream(INPUT, recover=False)
    next(stream)
    kill(sqlite_workers, "speak")
    with pytest.raises(RunLost):
        list(stream)
    assert sqlite_workers.began().count("speak") == 1


def test_a_request_can_ask_for_what_the_record_does_not(tmp_path: Path) -> None:
    with ExitStack() as stack:
        settings = {**environment("sqlite", tmp_path, stack), RECOVER: "false"}
        workers = stack.enter_context(working(tmp_path, settings))
        workers.hold("finish")
        lost, recovered = start(workers), start(workers, Run_Recover="true")
        owners = {workers.owner_of("finish", count) for count in (1, 2)}
        workers.start()
        for owner in owners:
            workers.end(owner)
        workers.release("finish")
        assert [blocks_of(workers, run_id)[-1]["event"] for run_id in (lost, recovered)] == ["error", "end"]


def test_attempts_are_bounded_and_then_the_run_is_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        settings = {**environment("sqlite", tmp_path, stack), "STREAMSERVE_MAX_ATTEMPTS": "2"}
        workers = stack.enter_context(working(tmp_path, settings, count=3))
        workers.hold("speak")
        run_id = start(workers)
        kill(workers, "speak")
        kill(workers, "speak", 2)
        blocks = blocks_of(workers, run_id)
    assert attempts_in(blocks) == [1, 2]
    assert json.loads(blocks[-1]["data"])["code"] == "run_lost"


def test_a_worker_without_the_graph_ends_the_run_as_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        settings = environment("sqlite", tmp_path, stack)
        workers = stack.enter_context(working(tmp_path, settings, count=1))
        workers.hold("speak")
        run_id = start(workers)
        kill(workers, "speak")
        workers.start(**{WITHOUT: "steps"})
        blocks = blocks_of(workers, run_id)
    assert json.loads(blocks[-1]["data"])["code"] == "run_lost"


def test_a_recovered_run_keeps_its_thread_until_it_ends(workers: Workers) -> None:
    body = {"input": INPUT, "config": {"configurable": {"thread_id": "tower"}}}

    def begin() -> httpx.Response:
        return httpx.post(f"{workers.url}/steps/runs", json=body, timeout=LIMIT, trust_env=False)

    workers.hold("speak")
    run_id = begin().headers["Run-Id"]
    owner = workers.owner_of("speak")
    wait_until_kept(workers, "__start__", "begin", "left")
    workers.stop(owner)
    assert workers.owner_of("speak", 2) != owner
    workers.end(owner)
    refused = begin()
    assert (refused.status_code, refused.json()["holder"]) == (409, run_id)
    workers.release("speak")
    assert blocks_of(workers, run_id)[-1]["event"] == "end"
    assert sorted(workers.began()) == ["begin", "finish", "left", "speak", "speak"]
    assert begin().status_code == 202


def test_an_owner_that_wakes_late_does_not_disturb_the_new_owner(sqlite_workers: Workers) -> None:
    sqlite_workers.hold("speak")
    run_id = start(sqlite_workers)
    owner = sqlite_workers.owner_of("speak")
    wait_until_kept(sqlite_workers, "__start__", "begin", "left")
    sqlite_workers.stop(owner)
    assert sqlite_workers.owner_of("speak", 2) != owner
    sqlite_workers.hold("finish")
    sqlite_workers.release("speak")
    assert sqlite_workers.owner_of("finish") != owner
    sqlite_workers.go_on(owner)
    sqlite_workers.release("finish")
    blocks = blocks_of(sqlite_workers, run_id)
    assert (attempts_in(blocks), blocks[-1]["event"]) == ([1, 2], "end")
    assert sorted(sqlite_workers.began()) == ["begin", "finish", "left", "speak", "speak"]
