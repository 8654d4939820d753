"""Each piece of langchain-core's streaming is rewritten only where the installed one is known."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence

from streamserve.lcel import known_langchain
from streamserve.lcel.fast_chain import fast
from streamserve.lcel.known_langchain import KNOWN, digest, pieces
from streamserve.private_names.langchain_core import WATCHED, watched
from tests.observed import chunks_of, comparable
from tests.streamed_chains import TOPIC, text

each_piece = pytest.mark.parametrize("piece", WATCHED)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    pieces.cache_clear()
    yield
    pieces.cache_clear()


@each_piece
def test_the_installed_one_is_known(piece: str) -> None:
    assert digest(piece) in KNOWN[piece], f"read what changed, mend what is rewritten, then add {digest(piece)}"


async def test_an_unknown_one_streams_by_itself_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known_langchain, "KNOWN", dict.fromkeys(WATCHED, frozenset()))
    with caplog.at_level(logging.INFO, "streamserve"):
        assert fast(text) is text
        assert fast(text) is text
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "unknown langchain-core" in caplog.text
    assert "".join(await chunks_of(fast(text), TOPIC)) == "Cats purr."


@each_piece
async def test_each_piece_can_be_off_by_itself(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_langchain.KNOWN, piece, frozenset())  # type: ignore[arg-type]
    chain = text.with_config(tags=["bound"])
    streamed = fast(chain)
    assert pieces() == set(WATCHED) - {piece}
    assert (type(streamed) is RunnableBinding) is (piece == "binding")
    sequence = streamed.bound  # type: ignore[attr-defined]
    assert (type(sequence) is RunnableSequence) is (piece == "sequence")
    assert (type(sequence.last) is StrOutputParser) is (piece == "parser")
    if piece != "sequence":
        assert (sequence.without_runs(TOPIC, {}) is None) is (piece in ("prompt", "model", "parser"))
    assert comparable(await chunks_of(streamed, TOPIC)) == comparable(await chunks_of(chain, TOPIC))


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
def test_a_wrapped_method_makes_its_piece_unknown(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    monkeypatch.setattr(RunnableSequence, "_atransform", wrap(RunnableSequence._atransform))
    assert pieces() == set(WATCHED) - {"sequence"}
    assert type(fast(text)) is RunnableSequence
    assert fast(text).last is not text.last  # type: ignore[attr-defined]


def test_without_source_texts_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: dict[str, Any] = {}
    exec("def method(): ...", compiled)
    monkeypatch.setattr(known_langchain, "watched", lambda _: [compiled["method"]])
    assert not pieces()


def test_the_run_below_each_stream_is_watched() -> None:
    for piece in ("sequence", "parser"):
        assert Runnable._atransform_stream_with_config in watched(piece)
