"""Threads: one per principal and chain, and one run at a time by the chain's multitask strategy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from streamserve_sdk import RemoteRunnable, ThreadBusy

from tests.frames import chunks, events
from tests.graphs.threads import Threads, serving_threads
from tests.runs.support import LIMIT
from tests.stores.servers import redis_server

RESUME = {"__type__": "command", "resume": "yes"}
ENDPOINTS = ["invoke", "batch", "stream", "stream_log", "stream_events", "runs"]
each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)


@pytest.fixture(scope="module")
def served() -> Iterator[Threads]:
    with serving_threads() as (threads,):
        yield threads


@pytest.fixture
def thread(request: pytest.FixtureRequest) -> str:
    return request.node.name


def inputs(endpoint: str, given: Any) -> Any:
    return [given] if endpoint == "batch" else given


# Principals


@each_endpoint
def test_a_resume_of_an_unknown_thread_is_a_404(served: Threads, endpoint: str, thread: str) -> None:
    for given in (RESUME, None):
        answer = served.post(f"/ask/{endpoint}", inputs(endpoint, given), thread)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_thread"), answer.text


@each_endpoint
def test_another_principals_thread_does_not_exist(served: Threads, endpoint: str, thread: str) -> None:
    asked = served.post("/ask/invoke", {"word": "x"}, thread).json()["output"]
    assert asked["__interrupt__"]
    stolen = served.post(f"/ask/{endpoint}", inputs(endpoint, RESUME), thread, caller="bob")
    assert (stolen.status_code, stolen.json()["code"]) == (404, "unknown_thread"), stolen.text
    assert served.post("/ask/invoke", RESUME, thread).json()["output"]["said"] == ["yes"]


def test_two_principals_may_use_the_same_thread_name(served: Threads, thread: str) -> None:
    for turn in (1, 2):
        for name in ("ann", "bob"):
            answer = served.post("/reject/invoke", {"word": f"!{name}"}, thread, caller=name)
            assert answer.json()["output"]["said"] == [f"(!{name})", f"!{name}"] * turn


def test_two_chains_may_use_the_same_thread_name(served: Threads, thread: str) -> None:
    for name in ("reject", "enqueue"):
        assert served.post(f"/{name}/invoke", {"word": "!x"}, thread).json()["output"]["said"] == ["(!x)", "!x"]


def test_nodes_and_streams_show_the_callers_name_of_the_thread(served: Threads, thread: str) -> None:
    body = {"kwargs": {"stream_mode": ["checkpoints", "debug"]}}
    served.post("/look/invoke", {"word": "x"}, thread)  # so that a read has the caller's name, too
    told = chunks(served.post("/look/stream", {"word": "x"}, thread, **body))
    configs = [chunk["config"] for mode, chunk in told if mode == "checkpoints"]
    configs += [chunk["payload"]["config"] for mode, chunk in told if mode == "debug" and chunk["type"] == "checkpoint"]
    assert len(configs) > 2
    configs += [chunk["parent_config"] for mode, chunk in told if mode == "checkpoints" and chunk["parent_config"]]
    assert {config["configurable"]["thread_id"] for config in configs} == {thread}
    assert served.seen[-1]["configurable"]["thread_id"] == thread


def test_a_run_resumes_from_a_checkpoint_that_a_stream_named(served: Threads, thread: str) -> None:
    body = {"kwargs": {"stream_mode": "checkpoints"}}
    told = chunks(served.post("/look/stream", {"word": "x"}, thread, **body))
    end = [chunk["config"]["configurable"]["checkpoint_id"] for chunk in told][-1]
    served.post("/look/invoke", {"word": "y"}, thread)
    config = {"configurable": {"thread_id": thread, "checkpoint_id": end}}
    forked = served.post("/look/invoke", {"word": "z"}, config=config)
    assert forked.json()["output"]["said"] == ["seen", "seen"]


# The config


def test_the_keys_of_a_config_reach_the_chain(served: Threads, thread: str) -> None:
    config = {
        "tags": ["a"],
        "metadata": {"b": 1},
        "run_name": "mine",
        "max_concurrency": 3,
        "recursion_limit": 7,
        "configurable": {"thread_id": thread, "tone": "dry"},
    }
    for endpoint in ENDPOINTS:
        before = len(served.seen)
        answer = served.post(f"/look/{endpoint}", inputs(endpoint, {"word": "x"}), config=config)
        if endpoint == "runs":
            assert served.state(answer.json()["run_id"], LIMIT)["status"] == "done"
        (seen,) = served.seen[before:]
        assert ("a" in seen["tags"], seen["metadata"]["b"], seen["max_concurrency"]) == (True, 1, 3), endpoint
        assert (seen["recursion_limit"], seen["configurable"]["tone"]) == (7, "dry"), endpoint


def test_each_input_of_a_batch_has_its_config(served: Threads, thread: str) -> None:
    configs = [{"tags": [tag], "configurable": {"thread_id": f"{thread} {tag}", "tone": tag}} for tag in "abc"]
    before = len(served.seen)
    served.post("/look/batch", [{"word": "x"}] * 3, config=configs)
    seen = sorted(served.seen[before:], key=lambda config: config["configurable"]["tone"])
    assert [config["tags"] for config in seen] == [["a"], ["b"], ["c"]]
    assert [config["configurable"]["thread_id"] for config in seen] == [f"{thread} {tag}" for tag in "abc"]


@pytest.mark.parametrize("sent", [25, 20_000, None])
def test_a_clients_default_does_not_change_the_recursion_limit(served: Threads, thread: str, sent: int | None) -> None:
    config = {"recursion_limit": sent, "recursionLimit": sent, "configurable": {"thread_id": thread}}
    served.post("/look/invoke", {"word": "x"}, config=config)
    assert "recursion_limit" not in served.seen[-1]


def test_the_names_of_langchain_js_are_known(served: Threads, thread: str) -> None:
    config = {"maxConcurrency": 3, "recursionLimit": 7, "runName": "x", "configurable": {"thread_id": thread}}
    assert served.post("/look/invoke", {"word": "x"}, config=config).status_code == 200
    assert (served.seen[-1]["max_concurrency"], served.seen[-1]["recursion_limit"]) == (3, 7)


@pytest.mark.parametrize("chain", ["look", "greeting"])
def test_the_config_of_a_surrounding_graph_is_accepted(served: Threads, chain: str) -> None:
    marks = {"__pregel_task_id": "1", "checkpoint_ns": "n:1", "checkpoint_id": "2", "thread_id": "3", "user": "4"}
    given = {"word": "x", "topic": "cats"}
    assert served.post(f"/{chain}/invoke", given, config={"configurable": marks}).status_code == 200


# One run at a time


@each_endpoint
def test_reject_answers_409_with_the_run_that_has_the_thread(served: Threads, endpoint: str, thread: str) -> None:
    holder = served.start("reject", "first", thread=thread)
    served.began(holder)
    answer = served.post(f"/reject/{endpoint}", inputs(endpoint, {"word": "!second"}), thread)
    assert (answer.status_code, answer.json()["code"], answer.json()["holder"]) == (409, "thread_busy", holder)
    assert answer.headers["Retry-After"] == "1"
    other = served.post("/reject/invoke", {"word": "!second"}, f"{thread} other")
    assert other.json()["output"]["said"] == ["(!second)", "!second"]
    assert served.post("/reject/invoke", {"word": "!second"}, None).status_code == 200
    served.gates["reject"].open()
    assert served.said(holder) == ["(first)", "first"]
    assert served.post("/reject/invoke", {"word": "!second"}, thread).status_code == 200


@pytest.mark.parametrize("endpoint", ["invoke", "batch"])
def test_a_call_without_a_stream_has_its_thread_too(served: Threads, endpoint: str, thread: str) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(served.post, f"/reject/{endpoint}", inputs(endpoint, {"word": thread}), thread)
        assert served.arrivals[thread].wait(LIMIT)
        busy = served.post("/reject/invoke", {"word": "!second"}, thread)
        assert busy.status_code == 409
        state = served.state(busy.json()["holder"])
        assert (state["status"], state["chain"]) == ("running", "reject")
        served.gates["reject"].open()
        assert first.result(LIMIT).status_code == 200
    assert served.state(busy.json()["holder"])["status"] == "done"


def test_two_inputs_of_a_batch_on_one_thread_are_two_runs(served: Threads, thread: str) -> None:
    both = [{"word": "!a"}, {"word": "!b"}]
    refused = served.post("/reject/batch", both, thread)
    assert refused.status_code == 409
    (said, more) = served.post("/enqueue/batch", both, thread).json()["output"]
    assert (said["said"], more["said"]) == (["(!a)", "!a"], ["(!a)", "!a", "(!b)", "!b"])


def test_enqueue_runs_in_the_order_of_arrival(served: Threads, thread: str) -> None:
    first = served.start("enqueue", "a", thread=thread)
    served.began(first)
    second, third = (served.start("enqueue", word, thread=thread) for word in ("!b", "!c"))
    assert [served.state(run)["status"] for run in (first, second, third)] == ["running", "queued", "queued"]
    assert served.state(second)["last_id"] == 1  # the block with its id
    served.gates["enqueue"].open()
    assert served.said(third) == ["(a)", "a", "(!b)", "!b", "(!c)", "!c"]
    assert served.said(second) == ["(a)", "a", "(!b)", "!b"]


def test_a_queued_run_can_be_cancelled(served: Threads, thread: str) -> None:
    first = served.start("enqueue", "a", thread=thread)
    served.began(first)
    second, third = (served.start("enqueue", word, thread=thread) for word in ("!b", "!c"))
    cancelled = served.client.post(f"/runs/{second}/cancel", params={"wait": LIMIT}, headers={"X-Caller": "ann"})
    assert cancelled.json()["status"] == "cancelled"
    served.gates["enqueue"].open()
    assert served.said(third) == ["(a)", "a", "(!c)", "!c"]


def test_a_resume_waits_for_the_run_that_begins_its_thread(served: Threads, thread: str) -> None:
    first = served.start("enqueue", "a", thread=thread)
    second = served.client.post(
        "/enqueue/runs",
        json={"input": None, "config": {"configurable": {"thread_id": thread}}},
        headers={"X-Caller": "ann"},
    )
    assert second.status_code == 202
    served.gates["enqueue"].open()
    assert served.said(first) == ["(a)", "a"]
    assert served.state(second.json()["run_id"], LIMIT)["status"] == "done"


def test_interrupt_continues_where_the_cancelled_run_stopped(served: Threads, thread: str) -> None:
    first = served.start("interrupt", "a", thread=thread)
    served.began(first)
    second = served.post("/interrupt/invoke", {"word": "!b"}, thread)
    assert second.json()["output"]["said"] == ["(a)", "(!b)", "!b"]
    assert served.state(first)["status"] == "cancelled"


def test_rollback_undoes_the_cancelled_run(served: Threads, thread: str) -> None:
    assert served.post("/rollback/invoke", {"word": "!kept"}, thread).status_code == 200
    first = served.start("rollback", "a", thread=thread)
    served.began(first)
    second = served.post("/rollback/invoke", {"word": "!b"}, thread)
    assert second.json()["output"]["said"] == ["(!kept)", "!kept", "(!b)", "!b"]
    assert served.state(first)["status"] == "cancelled"
    third = served.post("/rollback/invoke", {"word": "!c"}, thread).json()["output"]["said"]
    assert third == ["(!kept)", "!kept", "(!b)", "!b", "(!c)", "!c"]


def test_rollback_of_a_threads_first_run_starts_the_thread_anew(served: Threads, thread: str) -> None:
    served.began(served.start("rollback", "a", thread=thread))
    second = served.post("/rollback/invoke", {"word": "!b"}, thread)
    assert second.json()["output"]["said"] == ["(!b)", "!b"]


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
@pytest.mark.parametrize("endpoint", ["invoke", "batch"])
def test_a_later_run_cancels_a_call_without_a_stream(
    served: Threads, strategy: str, endpoint: str, thread: str
) -> None:
    with ThreadPoolExecutor() as pool:
        call = pool.submit(served.post, f"/{strategy}/{endpoint}", inputs(endpoint, {"word": thread}), thread)
        assert served.arrivals[thread].wait(LIMIT)
        said = served.post(f"/{strategy}/invoke", {"word": "!b"}, thread).json()["output"]["said"]
        assert said == ([f"({thread})"] if strategy == "interrupt" else []) + ["(!b)", "!b"]
        assert (call.result().status_code, call.result().json()["code"]) == (499, "cancelled")


def test_a_caller_that_leaves_frees_its_thread(served: Threads, thread: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        served.client.post(
            "/reject/invoke",
            json={"input": {"word": "a"}, "config": {"configurable": {"thread_id": thread}}},
            headers={"X-Caller": "ann"},
            timeout=0.3,
        )
    while (answer := served.post("/reject/invoke", {"word": "!b"}, thread)).status_code == 409:
        assert served.state(answer.json()["holder"], LIMIT)["status"] == "cancelled"
    assert answer.json()["output"]["said"] == ["(a)", "(!b)", "!b"]


def test_a_repeated_request_joins_its_run_and_is_not_busy(served: Threads, thread: str) -> None:
    def ask() -> httpx.Response:
        return served.client.post(
            "/reject/runs",
            json={"input": {"word": "a"}, "config": {"configurable": {"thread_id": thread}}},
            headers={"X-Caller": "ann", "Idempotency-Key": thread},
        )

    first, second = ask(), ask()
    assert first.json()["run_id"] == second.json()["run_id"]
    served.gates["reject"].open()
    assert served.said(first.json()["run_id"]) == ["(a)", "a"]


def test_the_sdk_raises_at_once_for_a_busy_thread(served: Threads, thread: str) -> None:
    holder = served.start("reject", "first", thread=thread)
    served.began(holder)
    url, config = str(served.client.base_url), {"configurable": {"thread_id": thread}}
    with RemoteRunnable(f"{url}/reject", headers={"X-Caller": "ann"}) as remote:
        for call in (remote.invoke, lambda given, to: list(remote.stream(given, to))):
            with pytest.raises(ThreadBusy) as caught:
                call({"word": "x"}, config)
            assert (caught.value.holder, caught.value.retryable) == (holder, True)
    served.gates["reject"].open()
    assert served.said(holder) == ["(first)", "first"]


# Two replicas


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Threads]]:
    folder = tmp_path_factory.mktemp("replicas")
    with redis_server() as redis:
        places = {"store": redis.url, "checkpoints": f"sqlite:///{folder}/checkpoints.sqlite"}
        with serving_threads(2, **places) as threads:
            yield threads


def test_a_thread_is_busy_on_every_replica(replicas: list[Threads], thread: str) -> None:
    here, there = replicas
    holder = here.start("reject", "first", thread=thread)
    there.began(holder)
    for endpoint in ("invoke", "stream"):
        answer = there.post(f"/reject/{endpoint}", {"word": "!second"}, thread)
        assert (answer.status_code, answer.json()["holder"]) == (409, holder)
    here.gates["reject"].open()
    assert there.said(holder) == ["(first)", "first"]
    said = there.post("/reject/invoke", {"word": "!second"}, thread).json()["output"]["said"]
    assert said == ["(first)", "first", "(!second)", "!second"]


def test_all_replicas_share_one_queue(replicas: list[Threads], thread: str) -> None:
    here, there = replicas
    first = here.start("enqueue", "a", thread=thread)
    there.began(first)
    second = there.start("enqueue", "!b", thread=thread)
    third = here.start("enqueue", "!c", thread=thread)
    assert [here.state(run)["status"] for run in (first, second, third)] == ["running", "queued", "queued"]
    here.gates["enqueue"].open()
    assert there.said(third) == ["(a)", "a", "(!b)", "!b", "(!c)", "!c"]
    assert events(here.client.get(f"/runs/{second}/stream", headers={"X-Caller": "ann"}))[-1][0] == "end"


def test_interrupt_reaches_the_run_of_another_replica(replicas: list[Threads], thread: str) -> None:
    here, there = replicas
    first = here.start("interrupt", "a", thread=thread)
    there.began(first)
    assert there.post("/interrupt/invoke", {"word": "!b"}, thread).json()["output"]["said"] == ["(a)", "(!b)", "!b"]
    assert there.state(first)["status"] == "cancelled"
