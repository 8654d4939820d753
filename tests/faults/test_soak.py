"""Tests of the soak of `make soak`, for some seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.misdeeds import Misdeed
from benchmarks.soak import ACTS, GROWTH_KB, LIMIT, Server, leaks, soak, wrong
from tests.faults.attacks import Attack

TYPED = b'HTTP/1.1 500 x\r\n\r\n{"detail": "x", "code": "internal", "retryable": false, "run_id": null}'
STREAM = b'HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\n\r\nid: 1\nevent: error\ndata: {"code": "internal"}\n\n'


async def test_misdeeds_cuts_and_cancels_leave_nothing_behind(tmp_path: Path) -> None:
    server = Server(tmp_path / "soak.log")
    try:
        result = await soak(server, streams=20, seconds=8, warm=2, seed=1)
        server.process.terminate()
        assert server.process.wait(LIMIT) == 0
    finally:
        server.process.kill()
    assert result["wrong"] == []
    assert leaks(result) == []
    assert sum(result["done"].values()) >= 20
    assert result["done"].keys() <= ACTS.keys()
    assert sum(result["misdeeds"].values()) == result["done"]["misbehaved"]


def test_the_soak_sees_a_hole_a_missing_end_and_a_leak() -> None:
    whole = b"id: 1\nevent: data\n\nid: 2\nevent: end\n\n"
    assert wrong(whole, b"event: end", tokens=0) == ""
    assert wrong(whole, b"event: end", tokens=1)
    assert wrong(whole.replace(b"id: 2", b"id: 3"), b"event: end", tokens=0)
    assert wrong(whole[:20], b"event: end", tokens=0)
    before = {"runs": 0, "readers": 0, "tasks": 4, "files": 16, "memory_kb": 100_000}
    assert leaks({"before": before, "after": before}) == []
    more = {name: value + GROWTH_KB + 1 for name, value in before.items()}
    assert leaks({"before": before, "after": more}) == ["runs", "readers", "tasks", "files", "memory"]


def test_the_soak_sees_a_misdeed_with_another_answer() -> None:
    leaving, bad = (Misdeed(Attack("x", b""), codes) for codes in (frozenset({"internal"}), None))
    for right in (TYPED, STREAM):
        assert leaving.fault_of(right) == ""
    assert bad.fault_of(TYPED.replace(b"500", b"422")) == ""
    assert bad.fault_of(TYPED)  # a bad request is no fault of the server
    for untyped in (b"", b"HTTP/1.1 500 x\r\n\r\nInternal Server Error", STREAM[:60], STREAM + STREAM[-60:]):
        assert leaving.fault_of(untyped)
        assert bad.fault_of(untyped)
    assert leaving.fault_of(TYPED.replace(b"internal", b"not_found"))
