"""The stores of two workers on the file that a test module's fixture `place` names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamserve.stores.sqlite import SqliteStore
from tests.stores.place import Place


@pytest.fixture
async def one(place: Place) -> AsyncIterator[SqliteStore]:
    async with place.store() as store:
        yield store


@pytest.fixture
async def other(place: Place, one: SqliteStore) -> AsyncIterator[SqliteStore]:
    async with place.store() as store:
        yield store
