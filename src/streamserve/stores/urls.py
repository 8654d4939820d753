"""Make the store that the setting `store` names."""

import os
from urllib.parse import urlsplit

from streamserve.settings import Settings
from streamserve.stores.base import RunStore
from streamserve.stores.bounds import Bounds
from streamserve.stores.memory import MemoryStore
from streamserve.stores.sqlite import SqliteStore

REDIS_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")


# The first worker makes it; git ignores it.
SHARED_BY_DEFAULT = "sqlite:///.streamserve/runs.sqlite"


def workers_of(settings: Settings) -> int:
    """Return the number of worker processes, as uvicorn counts them."""
    return settings.workers or int(os.environ.get("WEB_CONCURRENCY", "1"))


def store_url(settings: Settings) -> str:
    """Return the URL of the store: the settings' own, or the default for the number of workers.

    Raises:
        ValueError: several workers cannot share the store.
    """
    several = workers_of(settings) > 1
    url = settings.store or (SHARED_BY_DEFAULT if several else "memory:")
    if several and urlsplit(url).scheme == "memory":
        raise ValueError(
            f"STREAMSERVE_STORE: {workers_of(settings)} workers cannot share memory: a client that reconnects "
            f"may reach another one. Use sqlite:///PATH or redis://..., or leave it unset for {SHARED_BY_DEFAULT}"
        )
    return url


def store_at(settings: Settings) -> RunStore:
    """Return the store of the settings, not opened yet.

    Raises:
        ValueError: there is no such kind of store, or the workers cannot share it.
    """
    url = store_url(settings)
    scheme = urlsplit(url).scheme
    bounds = Bounds(settings.retention, settings.tombstone, settings.max_retained_runs, settings.max_retained_bytes)
    if scheme == "memory":
        return MemoryStore(bounds)
    if scheme == "sqlite":
        return SqliteStore(_sqlite_path(url), bounds=bounds, lease=settings.lease)
    if scheme in REDIS_SCHEMES:
        from streamserve.stores.redis import RedisStore  # needs an extra, which other stores do without

        return RedisStore(url, bounds=bounds, lease=settings.lease)
    raise ValueError(f"STREAMSERVE_STORE: memory:, sqlite:///PATH or redis://..., not {scheme or url!r}")


def _sqlite_path(url: str) -> str:
    """Return the path in sqlite:///relative or sqlite:////absolute, the forms of SQLAlchemy."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path:
        raise ValueError(f"STREAMSERVE_STORE: sqlite:///relative/path or sqlite:////absolute/path, not {url!r}")
    return path
