"""Check every store of tests/conformance/stores.py against the RunStore contract."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from streamserve.stores import Fenced, Gap, Outcome, RunStore, ThreadLocked
from tests.conformance.machine import Follower, StoreMachine
from tests.conformance.stores import DONE, STORES, Options, a_run, an_ended_run
from tests.limits import LIMIT

EXAMPLES, LONG_EXAMPLES = 60, 1_000


@pytest.mark.parametrize("name", STORES)
def test_a_store_does_what_the_model_does(name: str, pytestconfig: pytest.Config) -> None:
    examples = LONG_EXAMPLES if pytestconfig.getoption("--long") else EXAMPLES
    bounds = settings(max_examples=examples, stateful_step_count=40, deadline=None, database=None)
    run_state_machine_as_test(lambda: StoreMachine(STORES[name]), settings=bounds)


async def test_one_of_many_runs_with_the_same_key_is_new(store: RunStore) -> None:
    found = await asyncio.gather(*(store.acquire(a_run(f"run-{number}", "key")) for number in range(20)))
    assert sum(new for _, new in found) == 1
    assert len({record.run_id for record, _ in found}) == 1


async def test_followers_of_a_live_run_get_each_block_once_in_order(store: RunStore) -> None:
    blocks = [b"block %d" % number for number in range(1000)]
    await store.acquire(a_run("run"))

    async def follow() -> list[bytes]:
        follower = Follower(store, "run")
        while len(follower.blocks) < len(blocks):
            await follower.catch_up()
            if len(follower.blocks) < len(blocks):
                await follower.woken.wait()
        follower.unsubscribe()
        return follower.blocks

    async def write() -> None:
        for first in range(0, len(blocks), 10):
            outcome = DONE if first + 10 == len(blocks) else None
            await store.append("run", 1, first + 1, blocks[first : first + 10], outcome)
            await asyncio.sleep(0)

    async with asyncio.timeout(LIMIT):
        *read, _ = await asyncio.gather(follow(), follow(), follow(), write())
    assert read == [blocks] * 3


async def test_a_second_terminal_block_is_fenced(store: RunStore) -> None:
    await an_ended_run(store, "run")
    with pytest.raises(Fenced):
        await store.append("run", 1, 2, [b"again"], DONE)
    assert list((await store.read("run", 0, 10)).blocks) == [b"x"]


async def test_one_of_several_concurrent_ends_is_stored(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    ends = (store.append("run", 1, 1, [b"%d" % number], DONE) for number in range(5))
    assert await asyncio.gather(*ends) == [2] * 5  # the reply to a first try may have been lost
    assert len((await store.read("run", 0, 10)).blocks) == 1


async def test_nothing_follows_the_end(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    await store.append("run", 1, 1, [b"end"], DONE)
    with pytest.raises(Fenced):
        await store.append("run", 1, 2, [b"more"])
    with pytest.raises(Fenced):
        await store.append("run", 1, 1, [b"end", b"more"])


async def test_a_block_stored_twice_is_kept_once(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    assert await store.append("run", 1, 1, [b"a", b"b"]) == 3
    assert await store.append("run", 1, 1, [b"a", b"b", b"c"]) == 4
    assert (await store.read("run", 0, 10)).blocks == [b"a", b"b", b"c"]


async def test_a_gap_names_the_number_that_is_missing(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    await store.append("run", 1, 1, [b"a"])
    with pytest.raises(Gap) as caught:
        await store.append("run", 1, 3, [b"c"])
    assert caught.value.next_seq == 2


async def test_a_run_whose_caller_left_does_not_keep_its_thread(store: RunStore) -> None:
    storing = asyncio.create_task(store.acquire(a_run("left", thread="thread")))
    await asyncio.sleep(0)  # the store is at it
    storing.cancel()
    await asyncio.wait({storing})
    async with asyncio.timeout(LIMIT):
        while await store.ahead(a_run("next", thread="thread")):
            if not storing.cancelled():
                await store.append("left", 1, 1, [b"x"], DONE)  # a store that never waits
            for lost in await store.take_over_lost():
                await store.append(lost.run_id, lost.attempt, lost.last_id + 1, [b"x"], Outcome("lost"))
            await store.check()


async def test_a_cancel_reaches_the_owner_of_a_live_run_only(store: RunStore, options: Options) -> None:
    await store.acquire(a_run("live"))
    await an_ended_run(store, "ended")
    for run_id in ("live", "ended", "unknown"):
        await store.request_cancel(run_id)
    assert options.cancelled == ["live"]


async def test_one_of_many_runs_gets_a_thread_alone(store: RunStore) -> None:
    runs = [a_run(f"run-{number}", thread="thread") for number in range(20)]
    found = await asyncio.gather(*(store.acquire(run, alone=True) for run in runs), return_exceptions=True)
    (winner,) = [record for record, new in (made for made in found if isinstance(made, tuple)) if new]
    assert {busy.holder for busy in found if isinstance(busy, ThreadLocked)} == {winner.run_id}
    assert len([run for run in runs if await store.get(run.run_id)]) == 1


async def test_a_thread_is_free_again_when_its_run_has_ended(store: RunStore) -> None:
    await store.acquire(a_run("first", thread="thread"), alone=True)
    await store.acquire(a_run("other", thread="another thread"), alone=True)
    with pytest.raises(ThreadLocked):
        await store.acquire(a_run("second", thread="thread"), alone=True)
    await store.append("first", 1, 1, [b"end"], DONE)
    assert (await store.acquire(a_run("second", thread="thread"), alone=True))[1]
    found = await store.get("second")
    assert found is not None
    assert found.thread == "thread"


async def test_runs_of_a_thread_wait_in_order(store: RunStore) -> None:
    runs = [a_run(f"run-{number}", thread="thread") for number in range(4)]
    for run in runs:
        await store.acquire(run)
    assert await store.ahead(runs[0]) == []
    assert await store.ahead(runs[3]) == ["run-0", "run-1", "run-2"]
    assert await store.ahead(a_run("not stored", thread="thread")) == ["run-0", "run-1", "run-2", "run-3"]
    await store.append("run-1", 1, 1, [b"end"], DONE)
    assert await store.ahead(runs[3]) == ["run-0", "run-2"]
    assert await store.ahead(a_run("elsewhere", thread="another")) == []
    assert await store.ahead(a_run("none")) == []


async def test_a_key_finds_its_run_even_if_it_holds_the_thread(store: RunStore) -> None:
    await store.acquire(a_run("first", "key", "thread"), alone=True)
    found, new = await store.acquire(a_run("again", "key", "thread"), alone=True)
    assert (found.run_id, new) == ("first", False)
    same = (store.acquire(a_run(f"run-{number}", "other", "other"), alone=True) for number in range(10))
    results = await asyncio.gather(*same)
    assert len({record.run_id for record, _ in results}) == 1


@pytest.mark.parametrize("store", sorted({*STORES} - {"memory"}), indirect=True)
async def test_a_run_given_up_is_handed_out_to_its_own_process(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    await store.append("run", 1, 1, [b"a"])
    assert await store.take_over_lost() == []
    store.give_up("run")
    assert [(run.run_id, run.attempt, run.last_id) for run in await store.take_over_lost()] == [("run", 2, 1)]
    assert await store.take_over_lost() == []
    with pytest.raises(Fenced):
        await store.append("run", 1, 2, [b"b"])
    assert await store.append("run", 2, 2, [b"lost"], DONE) == 3


async def test_a_posted_append_is_answered_like_an_awaited_one(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    answers: asyncio.Queue[int | Exception] = asyncio.Queue()
    async with asyncio.timeout(10):
        store.post("run", 1, 1, [b"a"], None, answers.put_nowait)
        assert await answers.get() == 2
        store.post("run", 1, 4, [b"d"], None, answers.put_nowait)
        assert isinstance(await answers.get(), Gap)
        store.post("run", 1, 2, [b"end"], DONE, answers.put_nowait)
        assert await answers.get() == 3
        store.post("run", 1, 3, [b"more"], None, answers.put_nowait)
        assert isinstance(await answers.get(), Fenced)


async def test_a_purged_run_takes_no_block_again(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    await store.append("run", 1, 1, [b"a", b"end"], DONE)
    await store.purge("run")
    for first, blocks in ((1, [b"a", b"end"]), (2, [b"end"]), (3, [b"more"])):
        with pytest.raises(Fenced):
            await store.append("run", 1, first, blocks, DONE)


async def test_an_end_may_follow_its_block(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    follower = Follower(store, "run")
    await store.append("run", 1, 1, [b"end"])
    await follower.catch_up()
    assert await store.append("run", 1, 1, [b"end"], DONE) == 2
    async with asyncio.timeout(LIMIT):
        await follower.woken.wait()
    assert await store.read("run", 1, 10) == ([], True)
    found = await store.get("run")
    assert found is not None
    assert (found.status, found.last_id, found.purged is False) == ("done", 1, True)
    follower.unsubscribe()


async def test_shown_blocks_reach_readers_here_before_they_are_stored(store: RunStore) -> None:
    await store.acquire(a_run("run"))
    follower = Follower(store, "run")
    await follower.catch_up()
    store.show("run", 1, [b"a"])
    await follower.catch_up()
    assert follower.blocks in ([b"a"], [])  # a store that never waits has nothing to show
    await store.append("run", 1, 1, [b"a"])
    await follower.catch_up()
    assert follower.blocks == [b"a"]
    follower.unsubscribe()


@pytest.mark.parametrize("store", sorted({*STORES} - {"memory"}), indirect=True)
async def test_a_run_that_the_store_has_lost_is_restored(store: RunStore) -> None:
    run = replace(a_run("run", "key", "thread"), last_id=7)
    await store.restore(run)
    await store.restore(run)
    found = await store.get("run")
    assert found is not None
    assert (found.last_id, found.status, found.key, found.thread) == (0, "queued", "key", "thread")
    assert (await store.acquire(a_run("again", "key")))[0].run_id == "run"
    assert await store.ahead(a_run("next", thread="thread")) == ["run"]
    assert await store.append("run", 1, 1, [b"a"]) == 2
    await store.restore(run)
    assert await store.append("run", 1, 2, [b"end"], DONE) == 3


async def test_many_appends_of_one_moment_are_all_stored(store: RunStore) -> None:
    names = [f"run-{number}" for number in range(60)]
    for name in names:
        await store.acquire(a_run(name))
    for first in (1, 41):
        blocks = [b"%d" % number for number in range(first, first + 40)]
        stored = await asyncio.gather(*(store.append(name, 1, first, blocks) for name in names))
        assert stored == [first + 40] * len(names)
    for name in names:
        assert list((await store.read(name, 0, 100)).blocks) == [b"%d" % number for number in range(1, 81)]
