"""Limits of a caller's requests to a chain and of a worker's runs, checked before any model is called.

The package `limits` counts requests in a sliding window; refused requests do not count. Each worker counts its own
active runs.
"""

import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from limits import parse_many
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError

from streamserve.api.access import principal_of
from streamserve.api.services import Admission, services_of
from streamserve.call import Call, Slot, current_call
from streamserve.catalog.chain import Chain
from streamserve.errors import Overloaded, RateLimited, StoreUnavailable, TooManyRuns
from streamserve.settings import Settings
from streamserve.stores.urls import REDIS_SCHEMES, store_url

PREFIX = "streamserve:limits"
ANSWER_LIMIT = 2.0  # seconds for an answer of Redis; a frozen Redis must not hold requests


class RunSlot(Slot):
    """Places among the runs of a chain that a caller may have at the same time: one, or more for a batch."""

    def __init__(self, taken: Counter[tuple[str, str]], key: tuple[str, str]) -> None:
        self._taken = taken
        self._key = key
        self._kept = self._released = False
        self._places = 0
        self.widen(1)

    @property
    def taken(self) -> int:
        """The places that the caller has taken in all."""
        return self._taken[self._key]

    def widen(self, places: int) -> None:
        """Take more places."""
        self._places += places
        self._taken[self._key] += places

    def keep(self) -> None:
        self._kept = True

    def release(self, *, kept: bool = False) -> None:
        if self._released or self._kept is not kept:
            return
        self._released = True
        self._taken[self._key] -= self._places
        if not self._taken[self._key]:
            del self._taken[self._key]


class Limits(Admission):
    """The limits of one worker.

    Raises:
        ValueError: a setting does not fit; the text names it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._taken: Counter[tuple[str, str]] = Counter()
        self._storage = storage_of(settings)
        self._window = SlidingWindowCounterRateLimiter(self._storage)
        try:
            parse_many(settings.rate_limit or "1/second")
        except ValueError as error:
            raise ValueError(f"STREAMSERVE_RATE_LIMIT: {error}") from error

    async def close(self) -> None:
        if isinstance(self._storage, RedisStorage):
            bridge: Any = self._storage.bridge
            await bridge.get_connection().aclose()

    async def admit(self, request: Request, name: str, chain: Chain, *, starts_run: bool) -> None:
        """Count a request of a known caller, and take a slot for its run.

        Args:
            starts_run: whether the request starts a run, or a call without a stream.

        Raises:
            Overloaded: the worker has its maximum number of runs.
            TooManyRuns: the caller has its maximum number of runs.
            RateLimited: the caller exceeds the rate.
            StoreUnavailable: the counter of requests cannot be reached.
        """
        principal = principal_of(request)
        if starts_run and services_of(request).runs.busy >= self._settings.max_runs:
            raise Overloaded()
        if starts_run:
            self._take_slot(current_call.get(), chain, (principal, name))
        await self._count(chain, principal, name)

    def spread(self, call: Call, chain: Chain, items: int, busy: int) -> int:
        """Take a place for each item of an admitted batch, as far as there are; the other items wait.

        Args:
            busy: the runs and calls of the worker, without this one.

        Returns:
            The places, one or more; the call keeps them too if they bound its items.
        """
        places = min(items, self._settings.max_runs - busy)
        slot, most = call.slot, self._most(chain)
        if most is not None and isinstance(slot, RunSlot):
            places = min(places, most - slot.taken + 1)
            slot.widen(max(places, 1) - 1)
        places = max(places, 1)
        call.places = places if most is not None or places < items else None
        return places

    def _most(self, chain: Chain) -> int | None:
        return chain.max_concurrency or self._settings.max_concurrency

    def _take_slot(self, call: Call | None, chain: Chain, key: tuple[str, str]) -> None:
        most = self._most(chain)
        if most is None or call is None:
            return
        if self._taken[key] >= most:
            raise TooManyRuns()
        call.slot = RunSlot(self._taken, key)

    async def _count(self, chain: Chain, principal: str, name: str) -> None:
        declared = chain.rate_limit or self._settings.rate_limit
        if not declared:
            return
        rates = parse_many(declared)
        try:
            for rate in rates:
                if not await self._window.test(rate, principal, name):
                    raise await self._refusal(rate, principal, name)
            for rate in rates:
                if not await self._window.hit(rate, principal, name):
                    raise await self._refusal(rate, principal, name)
        except _unreachable() as error:
            raise StoreUnavailable("The counter of requests cannot be reached") from error

    async def _refusal(self, rate: object, principal: str, name: str) -> RateLimited:
        stats = await self._window.get_window_stats(rate, principal, name)  # type: ignore[arg-type]
        return RateLimited(retry_after=max(1.0, stats.reset_time - time.time()))


def _unreachable() -> tuple[type[Exception], ...]:
    """Return the errors of an unreachable storage: `limits` does not know the one of a Redis cluster."""
    redis = sys.modules.get("redis.exceptions")
    return (StorageError, redis.RedisClusterException) if redis else (StorageError,)


def storage_of(settings: Settings) -> Storage:
    """Return the storage in which requests are counted.

    Raises:
        ValueError: the setting names an unknown storage.
        ModuleNotFoundError: the storage is Redis, and its extra is not installed.
    """
    scheme, _, place = (settings.limits_store or store_url(settings)).partition("://")
    if scheme in REDIS_SCHEMES:
        try:
            return _redis_at(scheme, place)
        except ConfigurationError as error:
            raise ModuleNotFoundError(
                "STREAMSERVE_LIMITS_STORE: redis://... needs the extra `redis`: pip install 'streamserve[redis]'"
            ) from error
    if settings.limits_store not in ("", "memory:"):
        raise ValueError(f"STREAMSERVE_LIMITS_STORE: memory: or a Redis, not {scheme.partition(':')[0]}:")
    return MemoryStorage()


def _with_port(place: str) -> str:
    # redis-py has a host and a port of its own where a URL names none; `limits` refuses such a URL.
    netloc = urlsplit(f"//{place}").netloc
    host = netloc.rpartition("@")[2]
    if ":" in host.rpartition("]")[2]:
        return place
    return f"{netloc}{'' if host else 'localhost'}:6379{place.removeprefix(netloc)}"


def _redis_at(scheme: str, place: str) -> Storage:
    place = _with_port(place)
    options: dict[str, Any] = {"socket_timeout": ANSWER_LIMIT, "socket_connect_timeout": ANSWER_LIMIT}
    known: dict[str, Any] = {"wrap_exceptions": True, "implementation": "redispy", "key_prefix": PREFIX}
    if not scheme.endswith("+cluster"):
        return RedisStorage(f"async+{scheme}://{place}", **known, **options)
    if scheme.startswith("rediss"):
        options["ssl"] = True
    return RedisClusterStorage(f"async+redis+cluster://{place}", **known, **options)
