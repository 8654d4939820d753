"""What is called without FastAPI's search for arguments: only what takes nothing but the request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, Request, Response
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
def test_a_dependency_that_takes_more_than_the_request_goes_fastapis_way(dependency: Callable[..., Any]) -> None:
    assert direct.admission([Depends(noted), Depends(dependency)]) is None


async def test_dependencies_are_asked_in_their_order() -> None:
    async def also(request: Request) -> None:
        request.scope["seen"].append("also")

    admit = direct.admission([Depends(noted), Depends(HTTPBearer(auto_error=False)), Depends(also)])
    assert admit is not None
    request = Request({"type": "http", "headers": [], "seen": []})
    await admit(request)
    assert request.scope["seen"] == ["noted", "also"]


@pytest.mark.parametrize("endpoint", [with_a_header, sync])
def test_an_endpoint_that_takes_more_than_the_request_goes_fastapis_way(endpoint: Callable[..., Any]) -> None:
    assert direct.handler(endpoint) is None


async def test_an_endpoint_gets_the_config_hash_of_the_path() -> None:
    async def echo(request: Request, config_hash: str = "") -> Response:
        return Response(config_hash)

    handle = direct.handler(echo)
    assert handle is not None
    response = await handle(Request({"type": "http", "path_params": {"config_hash": "abc"}}))
    assert response.body == b"abc"
