"""Scenarios of the faults that were found by reading, before there were simulated worlds."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from tests.simulation.chains import STAGE
from tests.simulation.scenarios import ask, begun, client, given, message, read, scenario, thread_of
from tests.simulation.world import SETTINGS, World


@scenario
async def odd_error(world: World) -> None:
    """A model fails with a text that has no UTF-8, and with an exception that has no text."""
    for name in ("half", "mute"):
        value = given(name, 3, fails_at=1, fails_with=name)
        assert await read(world, world.remote("frank"), value) != "whole"
        if run_id := await begun(world, value, "frank"):
            await ask(world, "GET", f"/runs/{run_id}/output?wait=20")


@scenario
async def misfit(world: World) -> None:
    """A run whose worker dies does not fit its chain any more, whose code exits; others are recovered and dropped."""
    thread = thread_of(world)
    for chain, body in (("fickle", {"input": {"text": "x"}}), ("bot", message("one", thread))):
        body.setdefault("config", {"configurable": {"thread_id": f"{thread}-{chain}"}})
        await ask(world, "POST", f"/{chain}/runs", body)
    STAGE.quits = True
    await asyncio.sleep(0.5)
    for worker in world.workers[:-1]:
        world.kill(worker)
    await asyncio.sleep(12.0)


@scenario
async def come_back(world: World) -> None:
    """Readers return about when the grace of their runs ends."""
    await asyncio.gather(*(_come_back(world, f"reader-{number}", number * 0.003) for number in range(8)))


async def _come_back(world: World, name: str, early: float) -> None:
    value, headers = given(name, 5, late=1.0), {"Idempotency-Key": name}
    async with client(world) as http:
        with contextlib.suppress(httpx.TransportError):
            async with http.stream("POST", "/tell/stream", json={"input": value}, headers=headers) as answer:
                await anext(answer.aiter_raw(), None)
            await asyncio.sleep(SETTINGS["orphan_grace"] - early)
            await http.post("/tell/stream", json={"input": value}, headers=headers)


@scenario
async def one_thread(world: World) -> None:
    """Of many runs on a thread at the same time, those that are refused leave nothing."""
    body = message("one", thread_of(world))
    await asyncio.gather(*(ask(world, "POST", "/bot_reject/runs", body) for _ in range(4)))
    await asyncio.gather(*(ask(world, "POST", "/bot_reject/runs", body, Idempotency_Key="k") for _ in range(3)))


@scenario
async def long_step(world: World) -> None:
    """Workers stop while a sync step goes on that takes longer than a stop may."""
    await begun(world, given("a", 3, late=30.0), "sync")
    await asyncio.sleep(4.0)
    for worker in world.workers:
        world.stop_soon(worker)
    await asyncio.sleep(20.0)
