"""The blocks of a run as JSON: the same blocks as in its stream, from the same cursors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from langchain_core.runnables import RunnableGenerator

from tests.fakes import Gate
from tests.runs.support import LIMIT, GatedBench, app_of, caller, client_of, streaming
from tests.runs.support import client_of_bench as client_of_bench  # a fixture

KEY = {"Idempotency-Key": "3f0c"}


class Bench(GatedBench):
    """A served chain that yields five values of several types, each when the gate opens, and counts its calls."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.closed = Gate()
        self.calls = 0
        self.app = app_of({"count": RunnableGenerator(self.count)}, caller, **settings)

    async def count(self, inputs: Any) -> Any:
        async for _ in inputs:
            pass
        self.calls += 1
        try:
            for value in ("0\u2028", (1, 2), {"a": 2**70}, b"\xff", "half \ud83d"):
                await self.gate.await_()
                yield value
        finally:
            self.closed.open()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def begun(client: httpx.Client) -> str:
    return str(client.post("/count/runs", json={"input": "x"}).headers["Run-Id"])


def asked(client: httpx.Client, run_id: str, **query: Any) -> Any:
    answer = client.get(f"/runs/{run_id}/blocks", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["blocks"]


def as_sent(blocks: list[dict[str, Any]]) -> bytes:
    """Return the bytes of a stream with these blocks."""
    lines = ([f"{name}: {value}".rstrip() for name, value in block.items()] for block in blocks)
    return "".join("\n".join(each) + "\n\n" for each in lines).encode()


def test_the_blocks_are_those_of_the_stream(bench: Bench, client: httpx.Client) -> None:
    run_id = begun(client)
    bench.gate.open(5)
    with streaming(client, f"/runs/{run_id}/stream", method="GET") as reader:
        stream = reader.rest()
    for after in (0, 1, 4):
        blocks = asked(client, run_id, after=after)
        assert [block["id"] for block in blocks] == list(range(after + 1, 8))
        assert as_sent(blocks) == b"".join(stream[after:])


def test_a_poll_waits_for_the_next_block(bench: Bench, client: httpx.Client) -> None:
    run_id = begun(client)
    assert [block["event"] for block in asked(client, run_id)] == ["metadata"]
    assert asked(client, run_id, after=1) == []
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(asked, client, run_id, after=1, wait=LIMIT)
        bench.gate.open()
        assert [block["id"] for block in poll.result(LIMIT)] == [2]


def test_a_poll_by_header_or_of_the_tail_has_its_cursor(bench: Bench, client: httpx.Client) -> None:
    run_id = begun(client)
    bench.gate.open(5)
    client.get(f"/runs/{run_id}/output?wait={LIMIT}")
    header = client.get(f"/runs/{run_id}/blocks?after=1", headers={"Last-Event-ID": "5"})
    assert header.json()["blocks"][0]["id"] == 6
    assert client.get(f"/runs/{run_id}/blocks?after=now").status_code == 204


@pytest.mark.parametrize("cursor", [7, 8, "now"])
def test_a_poll_at_the_end_has_no_content(bench: Bench, client: httpx.Client, cursor: Any) -> None:
    run_id = begun(client)
    bench.gate.open(5)
    client.get(f"/runs/{run_id}/output?wait={LIMIT}")
    answer = client.get(f"/runs/{run_id}/blocks", params={"after": cursor, "wait": LIMIT})
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_poll_is_refused_as_a_stream_is(bench: Bench, client: httpx.Client) -> None:
    run_id = begun(client)
    bench.gate.open(5)
    assert client.get(f"/runs/{run_id}/output?wait={LIMIT}").status_code in (200, 409)
    other = client.get(f"/runs/{run_id}/blocks", headers={"X-Caller": "somebody else"})
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
    assert client.get(f"/runs/{run_id}/blocks?after=x").status_code == 400
    assert client.get(f"/runs/{run_id}/blocks?wait=61").status_code == 422
    client.delete(f"/runs/{run_id}")
    gone = client.get(f"/runs/{run_id}/blocks")
    assert (gone.status_code, gone.json()["code"], gone.json()["last_id"]) == (410, "run_expired", 7)


def test_a_keyed_stream_with_a_wait_is_answered_in_json(bench: Bench, client: httpx.Client) -> None:
    first = client.post("/count/stream?wait=0", json={"input": "x"}, headers=KEY)
    assert [block["event"] for block in first.json()["blocks"]] == ["metadata"]
    assert first.headers["Location"] == f"/runs/{first.headers['Run-Id']}/stream"
    bench.gate.open(5)
    again = client.post(f"/count/stream?wait={LIMIT}", json={"input": "x"}, headers={**KEY, "Last-Event-ID": "1"})
    assert again.json()["blocks"][0]["id"] == 2
    assert (again.json()["run_id"], bench.calls) == (first.json()["run_id"], 1)


def test_a_wait_without_a_key_changes_nothing(bench: Bench, client: httpx.Client) -> None:
    bench.gate.open(5)
    with streaming(client, "/count/stream?wait=0") as reader:
        assert len(reader.rest()) == 7


def test_a_bad_wait_of_a_stream_starts_nothing(bench: Bench, client: httpx.Client) -> None:
    answer = client.post("/count/stream?wait=x", json={"input": "x"}, headers=KEY)
    assert (answer.status_code, answer.json()["code"], bench.calls) == (400, "bad_request", 0)


def test_a_poll_is_a_reader_of_its_run() -> None:
    bench = Bench(orphan_grace=0.2)
    with client_of(bench.app) as client:
        run_id = client.post("/count/stream?wait=0", json={"input": "x"}, headers=KEY).headers["Run-Id"]
        assert asked(client, run_id, after=1, wait=0.5) == []  # longer than the grace
        assert client.get(f"/runs/{run_id}").json()["status"] == "running"
        bench.closed.wait()
        assert client.get(f"/runs/{run_id}/output?wait={LIMIT}").json()["code"] == "cancelled"


def test_a_poll_of_a_long_run_is_bounded(bench: Bench, client: httpx.Client) -> None:
    with client_of(app_of({"long": RunnableGenerator(_long)})) as client:
        run_id = client.post("/long/runs", json={"input": "x"}).headers["Run-Id"]
        client.get(f"/runs/{run_id}/output?wait={LIMIT}")
        seen: list[int] = []
        while (answer := client.get(f"/runs/{run_id}/blocks?after={len(seen)}")).status_code == 200:
            assert len(answer.content) < 100_000
            seen += [block["id"] for block in answer.json()["blocks"]]
    assert seen == list(range(1, 603))


async def _long(_: Any) -> Any:
    for _ in range(600):
        yield "x" * 1000
