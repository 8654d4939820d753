"""A world: workers over one store, clients and their network, in virtual time, all from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import random
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import httpx
from fastapi import FastAPI, Request
from streamserve_sdk import RemoteRunnable, RetryPolicy

from streamserve import lifespan as lifespans
from streamserve.api.services import Services, services_in
from streamserve.app import create_app
from streamserve.auth import Identity
from streamserve.http import body
from streamserve.runs.runs import Runs
from streamserve.serving.limits import Limits
from streamserve.settings import Settings
from streamserve.stores import MemoryStore, RunRecord, RunStore
from streamserve.stores.base import TERMINAL
from streamserve.stores.bounds import Bounds
from streamserve.stores.redis import RedisStore
from streamserve.stores.redis.records import record_of
from streamserve.stores.redis.retention import blocks_ttl
from streamserve.stores.sqlite import SqliteStore
from streamserve.stores.sqlite import store as sqlite_store
from streamserve.stores.sqlite.rows import find_record
from streamserve.stores.sqlite.schema import connect
from streamserve.telemetry import loop_monitor
from tests.fakes import registry_of
from tests.simulation import invariants
from tests.simulation.chains import SAVER, STAGE, chains
from tests.simulation.database import Faults, simulated
from tests.simulation.loop import SYNC_DELAY, Points, SimulatedLoop, Watched
from tests.simulation.network import CALM, Network, Weather
from tests.simulation.redis import Redis
from tests.simulation.workers import Client, Worker

# Seconds since the epoch at which every world begins.
EPOCH = 1_800_000_000.0
# Virtual seconds after which a scenario that has not ended is stuck.
LIMIT = 600.0
LEASE = 4.0
SETTINGS: dict[str, Any] = {
    "orphan_grace": 3.0,
    "keepalive": 1.0,
    "run_timeout": 60.0,
    "cancel_grace": 2.0,
    "store_patience": 5.0,
    "drain_time": 4.0,
    "unread_timeout": 10.0,
    "retention": 20.0,
    "max_attempts": 2,
    "write_interval": 0.02,
    "secret": "s" * 32,
}
URLS = {"memory": "memory:", "sqlite": "sqlite:////nowhere", "redis": "redis://127.0.0.1:6379/0"}
# Virtual seconds that a worker may take to stop, by docs/deploy.md, and a little for the messages.
STOP = SETTINGS["drain_time"] + SETTINGS["cancel_grace"] + 1.0 + 0.5
_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")


async def _guard(request: Request) -> Identity:
    return Identity(request.headers.get("X-Caller", "ann"))


@lru_cache
def _app(number: int, kind: str) -> FastAPI:
    settings = Settings(**SETTINGS, store=URLS[kind], checkpoints="memory:")
    return create_app(registry_of(chains()), settings, guard=_guard)


@lru_cache
def _empty_file() -> bytes:
    """Return a file with tables and no row, which is what the first connection makes of none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.sqlite"
        connect(path).close()
        return path.read_bytes()


# redis-py reads its own version from a file for each connection.
_version = lru_cache(metadata.version)
# Tasks of killed processes, kept until this process ends.
GRAVE: list[Any] = []


class World:
    """One simulated world.

    Args:
        seed: decides everything.
        kind: "memory", "sqlite" for workers that share a file, or "redis".
        workers: number of workers; one in memory.
        shuffles: whether tasks that are ready run in any order.
        weather: what may happen to connections.
        points: counts the places where tasks wait.
    """

    def __init__(
        self,
        seed: int,
        *,
        kind: str = "memory",
        workers: int = 1,
        shuffles: bool = False,
        weather: Weather = CALM,
        points: Points | None = None,
    ) -> None:
        self.seed = seed
        self.kind = kind
        self.random = Random(seed)
        self.points = points or Points()
        # The statuses of ended runs that answers told.
        self.told: dict[str, str] = {}
        # Whether anything happened to a process, a connection or a store.
        self.is_disturbed = weather is not CALM
        # The networks of the SDK's streams and calls.
        self.sessions: list[Network] = []
        # Whether a model failed where its scenario does not ask for it.
        self.model_fails = False
        self.loop = SimulatedLoop(Random(seed + 1), shuffles=shuffles, wrap=self._wrap)
        self.weather = weather
        self.faults = Faults()
        self.client = Client(self.loop)
        self.workers: list[Worker] = []
        self.past: list[Worker] = []
        self.networks: list[Network] = []
        # Seconds by which the wall clock was set forward.
        self.wall_offset = 0.0
        self.trace: list[str] = []
        self.logged: list[str] = []
        self._count = workers
        self._names: dict[str, str] = {}
        self._folder: Path | None = None
        self.redis: Redis | None = None
        self._stores: dict[int, RunStore] = {}
        self._context = contextvars.copy_context()
        self._stops: set[asyncio.Task[None]] = set()

    def _wrap(self, work: Any) -> Any:
        return Watched(work, self.points)

    def note(self, text: str) -> None:
        """Add a line to the trace; ids become their order of appearance."""
        named = _IDS.sub(lambda found: self._names.setdefault(found[0], f"id{len(self._names)}"), text)
        self.trace.append(f"{self.loop.time():.6f} {named}")

    def hear(self, path: str, answer: httpx.Response) -> None:
        """Note the end of a run that an answer tells; another answer must not have told another end."""
        about = re.fullmatch(r"/runs/([^/?]+)(/output|/cancel)?(\?.*)?", path)
        if about is None or answer.status_code not in (200, 202, 409):
            return
        told = answer.json().get("status")
        if about[2] == "/output" and answer.status_code == 200:
            told = "done"
        if told in TERMINAL:
            assert self.told.setdefault(about[1], told) == told, f"{path}: {told} after {self.told[about[1]]}"

    # Workers

    def _store(self) -> RunStore:
        bounds = Bounds(retention=SETTINGS["retention"])
        if self.kind == "memory":
            return MemoryStore(bounds, clock=time.time)
        if self.kind == "redis":
            return RedisStore(URLS["redis"], bounds=bounds, lease=LEASE, clock=time.time)
        assert self._folder is not None
        return SqliteStore(self._folder / "runs.sqlite", bounds=bounds, lease=LEASE, clock=time.time)

    async def start_worker(self, place: int) -> Worker:
        """Start a worker in place of the one that was there."""
        app = _app(place, self.kind)
        old = services_in(app)
        runs = Runs(old.settings, self._store())
        runs.recovery = old.runs.recovery
        services = Services(
            settings=old.settings,
            runs=runs,
            auth=old.auth,
            limits=Limits(old.settings),
            checkpoints=old.checkpoints,
            telemetry=old.telemetry,
        )
        worker = Worker(self.loop, f"w{place}", app, services)
        if place < len(self.workers):
            self.past.append(self.workers[place])
            self.workers[place] = worker
        else:
            self.workers.append(worker)
        await worker.start()
        self.note(f"{worker.name} starts")
        return worker

    def kill(self, worker: Worker) -> None:
        """Kill a worker: its connections break."""
        self.note(f"{worker.name} is killed")
        self.is_disturbed = True
        worker.kill()
        self._end(worker)
        if self.redis is not None:
            self.redis.forget(worker)

    def kill_client(self) -> None:
        """Kill the process of the clients."""
        self.note("the clients are killed")
        self.client.kill()
        self._end(self.client)

    def _end(self, process: Worker | Client) -> None:
        self._bury(task for task in self.loop.tasks if task.process is process)
        self.cut_connections(process)

    def cut_connections(self, process: Worker | Client) -> None:
        """Cut the open connections of a process."""
        for network in self.networks:
            for connection in network.connections:
                if process in (connection.worker, self.client) and not connection.finished:
                    connection.cut()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call a function of the world after virtual seconds, whatever process asks for it."""
        self.loop.call_later(seconds, callback, context=self._context)

    def stop_soon(self, worker: Worker) -> None:
        """Stop a worker in order, beside what else happens."""
        if worker.listening and not worker.stopping:
            self.loop.call_soon(
                lambda: self._stops.add(self.loop.create_task(self.stop(worker))), context=self._context
            )

    async def stop(self, worker: Worker) -> None:
        """Stop a worker in order."""
        self.is_disturbed = True
        self.note(f"{worker.name} stops")
        began = self.loop.time()
        await worker.stop()
        took = self.loop.time() - began
        frozen = worker.was_frozen or self.client.was_frozen
        assert took < STOP or worker.killed or frozen, f"{worker.name} took {took:.1f} s to stop"
        self.cut_connections(worker)

    @contextlib.contextmanager
    def file(self) -> Iterator[sqlite3.Connection]:
        """Open the file of the workers."""
        assert self._folder is not None
        with contextlib.closing(sqlite3.connect(self._folder / "runs.sqlite")) as connection:
            yield connection

    def records(self) -> list[RunRecord]:
        """Return the records of all runs in what the workers share."""
        if self.redis is not None:
            return self._records_in_redis(self.redis)
        with self.file() as connection:
            ids = [run_id for (run_id,) in connection.execute("SELECT run_id FROM runs ORDER BY number")]
            found = [find_record(connection, "run_id = ?", run_id) for run_id in ids]
        return [record for record in found if record is not None]

    def _records_in_redis(self, redis: Redis) -> list[RunRecord]:
        found = [record_of(redis.ask("HGETALL", key)) for key in sorted(redis.ask("KEYS", "streamserve:{*}:run"))]
        # As the store without a reaper: Redis itself counts the time since the end, whatever the clock shows.
        ttl = blocks_ttl(Bounds(retention=SETTINGS["retention"])) / 1000
        is_set_back = self.wall_offset < 0 and self.loop.time() > ttl
        for record in found:
            if record is not None and record.ended_at is not None:
                keys = (f"streamserve:{{{record.run_id}}}:{name}" for name in ("blocks", "pieces"))
                record.purged |= record.ended_at + ttl < self._wall_clock()
                record.purged |= is_set_back and not redis.ask("EXISTS", *keys)
        return sorted((record for record in found if record is not None), key=lambda record: record.created_at)

    # Clients

    def network(self, *, only: Worker | None = None, weather: Weather | None = None) -> Network:
        """Return a client's network; it reaches any worker that listens, or one."""

        def choose() -> Worker | None:
            live = [worker for worker in self.workers if worker.listening and only in (None, worker)]
            return live[self.random.randrange(len(live))] if live else None

        found = Network(Random(self.random.random()), weather or self.weather, choose)
        self.networks.append(found)
        return found

    def remote(
        self, chain: str, *, weather: Weather | None = None, caller: str = "ann", **options: Any
    ) -> RemoteRunnable:
        """Return a client of a chain, for one stream or call."""
        self.sessions.append(network := self.network(weather=weather))
        return RemoteRunnable(
            f"http://server/{chain}",
            headers={"X-Caller": caller},
            client_kwargs={"transport": network},
            retry=options.pop("retry", RetryPolicy(budget=60)),
            keepalive=SETTINGS["keepalive"],
            **options,
        )

    # Life

    def run(self, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario from the start of the workers to the end of everything, and check what must hold then.

        Raises:
            AssertionError: something does not hold.
        """
        with self._simulated():
            main = self.loop.create_task(self._main(scenario))
            try:
                self.loop.run_until_complete(main)
            finally:
                self._bury(self.loop.tasks)
                self.loop.close()
        invariants.nothing_failed(self)

    async def _main(self, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        for place in range(self._count):
            await self.start_worker(place)
        self.points.counting = True
        async with asyncio.timeout(LIMIT):
            await self.client.run(scenario(self))
        self.points.counting = False
        async with asyncio.timeout(LIMIT):
            await self._settle()
        await invariants.hold_in_store(self)
        async with asyncio.timeout(LIMIT):
            for worker in self.workers:
                await self.stop(worker)
        await asyncio.sleep(10.0)
        invariants.nothing_is_left(self)

    async def _settle(self) -> None:
        """Let the faults end, and wait until every run has ended."""
        self.faults.end()
        for network in self.networks:
            network.weather = CALM
        for process in (self.client, *self.workers):
            process.wake_up()
        await asyncio.sleep(0.1)  # a stop that has just been asked for begins
        for place, worker in enumerate(list(self.workers)):
            if worker.stopping:
                await worker.stopped()
            if not worker.listening:
                await self.start_worker(place)
        await asyncio.sleep(0.5)  # requests whose connection was cut may still begin a run
        while invariants.live_runs(self) or invariants.open_generators():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.3)
        await asyncio.gather(*self._stops)
        # Readers and callers take what is left for them, and sync steps that nobody waits for come to their ends.
        until = self.loop.time() + SYNC_DELAY + 1.0
        await asyncio.sleep(0.5)
        while any(worker.requests for worker in self.workers) and self.loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.3)

    def _bury(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        # A task of a killed process never ends; its `finally` must not run when it is garbage.
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            GRAVE.append(task)

    @contextlib.contextmanager
    def _simulated(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.kind == "sqlite":
                place = "/dev/shm" if os.path.isdir("/dev/shm") else None
                self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
                (self._folder / "runs.sqlite").write_bytes(_empty_file())
                thread, follower = simulated(Random(self.seed + 2), self.faults)
                stack.enter_context(mock.patch.object(sqlite_store, "DatabaseThread", thread))
                stack.enter_context(mock.patch.object(sqlite_store, "Follower", follower))
            if self.kind == "redis":
                self.redis = Redis(self.loop, Random(self.seed + 2), self.faults, self._wall_clock)
                stack.callback(self.redis.close)
                stack.enter_context(mock.patch.object(metadata, "version", _version))
                self.loop.connect = self.redis.connect
            rest = Random(self.seed + 3)
            for target, name, new in (
                (time, "time", self._wall_clock),
                (time, "monotonic", self.loop.time),
                (time, "perf_counter", self.loop.time),
                (time, "sleep", self.loop.sleep_in_step),
                (os, "urandom", rest.randbytes),
                (random, "_urandom", rest.randbytes),
                (loop_monitor, "INTERVAL", 10.0),
                (body, "_threads", self.loop),
                (lifespans, "freeze_garbage_collector", lambda _threshold: None),
                (lifespans, "_drain_on_signal", lambda _runs, _loop: contextlib.nullcontext()),
            ):
                stack.enter_context(mock.patch.object(target, name, new))
            random.seed(self.seed)
            SAVER.clear()
            STAGE.open.clear()
            STAGE.started.clear()
            STAGE.quits = False
            STAGE.broken.clear()
            STAGE.delay = lambda: self.random.random() * 0.2
            stack.enter_context(_capture(self))
            stack.enter_context(invariants.watch_cancels(self))
            if gc.isenabled():
                gc.disable()
                stack.callback(gc.enable)
            yield

    def _wall_clock(self) -> float:
        return EPOCH + self.wall_offset + self.loop.time()


@contextlib.contextmanager
def _capture(world: World) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            world.logged.append(f"{record.name}: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")

    handler = Handler(logging.ERROR)
    logger = logging.getLogger("streamserve")
    before, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagates
