"""One store after the other, for the tests of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamserve.stores import RunStore
from streamserve.stores.bounds import Bounds
from tests.conformance.stores import STORES, Options


@pytest.fixture
def options() -> Options:
    return Options(Bounds(retention=100.0, tombstone=1000.0, max_runs=3, max_bytes=100))


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, options: Options) -> AsyncIterator[RunStore]:
    async with STORES[request.param](options) as opened:
        yield opened
