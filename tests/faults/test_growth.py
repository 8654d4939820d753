"""The requests of the campaign of growth reach every route, and small ones of them are answered without a failure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match

from streamserve.auth.shares import STATE
from tests.faults.grown import Grown, held
from tests.faults.growth import KINDS, counted_fields, raw_bodies, text_fields
from tests.faults.hostile_server import application, attacked


def requests_sent() -> Iterator[tuple[str, str]]:
    """Yield method and path of each request; sizes are small, and the paths are those of the campaign."""
    small = (text_fields([1], ["a"]), counted_fields([200]), raw_bodies(100), *(kind() for kind in KINDS[:2]))
    for grown in chain.from_iterable(small):
        method, path, _ = grown.sent.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        yield method, path.partition("?")[0]


def test_the_campaign_reaches_every_route_with_a_body() -> None:
    scopes: list[dict[str, Any]] = [
        {"type": "http", "method": method, "path": path, "headers": [], "state": {STATE: ""}}
        for method, path in sorted({(method, path[:60]) for method, path in requests_sent()})
    ]
    routes = [route for route in application().router.routes if "POST" in (getattr(route, "methods", None) or ())]
    others = [route for route in routes if not route.path.startswith(("/chat", "/count")) and "/c/" not in route.path]
    assert len(others) > 15
    assert [route.path for route in others if all(route.matches(scope)[0] is not Match.FULL for scope in scopes)] == []


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with attacked(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


def test_grown_requests_get_answers_and_no_failure(url: str) -> None:
    sent: list[Grown] = [*text_fields([2_000], ["{:"]), *counted_fields([30]), *raw_bodies(1_000)]
    # Removals of unknown messages are a mistake of the caller that is not told apart yet.
    asked = [grown for grown in sent if "removals" not in grown.name]
    failed = [grown.name for grown in asked if held(url, grown, tries=1)[1] not in range(200, 500)]
    assert failed == []


def test_a_texts_pattern_takes_no_time_of_others(url: str, tmp_path: Path) -> None:
    """Answer a configured prompt of 20,000 characters, a minute's work for a quadratic pattern, before a time limit."""
    (grown,) = [grown for grown in text_fields([120_000], ["{:"]) if grown.name.startswith("/greeting/invoke template")]
    assert held(url, grown, tries=1)[1] == 422
