"""Scenarios: the acts of clients in simulated worlds. Faults change how a run ends, never what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import httpx
from streamserve_sdk import RemoteRunnable, StreamServeError

from tests.simulation.chains import tokens_of
from tests.simulation.network import CALM
from tests.simulation.world import World

Scenario = Callable[[World], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(run: Scenario) -> Scenario:
    """Add a scenario under its function's name."""
    SCENARIOS[run.__name__] = run
    return run


def both(*scenarios: Scenario) -> Scenario:
    """Return the scenario in which these happen at the same time."""

    async def run(world: World) -> None:
        await asyncio.gather(*(each(world) for each in scenarios))

    return run


async def read(world: World, remote: RemoteRunnable, given: dict[str, Any], *, leave_after: int | None = None) -> str:
    """Read a stream of `tell`, and check every chunk; return "whole", "left" or the code of its error."""
    return await check_chunks(world, remote.astream(given), given, leave_after=leave_after)


async def check_chunks(
    world: World, chunks: AsyncIterator[Any], given: dict[str, Any], *, after: int = 0, leave_after: int | None = None
) -> str:
    """Check the chunks of a stream of `tell`; `after` is the number of chunks that the reader has already."""
    expected, got = tokens_of(given), after
    try:
        async with aclosing(chunks) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                assert got < len(expected), f"invented: {chunk!r}"
                assert chunk == expected[got], f"{chunk!r} in place of {expected[got]!r}"
                got += 1
                if got == leave_after:
                    return "left"
    except StreamServeError as error:
        return note_error(world, error)
    assert got == len(expected), f"half an answer as the whole: {got} of {len(expected)}"
    world.note(f"{given['name']} whole")
    return "whole"


def note_error(world: World, error: StreamServeError) -> str:
    """Note an error that a caller got, and return its code."""
    code = getattr(error, "code", None) or type(error).__name__
    world.note(f"error {code}")
    assert code not in ("protocol_error", "ProtocolError"), f"a broken protocol: {error}"
    return str(code)


def client(world: World) -> httpx.AsyncClient:
    """Return a plain client of the world's servers."""
    return httpx.AsyncClient(
        transport=world.network(), base_url="http://server", headers={"X-Caller": "ann"}, timeout=30
    )


async def ask(world: World, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response | None:
    """Return an answer, or None if the connection broke; an answer of 500 is a fault."""
    async with client(world) as http:
        try:
            answer = await http.request(
                method, path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
        except httpx.TransportError:
            return None
    world.note(f"{method} {path} {answer.status_code}")
    world.hear(path, answer)
    if answer.status_code >= 500:
        code = answer.json()["code"]
        expected = {"store_unavailable", "shutting_down", "cancelled", "run_lost", "timeout"}
        assert code in expected | ({"internal"} if world.model_fails else set()), answer.text
    return answer


async def begun(world: World, value: dict[str, Any], chain: str = "tell") -> str | None:
    """Begin a run in the background; return its id, or None if there is no answer with one."""
    asked = await ask(world, "POST", f"/{chain}/runs", {"input": value})
    return asked.json()["run_id"] if asked is not None and asked.status_code == 202 else None


def given(name: str, tokens: int = 5, **more: Any) -> dict[str, Any]:
    """Return an input of the chain `tell`."""
    return {"name": name, "tokens": tokens, **more}


@scenario
async def stream(world: World) -> None:
    """A stream is read to its end."""
    await read(world, world.remote("tell"), given("a"))


@scenario
async def two_readers(world: World) -> None:
    """Two streams run side by side; the model of one fails."""
    ends = await asyncio.gather(
        read(world, world.remote("tell"), given("a")), read(world, world.remote("tell"), given("b", fails_at=3))
    )
    assert ends[1] != "whole"


@scenario
async def invoke(world: World) -> None:
    """A call returns the whole answer."""
    try:
        answer = await world.remote("tell").ainvoke(given("a"))
    except StreamServeError as error:
        note_error(world, error)
    else:
        assert answer == "".join(tokens_of(given("a"))), answer


@scenario
async def batch(world: World) -> None:
    """A batch returns an answer for each input."""
    inputs = [given("a", 3), given("b", 2)]
    try:
        answers = await world.remote("tell").abatch(inputs)
    except StreamServeError as error:
        note_error(world, error)
    else:
        assert answers == ["".join(tokens_of(each)) for each in inputs], answers


@scenario
async def leave(world: World) -> None:
    """A reader leaves in the middle: its run ends."""
    await read(world, world.remote("tell"), given("a", 30), leave_after=2)


@scenario
async def background(world: World) -> None:
    """A run in the background is joined, and its output fetched."""
    asked = await ask(world, "POST", "/tell/runs", {"input": given("a")}, Idempotency_Key="key-1")
    if asked is None or asked.status_code != 202:
        return
    run_id = asked.json()["run_id"]
    output = await ask(world, "GET", f"/runs/{run_id}/output?wait=20")
    if output is not None and output.status_code == 200:
        assert output.json()["output"] == "".join(tokens_of(given("a"))), output.text


@scenario
async def wait_long(world: World) -> None:
    """A request waits for a run that takes longer than a worker's stop."""
    if run_id := await begun(world, given("a", 6, late=2.0)):
        await ask(world, "GET", f"/runs/{run_id}/output?wait=30")


@scenario
async def cancel(world: World) -> None:
    """A run in the background is cancelled; what its answer said stays so."""
    if (run_id := await begun(world, given("a", 20))) is None:
        return
    await asyncio.sleep(0.3)
    answer = await ask(world, "POST", f"/runs/{run_id}/cancel?wait=20")
    if answer is not None and answer.status_code == 200 and answer.json()["status"] not in ("running", "queued"):
        later = await ask(world, "GET", f"/runs/{run_id}")
        if later is not None and later.status_code == 200:
            assert later.json()["status"] == answer.json()["status"], (answer.text, later.text)


@scenario
async def delete(world: World) -> None:
    """An ended run is dropped, and never read again."""
    if (run_id := await begun(world, given("a", 2))) is None:
        return
    await ask(world, "GET", f"/runs/{run_id}/output?wait=20")
    dropped = await ask(world, "DELETE", f"/runs/{run_id}")
    if dropped is not None and dropped.status_code == 204:
        gone = await ask(world, "GET", f"/runs/{run_id}/blocks?after=0")
        assert gone is None or gone.status_code in (410, 503), gone.text


@scenario
async def drop_live(world: World) -> None:
    """A live run is dropped: after 204 nobody reads it."""
    if (run_id := await begun(world, given("a", 20))) is None:
        return
    await asyncio.sleep(0.3)
    path = f"/runs/{run_id}"
    dropped = await ask(world, "DELETE", path)
    if dropped is not None and dropped.status_code == 204:
        gone = await ask(world, "GET", f"{path}/blocks?after=0")
        assert gone is None or gone.status_code in (410, 503), gone.text


@scenario
async def late(world: World) -> None:
    """A model that ignores its cancellation is abandoned."""
    await read(world, world.remote("tell"), given("a", 3, late=5.0, ignores_cancel=True), leave_after=1)


@scenario
async def repeated(world: World) -> None:
    """One key is one run, however often its request comes."""
    body = {"input": given("a")}
    answers = await asyncio.gather(*(ask(world, "POST", "/tell/runs", body, Idempotency_Key="k") for _ in range(3)))
    ids = {answer.json()["run_id"] for answer in answers if answer is not None and answer.status_code == 202}
    assert len(ids) <= 1 or world.kind == "memory", ids


@scenario
async def drain(world: World) -> None:
    """A worker stops while a stream runs: the reader gets its end, and other workers take over."""
    reading = asyncio.ensure_future(read(world, world.remote("tell"), given("a", 6)))
    await asyncio.sleep(0.3)
    await world.stop(world.workers[0])
    await reading


@scenario
async def deadline(world: World) -> None:
    """A run that takes too long ends with `timeout`."""
    assert await read(world, world.remote("hurry"), given("a", 30)) != "whole"


@scenario
async def limits(world: World) -> None:
    """One run at a time: the others are refused, and the place is free afterwards."""
    calls = (ask(world, "POST", "/alone/invoke", {"input": given(name, 2, alone=True)}) for name in "abc")
    await asyncio.gather(*calls)
    await asyncio.sleep(10.0)
    world.weather = CALM  # a proxy that repeats the last request would have its own 429
    last = await ask(world, "POST", "/alone/invoke", {"input": given("last", 1)})
    assert last is None or last.status_code != 429, last.text


@scenario
async def share(world: World) -> None:
    """A token shows one run to somebody else."""
    if (run_id := await begun(world, given("a", 3))) is None:
        return
    path = f"/runs/{run_id}"
    token = await ask(world, "POST", f"{path}/share", {})
    if token is not None and token.status_code == 201:
        seen = await ask(world, "GET", f"{path}/output?wait=20&token={token.json()['token']}", X_Caller="bob")
        assert seen is None or seen.status_code not in (401, 403, 404), seen.text
    unseen = await ask(world, "GET", path, X_Caller="bob")
    assert unseen is None or unseen.status_code in (404, 503), unseen.text


@scenario
async def orphan(world: World) -> None:
    """A run whose reader does not come back is cancelled after its grace."""
    async with client(world) as http:
        with contextlib.suppress(httpx.TransportError):
            headers = {"Idempotency-Key": "orphan"}
            async with http.stream("POST", "/tell/stream", json={"input": given("a", 60)}, headers=headers) as answer:
                async for _ in answer.aiter_raw():
                    break


@scenario
async def retention(world: World) -> None:
    """A run is forgotten after its time."""
    if (run_id := await begun(world, given("a", 1))) is None:
        return
    await asyncio.sleep(30.0)
    if world.wall_offset < 0:
        return
    gone = await ask(world, "GET", f"/runs/{run_id}/output")
    assert gone is None or gone.status_code in (404, 409, 410, 503), gone.text


def message(text: str, thread: str) -> dict[str, Any]:
    """Return a request to a graph on a thread."""
    return {"input": {"messages": [["user", text]]}, "config": {"configurable": {"thread_id": thread}}}


def thread_of(world: World) -> str:
    """Return the name of a thread of this world."""
    return f"thread-{world.seed}"


async def _two_on_a_thread(world: World, chain: str) -> None:
    thread = thread_of(world)
    first = asyncio.ensure_future(ask(world, "POST", f"/{chain}/runs", message("one", thread)))
    await asyncio.sleep(0.1)
    second = await ask(world, "POST", f"/{chain}/runs", message("two", thread))
    for answer in (await first, second):
        if answer is not None and answer.status_code == 202:
            await ask(world, "GET", f"/runs/{answer.json()['run_id']}/output?wait=30")


@scenario
async def enqueue(world: World) -> None:
    """A second run waits for the first one on its thread."""
    await _two_on_a_thread(world, "bot")


@scenario
async def reject(world: World) -> None:
    """A second run on a thread is refused, or comes after the first."""
    await _two_on_a_thread(world, "bot_reject")


@scenario
async def interrupt(world: World) -> None:
    """A second run ends the first one on its thread."""
    await _two_on_a_thread(world, "bot_interrupt")


@scenario
async def rollback(world: World) -> None:
    """A second run takes the place of the first one on its thread."""
    await _two_on_a_thread(world, "bot_rollback")


@scenario
async def recover(world: World) -> None:
    """A run whose worker dies is continued by another one."""
    asked = await ask(world, "POST", "/bot/runs", message("one", thread_of(world)))
    if asked is None or asked.status_code != 202:
        return
    run_id = asked.json()["run_id"]
    if world.kind != "memory":
        await asyncio.sleep(0.1)
        world.kill(world.workers[0])
    await asyncio.sleep(12.0)
    await ask(world, "GET", f"/runs/{run_id}/output?wait=20")


@scenario
async def question(world: World) -> None:
    """A graph asks, and goes on with the answer."""
    thread = thread_of(world)
    if await ask(world, "POST", "/bot/invoke", message("ask me", thread)) is None:
        return
    body = {**message("x", thread), "input": {"__command__": {"resume": "yes"}}}
    await ask(world, "POST", "/bot/invoke", body)


@scenario
async def join(world: World) -> None:
    """Readers join one run at its start, after its end, and again after they have left it."""
    value = given("a", 8)
    if (run_id := await begun(world, value)) is None:
        return
    await asyncio.gather(
        check_chunks(world, world.remote("tell").ajoin(run_id), value),
        _join_twice(world, run_id, value),
        _join_at_the_end(world, run_id, value),
    )


async def _join_twice(world: World, run_id: str, value: dict[str, Any]) -> None:
    if await check_chunks(world, world.remote("tell").ajoin(run_id), value, leave_after=3) == "left":
        await check_chunks(world, world.remote("tell").ajoin(run_id, 4), value, after=3)


async def _join_at_the_end(world: World, run_id: str, value: dict[str, Any]) -> None:
    await asyncio.sleep(3.0)
    await check_chunks(world, world.remote("tell").ajoin(run_id), value)


@scenario
async def resume(world: World) -> None:
    """A reader leaves, and another client continues from its cursor, by the same key."""
    value, headers = given("a", 12), {"Idempotency-Key": "resume"}
    seen: list[str] = []
    for last in (4, 8, 99):
        seen += await _blocks(world, value, {**headers, "Last-Event-ID": str(len(seen))}, until=last)
    assert seen == [f"id: {number}" for number in range(1, len(seen) + 1)], seen


async def _blocks(world: World, value: dict[str, Any], headers: dict[str, str], *, until: int) -> list[str]:
    """Return the ids of the whole blocks that a client got before it left."""
    text = b""
    async with client(world) as http:
        with contextlib.suppress(httpx.TransportError):
            async with http.stream("POST", "/tell/stream", json={"input": value}, headers=headers) as answer:
                if answer.status_code == 200:
                    async for part in answer.aiter_raw():
                        text += part
                        if f"id: {until}\n".encode() in text:
                            break
    return re.findall(r"^id: \d+$", text.decode().rpartition("\n\n")[0], re.MULTILINE)


@scenario
async def poll(world: World) -> None:
    """A run is read as JSON by long polling."""
    value = given("a", 6)
    if (run_id := await begun(world, value)) is None:
        return
    seen: list[dict[str, str]] = []
    for _ in range(30):
        found = await ask(world, "GET", f"/runs/{run_id}/blocks?after={len(seen)}&wait=5")
        if found is not None and found.status_code != 200:
            break
        seen += found.json()["blocks"] if found is not None else []
    assert [block["id"] for block in seen] == list(range(1, len(seen) + 1)), seen


@scenario
async def keyed(world: World) -> None:
    """A call with a key is awaited in pieces, and is one run."""
    value, answers = given("a", 8), []
    for _ in range(6):
        answer = await ask(world, "POST", "/tell/invoke?wait=0.3", {"input": value}, Idempotency_Key="call")
        if answer is not None and answer.status_code == 200:
            answers.append(answer.json()["output"])
    assert set(answers) <= {"".join(tokens_of(value))}, answers


@scenario
async def sync_step(world: World) -> None:
    """A sync step in an OS thread is called, streamed, cancelled and left."""
    value = given("a", 3)
    left = asyncio.ensure_future(check_output(world, value))
    if (run_id := await begun(world, given("b", 3), "sync")) is not None:
        await ask(world, "POST", f"/runs/{run_id}/cancel?wait=5")
    try:
        async with aclosing(world.remote("sync").astream(given("c", fails_at=0))) as stream:
            async for chunk in stream:
                raise AssertionError(f"invented: {chunk!r}")
    except StreamServeError as error:
        note_error(world, error)
    await left


async def check_output(world: World, value: dict[str, Any]) -> None:
    """Call the chain with a sync step."""
    answer = await ask(world, "POST", "/sync/invoke", {"input": value})
    if answer is not None and answer.status_code == 200:
        assert answer.json()["output"] == "".join(tokens_of(value)), answer.text


@scenario
async def events(world: World) -> None:
    """A log and the events of a chain are read to their ends."""
    for endpoint in ("stream_log", "stream_events"):
        await ask(world, "POST", f"/tell/{endpoint}", {"input": given("a", 3)})


@scenario
async def thread_state(world: World) -> None:
    """The state of a thread is updated and deleted beside a run."""
    path = f"/bot/threads/{thread_of(world)}"
    run = asyncio.ensure_future(ask(world, "POST", "/bot/runs", message("one", path.rpartition("/")[2])))
    await ask(world, "POST", f"{path}/state", {"values": {"messages": [["user", "more"]]}, "as_node": "ask"})
    await run
    await asyncio.sleep(2.0)
    state = await ask(world, "GET", f"{path}/state")
    if await ask(world, "DELETE", path) is not None and state is not None:
        await ask(world, "GET", f"{path}/history")
