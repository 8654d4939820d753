"""Worlds in numbers: every scenario disturbed at every place where a task waits, and every order by seed.

`python -m tests.simulation --seeds 1000` or, to see one world again, `--replay NAME`.
"""

from __future__ import annotations

import asyncio
import gc
import re
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

import httpx

from streamserve.stores import StoreDown
from tests.simulation import mended  # noqa: F401 - its scenarios
from tests.simulation.loop import PROCESS, Place, Points
from tests.simulation.network import CALM, Weather
from tests.simulation.scenarios import SCENARIOS, both
from tests.simulation.workers import Client, Worker
from tests.simulation.world import LEASE, World

# Virtual seconds that a store is away, longer than a run waits for it; that a worker is frozen, past its lease; that
# Redis answers nothing, longer than a call waits; and that a client is frozen, past all its time limits.
AWAY, FROZEN, SLOW, ASLEEP = 7.0, 2 * LEASE, 3.0, 20.0
ROUGH = Weather(cut=0.3, lost_tail=0.1, repeated=0.1, buffered=0.1, stalled=0.1, refused=0.1)
VISITS = range(10**9)
# The number of places among which a seed chooses those of its faults.
EARLY = 160


def cancel(world: World, worker: Worker) -> None:
    """Cancel the request that waits here."""
    task = asyncio.current_task()
    if task in worker.requests:
        world.loop.call_soon(task.cancel)


def cut(world: World, process: Worker | Client) -> None:
    """Cut all connections of the process."""
    world.cut_connections(process)


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


def jump_back(world: World, worker: Worker) -> None:
    """Set the wall clock back by a minute and a half."""
    world.wall_offset -= 90.0


def quit_task(world: World, client: Client) -> None:
    """Cancel the client's task that waits here, as a user who leaves."""
    client.left = True
    task = asyncio.current_task()
    assert task is not None
    world.loop.call_soon(task.cancel)


def die(world: World, client: Client) -> None:
    """Kill the process of the clients."""
    world.kill_client()


def sleep(world: World, client: Client) -> None:
    """Freeze the process of the clients."""
    client.freeze()
    world.call_later(ASLEEP, client.wake_up)


def raising(*errors: BaseException) -> Callable[[World, Worker | Client], None]:
    """Return a fault: what is awaited here raises one of these."""

    def fail(world: World, _process: Worker | Client) -> None:
        world.points.raises = world.random.choice(errors)
        world.model_fails = "the model failed" in str(world.points.raises)

    return fail


Fault = Callable[[World, Worker], None] | Callable[[World, Client], None]
_WORKER: tuple[Fault, ...] = (cancel, cut, kill, freeze, stop, jump, jump_back)
_STORE: tuple[Fault, ...] = (fail_before, fail_after, outage)
_REDIS: tuple[Fault, ...] = (slow, cut_store)
_CLIENT: tuple[Fault, ...] = (quit_task, cut, die, sleep)
FAULTS: dict[str, Fault] = {
    **{each.__name__: each for each in (*_WORKER, *_STORE, *_REDIS, *_CLIENT)},
    "store_down": raising(StoreDown("OperationalError: disk I/O error")),
    "model_slow": raising(TimeoutError("the model failed")),
    "model_gone": raising(ConnectionResetError("the model failed"), OSError("the model failed")),
    "model_cancelled": raising(asyncio.CancelledError("the model failed")),
    "model_exits": raising(SystemExit("the model failed")),
    "net_slow": raising(httpx.ReadTimeout("no byte")),
    "net_gone": raising(httpx.ConnectError("gone"), httpx.ReadError("gone"), httpx.RemoteProtocolError("gone")),
}
# The code in which an await can raise such an error: the process, the module and the line.
WHERE = {
    "store": re.compile(r"w\d:streamserve/stores/.*(\.do\(|\.run\(|\.fields\(|storing|answered|results\.get)"),
    "model": re.compile(r"w\d:simulation/chains"),
    "net": re.compile(r"client:simulation/network"),
}
KINDS = {"memory": (), "sqlite": _STORE, "redis": (*_STORE, *_REDIS)}
OF_REDIS = {each.__name__ for each in _REDIS}


def faults_at(place: Place, kind: str) -> list[str]:
    """Return the names of the faults that may happen at a place."""
    named = [each.__name__ for each in (_CLIENT if place.process == Client.name else (*_WORKER, *KINDS[kind]))]
    for name in FAULTS:
        code = WHERE.get(name.partition("_")[0])
        if code and code.match(f"{place.process}:{place.line}"):
            named.append(name)
    return named


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

    def world(self, *, records: bool = False) -> World:
        """Return the world, not begun; `records` as for Points."""
        world: World
        if self.fault:
            points = Points({self.at}, lambda place: _disturb(world, place, self.fault), records=records)
            world = World(self.seed, kind=self.kind, workers=_workers(self.kind), points=points)
        else:
            random = Random(self.seed)
            at = {random.randrange(EARLY) for _ in range(random.choice((1, 1, 1, 2)))}
            points = Points(at, lambda place: _disturb(world, place, random.choice(faults_at(place, self.kind))))
            weather = random.choice((CALM, ROUGH))
            workers = _workers(self.kind) + (self.kind != "memory" and random.random() < 0.2)
            world = World(self.seed, kind=self.kind, workers=workers, shuffles=True, weather=weather, points=points)
        return world

    @property
    def acts(self) -> Callable[[World], Coroutine[Any, Any, None]]:
        """The acts of the clients: one scenario, or two at the same time."""
        return both(*(SCENARIOS[name] for name in self.scenario.split("+")))

    def run(self) -> World:
        """Run the world, and return it.

        Raises:
            AssertionError: something does not hold in it.
        """
        world = self.world()
        world.run(self.acts)
        return world


def _disturb(world: World, place: Place, fault: str) -> None:
    process = PROCESS.get()
    assert isinstance(process, Worker | Client)
    world.note(f"{fault} at {place.line} in {place.process}")
    world.is_disturbed = True
    FAULTS[fault](world, process)  # type: ignore[arg-type]


def _workers(kind: str) -> int:
    return 1 if kind == "memory" else 2


def places(scenario: str, kind: str) -> list[Place]:
    """Return the places where tasks of a scenario wait, undisturbed."""
    case = Case(scenario, kind, 1, "none")
    world = case.world(records=True)
    world.run(case.acts)
    return world.points.seen


def at_every_place(scenario: str, kind: str, found: Sequence[Place], visits: range = VISITS) -> Iterator[Case]:
    """Yield the cases of a scenario with each fault at each of its places.

    Args:
        visits: the visits of a process to a line that count as places. Default: all.
    """
    seen: Counter[Place] = Counter()
    for at, place in enumerate(found):
        if seen[place] in visits:
            for fault in faults_at(place, kind):
                yield Case(scenario, kind, 1, fault, at)
        seen[place] += 1


def prepare(kinds: Iterable[str], scenarios: Iterable[str] = SCENARIOS) -> None:
    """Make what all worlds share, for processes that are forked later: when it is first made, it takes time."""
    for kind, scenario in product(kinds, scenarios):
        Case(scenario, kind, 1, "none").run()
    for kind in set(kinds) - {"memory"}:
        World(1, kind=kind, workers=3).run(SCENARIOS["stream"])
    gc.disable()  # a process runs some worlds, and ends
    gc.freeze()


def by_seed(seeds: range, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[Case]:
    """Yield one case per seed: a scenario, or two at the same time."""
    names = list(SCENARIOS)
    for seed in seeds:
        random = Random(seed)
        yield Case("+".join(random.sample(names, random.choice((1, 1, 2)))), random.choice(kinds), seed)


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
