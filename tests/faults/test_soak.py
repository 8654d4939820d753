"""Tests of the soak of `make soak`, for some seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import ACTS, GROWTH_KB, LIMIT, Server, leaks, soak, wrong


async def test_cuts_cancels_and_errors_leave_nothing_behind(tmp_path: Path) -> None:
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
