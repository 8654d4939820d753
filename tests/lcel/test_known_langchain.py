"""Which langchain-core is streamed in another way, and what happens with another one."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableSequence

from streamserve.lcel import known_langchain
from streamserve.lcel.fast_chain import fast
from streamserve.lcel.known_langchain import KNOWN, METHODS, digest, is_known
from tests.observed import chunks_of
from tests.streamed_chains import TOPIC, text


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    is_known.cache_clear()
    yield
    is_known.cache_clear()


def test_the_installed_one_is_known() -> None:
    assert digest() in KNOWN, f"read what changed in langchain-core, mend what is written anew, then add {digest()}"


async def test_an_unknown_one_streams_as_it_does_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known_langchain, "KNOWN", frozenset())
    with caplog.at_level(logging.INFO, "streamserve"):
        assert fast(text) is text
        assert fast(text) is text
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "unknown langchain-core" in caplog.text
    assert "".join(await chunks_of(fast(text), TOPIC)) == "Cats purr."


def _wrapped(method: Any) -> Any:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class Proxy:
    """A stand-in for a function that has its attributes, as instrumentation makes them."""

    def __init__(self, method: Any) -> None:
        self.__code__ = method.__code__


@pytest.mark.parametrize("wrap", [_wrapped, Proxy])
def test_a_method_that_somebody_wrapped_makes_it_unknown(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    methods = [wrap(method) if method is RunnableSequence._atransform else method for method in METHODS]
    assert methods != list(METHODS)
    monkeypatch.setattr(known_langchain, "METHODS", tuple(methods))
    assert not is_known()
    assert fast(text) is text


def test_without_source_texts_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: dict[str, Any] = {}
    exec("def method(): ...", compiled)
    monkeypatch.setattr(known_langchain, "METHODS", (compiled["method"],))
    assert not is_known()


def test_what_it_stands_on_is_watched() -> None:
    assert Runnable._atransform_stream_with_config in METHODS
