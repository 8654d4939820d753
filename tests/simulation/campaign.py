"""Worlds in numbers: every scenario disturbed at every place where it waits, and every order by seed.

`python -m tests.simulation --seeds 1000` or, to see one world again, `--replay NAME`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.simulation import mended  # noqa: F401 - its scenarios
from tests.simulation.loop import PROCESS, Points
from tests.simulation.network import CALM, Weather
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.workers import Worker
from tests.simulation.world import LEASE, World

# Virtual seconds that a store is away, longer than a run waits for it, that a worker is frozen, past its lease, and
# that Redis answers nothing, longer than a call waits.
AWAY, FROZEN, SLOW = 7.0, 2 * LEASE, 3.0
ROUGH = Weather(cut=0.3, lost_tail=0.1, repeated=0.1, buffered=0.1, stalled=0.1, refused=0.1)


def cancel(world: World, worker: Worker) -> None:
    """Cancel the request that waits here."""
    task = asyncio.current_task()
    if task in worker.requests:
        world.loop.call_soon(task.cancel)


def cut(world: World, worker: Worker) -> None:
    """Cut all connections of the worker."""
    world._cut_connections(worker)


def kill(world: World, worker: Worker) -> None:
    """Kill the worker."""
    world.kill(worker)


def freeze(world: World, worker: Worker) -> None:
    """Freeze the worker past its lease."""
    worker.freeze()
    world.call_later(FROZEN, worker.wake_up)


def stop(world: World, worker: Worker) -> None:
    """Stop the worker as SIGTERM does."""
    world.stop_soon(worker)


def fail_before(world: World, worker: Worker) -> None:
    """Fail the next transaction before it is committed."""
    world.faults.before += 1


def fail_after(world: World, worker: Worker) -> None:
    """Fail the next transaction after it was committed."""
    world.faults.after += 1


def outage(world: World, worker: Worker) -> None:
    """Take the store away for longer than a run waits for it."""
    world.faults.down = True

    def back() -> None:
        world.faults.down = False

    world.call_later(AWAY, back)


def jump(world: World, worker: Worker) -> None:
    """Set the wall clock forward by a minute and a half."""
    world.wall_offset += 90.0


def slow(world: World, worker: Worker) -> None:
    """Have Redis answer nothing for a while."""
    world.faults.slow_until = world.loop.time() + SLOW


def cut_store(world: World, worker: Worker) -> None:
    """Cut the worker's connections to Redis."""
    assert world.redis is not None
    world.redis.cut(worker)


FAULTS: dict[str, Callable[[World, Worker], None]] = {
    each.__name__: each
    for each in (cancel, cut, kill, freeze, stop, jump, fail_before, fail_after, outage, slow, cut_store)
}
OF_REDIS = {"slow", "cut_store"}
OF_STORES = {"fail_before", "fail_after", "outage"} | OF_REDIS
KINDS = {
    "memory": [name for name in FAULTS if name not in OF_STORES],
    "sqlite": [name for name in FAULTS if name not in OF_REDIS],
    "redis": list(FAULTS),
}


@dataclass(frozen=True)
class Case:
    """One world: a scenario, and the fault at one place in it; or a scenario by a seed that decides all."""

    scenario: str
    kind: str
    seed: int
    fault: str = ""
    at: int = -1

    def __str__(self) -> str:
        return ":".join(map(str, (self.scenario, self.kind, self.seed, self.fault, self.at)))

    @classmethod
    def parse(cls, text: str) -> Case:
        """Return the case with this name."""
        scenario, kind, seed, fault, at = text.split(":")
        return cls(scenario, kind, int(seed), fault, int(at))

    def world(self) -> World:
        """Return the world, not begun."""
        points = Points()
        world: World
        if self.fault:
            points = Points(self.at, lambda: _disturb(world, self.fault))
            world = World(self.seed, kind=self.kind, workers=_workers(self.kind), points=points)
        else:
            random = Random(self.seed)
            points = Points(random.randrange(120), lambda: _disturb(world, random.choice(KINDS[self.kind])))
            weather = random.choice((CALM, ROUGH))
            workers = _workers(self.kind) + (self.kind != "memory" and random.random() < 0.2)
            world = World(self.seed, kind=self.kind, workers=workers, shuffles=True, weather=weather, points=points)
        return world

    def run(self) -> World:
        """Run the world, and return it.

        Raises:
            AssertionError: something does not hold in it.
        """
        world = self.world()
        world.run(SCENARIOS[self.scenario])
        return world


def _disturb(world: World, fault: str) -> None:
    worker = PROCESS.get()
    assert isinstance(worker, Worker)
    world.note(f"{fault} at {world.points.seen[-1]} in {worker.name}")
    FAULTS[fault](world, worker)


def _workers(kind: str) -> int:
    return 1 if kind == "memory" else 2


def places(scenario: str, kind: str) -> int:
    """Return the number of places where tasks of a scenario wait, undisturbed."""
    return len(Case(scenario, kind, 1, "none").run().points.seen)


def at_every_place(scenario: str, kind: str, count: int) -> Iterator[Case]:
    """Yield the cases of a scenario with each fault at each of its places."""
    for fault in KINDS[kind]:
        for at in range(count):
            yield Case(scenario, kind, 1, fault, at)


def prepare(kinds: Iterable[str]) -> None:
    """Make what all worlds share, for processes that are forked later."""
    for kind in kinds:
        Case("stream", kind, 1, "none").run()


def by_seed(seeds: range, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Case]:
    """Yield one case per seed."""
    for seed in seeds:
        random = Random(seed)
        yield Case(random.choice(list(SCENARIOS)), random.choice(kinds), seed)


def fault_of(case: Case) -> str | None:
    """Run a case; return None, or what does not hold in it."""
    try:
        case.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})"
    return None
