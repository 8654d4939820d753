"""The metrics: their values, their labels, and the callers who may read them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from bisect import bisect_left
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException, Request
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from deploy.services import free_port
from streamserve import fast_paths
from streamserve.fast_paths import FastPath
from streamserve.private_names.prometheus_client import observe_many
from streamserve.telemetry.metrics import GAPS, Metrics
from tests.fakes import Gate
from tests.limits import LIMIT
from tests.runs.support import app_of, client_of, ended, streaming

ROOT = Path(__file__).parents[2]


async def three(inputs: Any) -> Any:
    async for _ in inputs:
        for token in "abc":
            yield token


async def break_off(inputs: Any) -> Any:
    async for _ in inputs:
        yield "one"
        raise ValueError("broken")


async def fail(_inputs: Any) -> str:
    raise ValueError("broken")


def endless(gate: Gate) -> Any:
    async def wait(inputs: Any) -> Any:
        async for _ in inputs:
            yield "one"
            await gate.await_()
            yield "two"

    return RunnableGenerator(wait)


def scraped(client: httpx.Client, url: str = "/metrics") -> dict[str, float]:
    """Return all samples by name, written as in a query: name{label=value}."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_run_is_counted_by_chain_endpoint_and_state() -> None:
    chains = {"abc": RunnableGenerator(three), "bad": RunnableGenerator(break_off), "worse": RunnableLambda(fail)}
    with client_of(app_of(chains)) as client:
        for chain in ("abc", "abc", "bad"):
            client.post(f"/{chain}/stream", json={"input": "x"})
        client.post("/abc/invoke", json={"input": "x"})
        client.post("/worse/invoke", json={"input": "x"})
        client.post("/abc/invoke", json={"inputs": "x"})
        found = scraped(client)
    runs = {name: value for name, value in found.items() if name.startswith("streamserve_runs_total")}
    assert runs == {
        "streamserve_runs_total{chain=abc,endpoint=stream,state=done}": 2,
        "streamserve_runs_total{chain=bad,endpoint=stream,state=error}": 1,
        "streamserve_runs_total{chain=abc,endpoint=invoke,state=done}": 1,
        "streamserve_runs_total{chain=worse,endpoint=invoke,state=error}": 1,
    }
    assert found["streamserve_run_seconds_count{chain=abc,endpoint=stream}"] == 2
    assert found["streamserve_http_answers_total{state=422}"] == 1
    assert found["streamserve_http_answers_total{state=500}"] == 1


def test_a_fast_path_that_is_off_has_the_value_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "_noted", {})
    with client_of(app_of({"abc": RunnableGenerator(three)})) as client:
        fast_paths.note(FastPath("quick", "1 us of CPU per token", None))
        fast_paths.note(FastPath("wrong", "1 us of CPU per token", "one chunk more"))
        found = scraped(client)
    assert found["streamserve_fast_path_on{path=quick}"] == 1
    assert found["streamserve_fast_path_on{path=wrong}"] == 0


def test_blocks_first_tokens_and_gaps_are_measured() -> None:
    with client_of(app_of({"abc": RunnableGenerator(three)})) as client:
        for _ in range(2):
            client.post("/abc/stream", json={"input": "x"})
        found = scraped(client)
    assert found["streamserve_blocks_total{chain=abc,endpoint=stream}"] == 6
    assert found["streamserve_first_token_seconds_count{chain=abc,endpoint=stream}"] == 2
    assert found["streamserve_token_gap_seconds_count{chain=abc,endpoint=stream}"] == 4
    assert 0 < found["streamserve_token_gap_seconds_sum{chain=abc,endpoint=stream}"] < LIMIT


def test_gaps_added_at_once_count_like_single_observations() -> None:
    given = [0.0, 0.001, 0.0011, 0.3, 0.3, 9.0, 11.0]
    one_by_one = Histogram("h", "", buckets=GAPS, registry=(registry := CollectorRegistry()))
    for gap in given:
        one_by_one.observe(gap)
    metrics = Metrics()
    block = metrics.watch("c", "e", 0.0)
    block()
    meter = metrics.meter("c", "e")
    for gap in given:
        meter.counts[bisect_left(GAPS, gap)] += 1
        meter.total += gap
    together = Histogram("h", "", buckets=GAPS, registry=(other := CollectorRegistry()))
    observe_many(together, GAPS, meter.counts, meter.total)
    values = [[(s.name, s.labels, s.value) for m in r.collect() for s in m.samples if "_created" not in s.name]
              for r in (registry, other)]  # fmt: skip
    assert values[0] == values[1]


def test_cancels_resumes_and_open_streams_are_counted() -> None:
    gate = Gate()
    with client_of(app_of({"wait": endless(gate)}, on_disconnect="continue")) as client:
        with streaming(client, "/wait/stream") as reader:
            reader.until(b'"one"')
            with streaming(client, f"/runs/{reader.run_id}/stream", method="GET") as joined:
                joined.until(b'"one"')
                found = scraped(client)
                assert found["streamserve_open_streams"] == 2
                assert found["streamserve_live_runs"] == 1
                client.post(f"/runs/{reader.run_id}/cancel", params={"wait": 5})
        ended(client, reader.run_id)
        found = scraped(client)
    assert found["streamserve_resumes_total{chain=wait}"] == 1
    assert found["streamserve_cancels_total{chain=wait}"] == 1
    assert found["streamserve_runs_total{chain=wait,endpoint=stream,state=cancelled}"] == 1
    assert found["streamserve_retained_runs"] == 1
    assert found["streamserve_retained_bytes"] > 0
    assert found["streamserve_draining"] == 0


def test_store_writes_and_event_loop_lag_are_measured(tmp_path: Path) -> None:
    with client_of(app_of({"abc": RunnableGenerator(three)}, store=f"sqlite:///{tmp_path}/runs.sqlite")) as client:
        client.post("/abc/stream", json={"input": "x"})
        found = scraped(client)
        while not found["streamserve_event_loop_lag_seconds_count"]:
            found = scraped(client)
    assert found["streamserve_store_write_seconds_count"] >= 2
    assert found["streamserve_store_write_seconds_sum"] > 0


def test_callers_cannot_create_labels() -> None:
    with client_of(app_of({"abc": RunnableGenerator(three)})) as client:
        for index in range(5):
            client.post(f"/nothing-{index}/stream", json={"input": "x"})
            client.post("/abc/stream", json={"input": "x"}, headers={"Idempotency-Key": str(index)})
        found = scraped(client)
    assert not [name for name in found if "nothing" in name]
    labels = {label.partition("=")[0] for name in found if name.startswith("streamserve") and "{" in name
              for label in name[:-1].partition("{")[2].split(",")}  # fmt: skip
    assert labels == {"chain", "endpoint", "state", "le", "path"}


# Access


def refuse(_request: Request) -> None:
    raise HTTPException(401)


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"host": "::1"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "0.0.0.0"}, 401),
        ({"host": "a.name"}, 401),
        ({"metrics": "guarded"}, 401),
        ({"host": "0.0.0.0", "metrics": "public"}, 200),
        ({"metrics": "off"}, 404),
        ({"metrics_port": 9}, 404),
    ],
)
def test_metrics_are_guarded_except_on_loopback(settings: Any, status: int) -> None:
    app = app_of({"abc": RunnableGenerator(three)}, guard=refuse, **settings)

    async def get() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/metrics")).status_code

    assert asyncio.run(get()) == status


def test_metrics_can_have_a_separate_port() -> None:
    port = free_port()
    with client_of(app_of({"abc": RunnableGenerator(three)}, metrics_port=port)) as client:
        client.post("/abc/stream", json={"input": "x"})
        found = scraped(client, f"http://127.0.0.1:{port}/metrics")
        assert "streamserve_runs_total{chain=abc,endpoint=stream,state=done}" in found
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


WORKER = """
import os, sys
from streamserve.telemetry.exposition import registry_of
from streamserve.telemetry.metrics import Metrics
from prometheus_client import generate_latest
metrics = Metrics()
metrics.runs.labels("abc", "stream", "done").inc()
block = metrics.watch("abc", "stream", 0.0)
block(); block(); metrics.flush()
metrics.open_streams.set(3)
print(generate_latest(registry_of(metrics)).decode(), flush=True)
"""


def test_one_worker_answers_for_all_without_dead_gauges(tmp_path: Path) -> None:
    """Three workers run one after the other: each is dead when the next one answers."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for count in (1, 2, 3):
        done = subprocess.run(
            [sys.executable, "-c", WORKER], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        found = samples(done.stdout)
        assert found["streamserve_runs_total{chain=abc,endpoint=stream,state=done}"] == count, done.stderr
        assert found["streamserve_token_gap_seconds_count{chain=abc,endpoint=stream}"] == count
        assert found["streamserve_open_streams"] == 3
