"""Calls of /invoke and /batch with an Idempotency-Key: they are runs, and the same request again joins them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from streamserve import Chain
from tests.doors.langserve.test_whole_values import CHAINS
from tests.fakes import Gate
from tests.frames import config_hash
from tests.observed import without_ids
from tests.runs.support import LIMIT, GatedBench, app_of, caller, client_of, ended
from tests.runs.support import client_of_bench as client_of_bench  # a fixture

KEY = {"Idempotency-Key": "3f0c"}
BODIES: dict[str, Any] = {"invoke": {"input": "x"}, "batch": {"inputs": ["x"]}}
HEADERS = ("Retry-After", "X-Tea")
OUTPUTS: dict[str, Any] = {"invoke": "X", "batch": ["X"]}


class Bench(GatedBench):
    """A served chain that answers when the gate opens, and counts its calls and those that were cancelled."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.began = Gate()
        self.cancelled = Gate()
        self.calls = 0
        chains = {"upper": RunnableLambda(self.upper), "other": RunnableLambda(self.upper)}
        self.app = app_of(chains, caller, **settings)

    async def upper(self, text: str) -> str:
        self.calls += 1
        self.began.open()
        try:
            await self.gate.await_()
        except asyncio.CancelledError:
            self.cancelled.open()
            raise
        return text.upper()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def leave(client: httpx.Client, bench: Bench, endpoint: str) -> None:
    """Send a request and close its connection once the chain runs."""
    with ThreadPoolExecutor() as pool, httpx.Client(base_url=client.base_url, timeout=1.0) as other:
        sent = pool.submit(other.post, f"/upper/{endpoint}", json=BODIES[endpoint], headers=KEY)
        bench.began.wait()
        assert isinstance(sent.exception(LIMIT), httpx.ReadTimeout)


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_keyed_call_names_its_run(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    bench.gate.open()
    answer = client.post(f"/upper/{endpoint}", json=BODIES[endpoint], headers=KEY)
    assert (answer.status_code, answer.json()["output"]) == (200, OUTPUTS[endpoint])
    run_id = answer.headers["Run-Id"]
    assert answer.headers["Content-Location"] == f"/runs/{run_id}"
    assert client.get(f"/runs/{run_id}").json()["status"] == "done"
    assert client.get(f"/runs/{run_id}/output").json() == answer.json()


@pytest.mark.parametrize("endpoint", BODIES)
def test_the_same_call_again_calls_no_chain(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    bench.gate.open()
    first, second = (client.post(f"/upper/{endpoint}", json=BODIES[endpoint], headers=KEY) for _ in range(2))
    assert (first.content, first.headers["Run-Id"]) == (second.content, second.headers["Run-Id"])
    assert bench.calls == 1


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_call_waits_for_its_caller_to_return(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    leave(client, bench, endpoint)
    bench.gate.open()
    answer = client.post(f"/upper/{endpoint}", json=BODIES[endpoint], headers=KEY)
    assert (answer.json()["output"], bench.calls) == (OUTPUTS[endpoint], 1)


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_call_ends_if_its_caller_does_not_return(endpoint: str) -> None:
    bench = Bench(orphan_grace=0.05)
    with client_of(bench.app) as client:
        leave(client, bench, endpoint)
        bench.cancelled.wait()


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_call_answers_202_after_its_wait(bench: Bench, client: httpx.Client, endpoint: str) -> None:
    answer = client.post(f"/upper/{endpoint}?wait=0", json=BODIES[endpoint], headers=KEY)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    output = f"{answer.headers['Content-Location']}/output"
    assert client.get(output).status_code == 202
    bench.gate.open()
    assert client.get(output, params={"wait": LIMIT}).json()["output"] == OUTPUTS[endpoint]
    assert bench.calls == 1


def test_a_reader_of_the_output_keeps_its_call(client: httpx.Client) -> None:
    bench = Bench(orphan_grace=0.2)
    with client_of(bench.app) as client, ThreadPoolExecutor() as pool:
        run_id = client.post("/upper/invoke?wait=0", json={"input": "x"}, headers=KEY).headers["Run-Id"]
        reader = pool.submit(client.get, f"/runs/{run_id}/output?wait={LIMIT}")
        assert client.get(f"/runs/{run_id}/output?wait=0.5").status_code == 202  # longer than the grace
        bench.gate.open()
        assert reader.result(LIMIT).json()["output"] == "X"


def test_a_call_can_be_cancelled_by_its_run(bench: Bench, client: httpx.Client) -> None:
    run_id = client.post("/upper/invoke?wait=0", json={"input": "x"}, headers=KEY).headers["Run-Id"]
    assert client.post(f"/runs/{run_id}/cancel?wait={LIMIT}").json()["status"] == "cancelled"
    bench.cancelled.wait()
    answer = client.post("/upper/invoke", json={"input": "x"}, headers=KEY)
    assert (answer.status_code, answer.json()["code"], answer.json()["run_id"]) == (499, "cancelled", run_id)


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan", "inf"])
def test_a_wait_that_is_no_time_is_refused(bench: Bench, client: httpx.Client, wait: str) -> None:
    answer = client.post(f"/upper/invoke?wait={wait}", json={"input": "x"}, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert bench.calls == 0


def test_a_calls_key_stands_for_one_body(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open()
    client.post("/upper/invoke", json={"input": "x"}, headers=KEY)
    answer = client.post("/upper/invoke", json={"input": "y"}, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/upper/invoke", {"X-Caller": "somebody else"}),
        ("/other/invoke", {}),
        (f"/upper/c/{config_hash({'tags': ['a']})}/invoke", {}),
    ],
    ids=["caller", "chain", "config"],
)
def test_a_calls_key_is_the_callers_own_on_its_path(
    bench: Bench, client: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    bench.gate.open(2)
    first = client.post("/upper/invoke", json={"input": "x"}, headers=KEY)
    second = client.post(path, json={"input": "x"}, headers={**KEY, **headers})
    assert first.headers["Run-Id"] != second.headers["Run-Id"]
    assert bench.calls == 2


# The same answers as without a key


def failing(kind: str) -> Any:
    if kind == "status":
        raise HTTPException(429, {"tea": ["pot"]}, {"X-Tea": "green", "Retry-After": "7"})
    if kind == "odd status":
        raise HTTPException(418, object())  # type: ignore[arg-type]
    raise SystemExit(2) if kind == "leaving" else ValueError("secret")


def thread_graph() -> Any:
    graph = StateGraph(MessagesState).add_node("n", lambda state: {"messages": [str(len(state["messages"]))]})
    return graph.add_edge(START, "n").compile(checkpointer=InMemorySaver())


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    chains = {
        **CHAINS,
        "failing": RunnableLambda(failing),
        "exposing": Chain(runnable=RunnableLambda(failing), input_type=str, expose_errors=True),
        "threads": Chain(runnable=thread_graph(), multitask_strategy="enqueue"),
    }
    with client_of(app_of(chains)) as client:
        yield client


def both(client: httpx.Client, path: str, body: Any) -> list[httpx.Response]:
    return [client.post(path, json=body, headers=headers) for headers in ({}, {"Idempotency-Key": path + str(body)})]


@pytest.mark.parametrize("name", [name for name in CHAINS if name not in ("keys", "variable", "parallel", "assigned")])
def test_a_key_changes_no_answer(plain: httpx.Client, name: str) -> None:
    given: Any = {"root": "/"} if name in ("folder", "asking") else "x"
    for path, body in ((f"/{name}/invoke", {"input": given}), (f"/{name}/batch", {"inputs": [given]})):
        without, keyed = both(plain, path, body)
        assert keyed.status_code == without.status_code
        assert _bare(keyed) == _bare(without)


@pytest.mark.parametrize("kind", ["status", "leaving", "error"])
@pytest.mark.parametrize("name", ["failing", "exposing"])
@pytest.mark.parametrize("endpoint", BODIES)
def test_a_key_changes_no_error(plain: httpx.Client, name: str, kind: str, endpoint: str) -> None:
    body: Any = {"input": kind} if endpoint == "invoke" else {"inputs": [kind]}
    without, keyed = both(plain, f"/{name}/{endpoint}", body)
    assert (keyed.status_code, _bare(keyed)) == (without.status_code, _bare(without))
    assert [keyed.headers.get(name) for name in HEADERS] == [without.headers.get(name) for name in HEADERS]


def test_a_detail_without_a_json_form_ends_its_run(plain: httpx.Client) -> None:
    answer = plain.post("/failing/invoke", json={"input": "odd status"}, headers=KEY)
    assert plain.get(f"/runs/{answer.headers['Run-Id']}").json()["status"] == "error"


@pytest.mark.parametrize(
    "body", [{}, {"input": 5, "kwargs": 3}, {"input": {"messages": [{"type": "remove", "id": "none", "content": ""}]}}]
)
def test_a_key_changes_no_refusal(plain: httpx.Client, body: Any) -> None:
    without, keyed = both(plain, "/threads/invoke", {**body, "config": {"configurable": {"thread_id": "r"}}})
    assert (keyed.status_code, _bare(keyed)) == (without.status_code, _bare(without))


def test_keyed_calls_of_one_thread_follow_each_other(plain: httpx.Client) -> None:
    def call(number: int) -> Any:
        said = {"type": "human", "content": str(number)}
        body = {"input": {"messages": [said]}, "config": {"configurable": {"thread_id": "t"}}}
        answer = plain.post("/threads/invoke", json=body, headers={"Idempotency-Key": str(number)})
        return [message["content"] for message in answer.json()["output"]["messages"]][-1]

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(call, range(4)), key=int) == ["1", "3", "5", "7"]


def test_a_keyed_batch_has_a_thread_for_each_input(plain: httpx.Client) -> None:
    said = {"messages": [{"type": "human", "content": "hi"}]}
    configs = [{"configurable": {"thread_id": name}} for name in ("b1", "b2", "b1")]
    answer = plain.post("/threads/batch", json={"inputs": [said] * 3, "config": configs}, headers=KEY)
    lengths = [len(output["messages"]) for output in answer.json()["output"]]
    assert (lengths[1], sorted(lengths)) == (2, [2, 2, 4])


def test_a_keyed_call_that_is_deleted_is_past_its_retention(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open()
    run_id = client.post("/upper/invoke", json={"input": "x"}, headers=KEY).headers["Run-Id"]
    assert ended(client, run_id)["status"] == "done"
    assert client.delete(f"/runs/{run_id}").status_code == 204
    assert client.get(f"/runs/{run_id}/output").status_code == 410


def _bare(answer: httpx.Response) -> Any:
    """Return the answer without the ids of its runs and messages."""
    body = answer.json()
    body.pop("metadata", None)
    body.pop("run_id", None)
    for error in body.get("errors") or ():
        (error or {}).pop("run_id", None)
    return without_ids(body)
