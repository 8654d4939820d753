"""The body of a request to a chain: parsed once, its shape checked, and the place of what does not fit found."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import orjson
from fastapi import Request
from starlette.types import Receive, Scope

from streamserve.errors.places import invalid
from streamserve.http.json_bounds import passed_bound
from streamserve.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of a body from which on other streams would feel its parsing.
LARGE = 32 * 2**10
# Threads of their own: those of the chains may all be taken.
_parsers = ThreadPoolExecutor(2, thread_name_prefix="parse")


class ChainRequest(Request):
    """A request whose body is read by a parser that no input can break.

    Args:
        scope: ASGI's.
        receive: ASGI's.
        settings: the bounds of the body.
    """

    def __init__(self, scope: Scope, receive: Receive, settings: Settings) -> None:
        super().__init__(scope, receive)
        self._settings = settings

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            InvalidInput: it is not JSON, or has more than it may.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = await aside(body, parse_bounded, body, self._settings)
        return self._json

    async def fingerprint(self) -> str:
        """What tells its body from one that says something else, however it is written."""
        body = await self.body()
        return await aside(body, _digest, body)


async def aside(body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does work with a body, in a thread if the body is large."""
    if len(body) < LARGE:
        return work(*args, **kwargs)
    return await asyncio.wrap_future(_parsers.submit(work, *args, **kwargs))


def _digest(body: bytes) -> str:
    return hashlib.sha256(orjson.dumps(parse(body), option=orjson.OPT_SORT_KEYS)).hexdigest()


def parse_bounded(body: bytes, settings: Settings) -> Any:
    """JSON to Python, unless it is too deep or has too many values. Of duplicate keys, the last counts.

    Raises:
        InvalidInput: it is, or no JSON.
    """
    passed = passed_bound(body, settings.max_json_depth, settings.max_json_items)
    if passed == "depth":
        raise invalid(("body",), f"More than {settings.max_json_depth} levels of nesting", "too_deep")
    if passed == "items":
        raise invalid(("body",), f"More than {settings.max_json_items} values", "too_long")
    return parse(body)


def parse(body: bytes) -> Any:
    """JSON to Python.

    Raises:
        InvalidInput: no JSON, bad UTF-8, or nested too deeply.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(("body", error.pos), f"Invalid JSON: {error.msg}", "json_invalid") from error
