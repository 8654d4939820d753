"""The saver in memory works on large states aside of the event loop, and on small ones at once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from streamserve.graphs.memory_saver import MANY, MemorySaver
from tests.fakes import echo_graph

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


class Noted(MemorySaver):
    """Notes the OS threads of its calls; a write may wait for an event."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[str]] = {}
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()
        self.changes: deque[str] = deque()

    def note(self, name: str) -> None:
        self.seen.setdefault(name, []).append(threading.current_thread().name)

    def get_tuple(self, *args: Any) -> Any:
        self.note("get")
        self.change()
        return super().get_tuple(*args)

    def change(self) -> None:
        if self.changes:
            raise RuntimeError(self.changes.pop())

    def list(self, *args: Any, **options: Any) -> Iterator[Any]:
        self.note("list")
        self.change()
        yield from super().list(*args, **options)

    def put(self, *args: Any) -> Any:
        self.note("put")
        self.begun.set()
        assert self.goes_on.wait(10)
        return super().put(*args)

    def put_writes(self, *args: Any) -> None:
        self.note("put_writes")
        super().put_writes(*args)


@contextmanager
def held(saver: Noted) -> Iterator[None]:
    """Hold a write until the block ends."""
    saver.goes_on.clear()
    try:
        yield
    finally:
        saver.goes_on.set()


@pytest.mark.parametrize(("count", "aside"), [(MANY // 2, False), (2 * MANY, True)], ids=["small", "large"])
async def test_only_large_states_are_worked_on_off_the_loop(count: int, aside: bool) -> None:
    saver = Noted()
    graph = echo_graph()
    bound: Any = graph.copy({"checkpointer": saver})  # type: ignore[attr-defined]
    messages = [HumanMessage("x", id=str(number)) for number in range(count)]
    for _ in range(2):
        found = await bound.ainvoke({"messages": messages}, CONFIG)
    assert [message.id for message in found["messages"][:count]] == [message.id for message in messages]
    assert len([state async for state in bound.aget_state_history(CONFIG, limit=1)]) == 1
    loop = threading.current_thread().name
    assert {name: saver.seen[name][-1] != loop for name in ("get", "put", "list")} == dict.fromkeys(
        ("get", "put", "list"), aside
    )
    assert (set(saver.seen["put_writes"]) != {loop}) is aside


async def test_a_thread_whose_state_shrinks_is_small_again() -> None:
    saver = Noted()
    for count in (2 * MANY, 1):
        state = {**empty_checkpoint(), "channel_values": {"notes": ["x"] * count}}
        await saver.aput(CONFIG, state, {}, {"notes": str(count)})  # type: ignore[arg-type]
    assert await saver.aget_tuple(CONFIG) is not None
    assert saver.seen["get"] == [threading.current_thread().name]


async def test_a_write_is_large_by_what_is_inside() -> None:
    saver = Noted()
    stored = await saver.aput(CONFIG, empty_checkpoint(), {}, {})
    await saver.aput_writes(stored, [("__start__", {"notes": ["x"] * 2 * MANY})], "task")
    assert saver.seen["put_writes"] != [threading.current_thread().name]


async def test_a_deleted_thread_is_small_again() -> None:
    saver = Noted()
    large = {**empty_checkpoint(), "channel_values": {"notes": ["x"] * 2 * MANY}}
    await saver.aput(CONFIG, large, {}, {"notes": "1"})  # type: ignore[arg-type]
    await saver.adelete_thread("t")
    assert await saver.aget_tuple(CONFIG) is None
    assert saver.seen["get"] == [threading.current_thread().name]


async def test_a_cancelled_write_has_ended_before_its_task_does() -> None:
    saver = Noted()
    large: Any = {**empty_checkpoint(), "channel_values": {"notes": ["x"] * 2 * MANY}}
    with held(saver):
        writing = asyncio.create_task(saver.aput(CONFIG, large, {}, {"notes": "1"}))
        await asyncio.to_thread(saver.begun.wait, 10)
        writing.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not writing.done()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert saver.get_tuple(CONFIG) is not None


async def test_a_state_is_read_again_if_a_run_writes_meanwhile() -> None:
    saver = Noted()
    large: Any = {**empty_checkpoint(), "channel_values": {"notes": ["x"] * 2 * MANY}}
    await saver.aput(CONFIG, large, {}, {"notes": "1"})
    saver.changes.append("dictionary changed size during iteration")
    assert await saver.aget_tuple(CONFIG) is not None


async def test_a_list_is_read_again_if_a_subgraph_begins() -> None:
    saver = Noted()
    large: Any = {**empty_checkpoint(), "channel_values": {"notes": ["x"] * 2 * MANY}}
    await saver.aput(CONFIG, large, {}, {"notes": "1"})
    saver.changes.append("dictionary changed size during iteration")
    assert len([found async for found in saver.alist(CONFIG, limit=5)]) == 1
    saver.changes.append("another fault")
    with pytest.raises(RuntimeError, match="another fault"):
        _ = [found async for found in saver.alist(CONFIG, limit=5)]
