"""Dependencies that take the request only are called without FastAPI's search for arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer

from streamserve.http import direct


async def noted(request: Request) -> None:
    request.scope["seen"].append("noted")


async def with_a_header(request: Request, said: Annotated[str, Header()]) -> None:
    raise AssertionError


async def with_another(request: Request, other: Annotated[None, Depends(noted)]) -> None:
    raise AssertionError


async def without_the_request() -> None:
    raise AssertionError


async def that_opens(request: Request) -> AsyncIterator[None]:
    yield


async def by_another_name(request: str) -> None:
    raise AssertionError


def sync(request: Request) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "dependency", [with_a_header, with_another, without_the_request, that_opens, by_another_name, sync, str]
)
def test_other_dependencies_go_fastapis_way(dependency: Callable[..., Any]) -> None:
    assert direct.admission([Depends(noted), Depends(dependency)]) is None


async def test_dependencies_are_called_in_their_order() -> None:
    async def also(request: Request) -> None:
        request.scope["seen"].append("also")

    admit = direct.admission([Depends(noted), Depends(HTTPBearer(auto_error=False)), Depends(also)])
    assert admit is not None
    request = Request({"type": "http", "headers": [], "seen": []})
    await admit(request)
    assert request.scope["seen"] == ["noted", "also"]
