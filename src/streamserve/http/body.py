"""The body of a request to a chain, parsed once and within bounds."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

import orjson
from fastapi import Request
from starlette.types import Receive, Scope

from streamserve.errors.places import invalid
from streamserve.http.intake import BODY
from streamserve.http.json_bounds import exceeded_bound
from streamserve.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of a body from which on work with it would delay other streams, also because of many values in few bytes.
LARGE, LARGE_WITH_MANY, MANY = 32 * 2**10, 2 * 2**10, 500
# All digits as zeros, and the length from which on an integer may not fit into 64 bits.
_DIGITS, _LONG = bytes(48 if 48 <= byte < 58 else 32 for byte in range(256)), b"0" * 19
# OS threads of their own: the threads of the chains may all be taken.
_threads = ThreadPoolExecutor(2, thread_name_prefix="body")


class ChainRequest(Request):
    """A request whose body is parsed within the settings' bounds."""

    def __init__(self, scope: Scope, receive: Receive, settings: Settings) -> None:
        super().__init__(scope, receive)
        self._settings = settings
        self._is_small: bool | None = None

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            InvalidInput: the body is not JSON, is too deep or has too many values.
        """
        if not hasattr(self, "_parsed"):
            self._parsed = await self.aside(parse_bounded, await self.body(), self._settings)
            if held := self.scope.get(BODY):
                held.release()
        return self._parsed

    async def fingerprint(self) -> str:
        """Return a digest of the body's values: spaces and the order of keys do not change it."""
        return await self.aside(_digest, await self.body())

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work with the body or with what comes of it, in an OS thread and this context if the body is large."""
        if self._is_small is None:
            body = await self.body()
            self._is_small = len(body) < LARGE_WITH_MANY or (len(body) < LARGE and body.count(b",") < MANY)
        return work(*args, **kwargs) if self._is_small else await off_loop(work, *args, **kwargs)


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that would delay other streams, in an OS thread and this context."""
    return await asyncio.wrap_future(_threads.submit(copy_context().run, partial(work, *args, **kwargs)))


def _digest(body: bytes) -> str:
    value = parse(body)
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer above 64 bits
        text = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()


def parse_bounded(body: bytes, settings: Settings) -> Any:
    """Return the value of a JSON text; of duplicate keys, the last counts.

    Raises:
        InvalidInput: the text is no JSON, is too deep or has too many values.
    """
    passed = exceeded_bound(body, settings.max_json_depth, settings.max_json_items)
    if passed == "depth":
        raise invalid(("body",), f"More than {settings.max_json_depth} levels of nesting", "too_deep")
    if passed == "items":
        raise invalid(("body",), f"More than {settings.max_json_items} values", "too_long")
    return parse(body)


def parse(body: bytes) -> Any:
    """Return the value of a JSON text, with every integer exact.

    Raises:
        InvalidInput: the text is no JSON, is no UTF-8, is nested too deeply or has an integer of thousands of digits.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(("body", error.pos), f"Invalid JSON: {error.msg}", "json_invalid") from error
    if _LONG not in body.translate(_DIGITS):
        return value
    try:
        return json.loads(body)  # orjson makes floats of integers above 64 bits
    except ValueError as error:
        raise invalid(("body",), "An integer has too many digits", "json_invalid") from error
