"""The setting `store` names a store; so does the number of workers, if it is not set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamserve.settings import Settings
from streamserve.stores import MemoryStore, store_at
from streamserve.stores.redis import RedisStore
from streamserve.stores.sqlite import SqliteStore
from streamserve.stores.urls import store_url, workers_of


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///a/b.sqlite", "a/b.sqlite"), ("sqlite:////a/b.sqlite", "/a/b.sqlite")]
)
def test_the_address_names_the_file(url: str, path: str) -> None:
    store = store_at(Settings(store=url, _env_file=None))
    assert isinstance(store, SqliteStore)
    assert store._path == Path(path).absolute()


@pytest.mark.parametrize("url", ["sqlite:", "sqlite:///", "sqlite://host/path"])
def test_an_address_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///relative"):
        store_at(Settings(store=url, _env_file=None))


def test_one_worker_has_memory_and_several_share_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    assert isinstance(store_at(Settings(_env_file=None)), MemoryStore)
    store = store_at(Settings(workers=2, _env_file=None))
    assert isinstance(store, SqliteStore)
    assert store._path == Path(".streamserve/runs.sqlite").absolute()


def test_several_workers_cannot_have_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="2 workers cannot share memory"):
        store_at(Settings(store="memory:", workers=2, _env_file=None))
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    with pytest.raises(ValueError, match="3 workers cannot share memory"):
        store_at(Settings(store="memory:", _env_file=None))


@pytest.mark.parametrize("url", ["memory:", "sqlite:///a.sqlite", "redis://127.0.0.1:1/0", "rediss+cluster://a:1"])
def test_every_store_has_the_bounds_of_the_settings(url: str) -> None:
    settings = Settings(
        store=url, retention=1, tombstone=2, max_retained_runs=3, max_retained_bytes=4, lease=5, _env_file=None
    )
    store: Any = store_at(settings)
    kind = {"memory": MemoryStore, "sqlite": SqliteStore}.get(url.partition(":")[0], RedisStore)
    assert type(store) is kind
    bounds = store._bounds
    assert (bounds.retention, bounds.tombstone, bounds.max_runs, bounds.max_bytes) == (1, 2, 3, 4)
    assert kind is MemoryStore or store._worker.lease == 5


@pytest.mark.parametrize(("url", "said"), [("postgres://a/b", "not 'postgres'"), ("runs.sqlite", "not 'runs.sqlite'")])
def test_an_unknown_kind_of_store_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"STREAMSERVE_STORE: memory:, .* {said}"):
        store_at(Settings(store=url, _env_file=None))


def test_a_store_that_is_set_serves_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    for workers, number in ((None, 3), (1, 1), (2, 2)):
        settings = Settings(store="sqlite:///a.sqlite", workers=workers, _env_file=None)
        assert workers_of(settings) == number
        assert store_url(settings) == "sqlite:///a.sqlite"
    assert store_url(Settings(workers=1, _env_file=None)) == "memory:"
