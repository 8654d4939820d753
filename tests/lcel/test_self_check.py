"""Each piece of langchain-core's streaming is rewritten only while it streams as the installed one."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.globals import set_debug
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence
from langchain_core.tracers.context import collect_runs

from streamserve import fast_paths
from streamserve.fast_paths import noted
from streamserve.lcel import (
    fast_chain,
    handlers,
    json_parsers,
    self_check,
    silent_calls,
    silent_steps,
    tool_parsers,
)
from streamserve.lcel.fast_chain import fast, pieces, rebuilt
from streamserve.lcel.recorder import comparable
from streamserve.private_names.langchain_core import WATCHED, watched
from tests.lcel.changed import CHANGES
from tests.observed import answer_of, chunks_of
from tests.streamed_chains import TOPIC, text

each_piece = pytest.mark.parametrize("piece", WATCHED)
LIMIT = 100  # seconds


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fast_paths, "_noted", {})
    pieces.cache_clear()
    yield
    pieces.cache_clear()


def _on() -> dict[str, bool]:
    return {path.name.removeprefix("langchain "): path.is_on for path in noted() if path.name.startswith("langchain")}


def test_all_pieces_stream_as_the_installed_ones() -> None:
    assert pieces() == set(WATCHED)
    assert _on() == dict.fromkeys(WATCHED, True)


@each_piece
async def test_each_piece_can_be_off_by_itself(piece: str) -> None:
    chain = text.with_config(tags=["bound"])
    streamed = rebuilt(chain, frozenset(WATCHED) - {piece})
    assert (type(streamed) is RunnableBinding) is (piece == "binding")
    sequence = streamed.bound  # type: ignore[attr-defined]
    assert (type(sequence) is RunnableSequence) is (piece == "sequence")
    assert (type(sequence.last) is StrOutputParser) is (piece == "parser")
    if piece != "sequence":
        assert (sequence.without_runs(TOPIC, {}) is None) is (piece in ("prompt", "model", "parser"))
        assert (answer_without_runs(sequence) is None) is (piece == "call")
    assert comparable(await answer_of(streamed, TOPIC, {})) == comparable(await answer_of(chain, TOPIC, {}))
    assert comparable(await chunks_of(streamed, TOPIC)) == comparable(await chunks_of(chain, TOPIC))


def answer_without_runs(sequence: Any) -> Any:
    answer = sequence.answer_without_runs(TOPIC, {})
    if answer is not None:
        answer.close()
    return answer


async def _twice(_: Any, chunks: Any, *__: Any) -> AsyncIterator[Any]:
    async for chunk in chunks:
        yield chunk.content
        yield chunk.content


def _repeated(values: Any) -> Any:
    async def twice(self: Any, chunks: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for value in values(self, chunks, *args, **kwargs):
            yield value
            yield value

    return twice


def _without_arguments(self: Any, input: Any, config: Any = None, **_: Any) -> Any:
    return self.bound.atransform(input, config)


async def _forgetful(*_: Any) -> AsyncIterator[Any]:
    yield ChatPromptTemplate.from_template("{topic}").invoke({"topic": "dogs"})


async def _silent_error(model: Any, inputs: Any, *_: Any) -> AsyncIterator[Any]:
    async for each in inputs:
        async for chunk in model.astream(each):
            yield chunk
            return


def _unnamed(self: Any, input: Any, config: Any = None, **kwargs: Any) -> Any:
    return RunnableSequence.atransform(self, input, {**(config or {}), "run_name": "other"}, **kwargs)


async def _none(*_: Any) -> AsyncIterator[Any]:
    return
    yield


def _fails(*_: Any, **__: Any) -> Any:
    raise LookupError("gone")


async def _unparsed(_parser: Any, value: Any) -> Any:
    return value


BROKEN: dict[str, tuple[Any, str, Any]] = {
    "sequence": (fast_chain.RunnableSequence, "atransform", _unnamed),
    "binding": (fast_chain.RunnableBinding, "atransform", _without_arguments),
    "parser": (fast_chain.StrOutputParser, "texts", _twice),
    "json": (json_parsers.JsonOutputParser, "values", _repeated(json_parsers.JsonOutputParser.values)),
    "tools": (tool_parsers.JsonOutputToolsParser, "values", _repeated(tool_parsers.JsonOutputToolsParser.values)),
    "prompt": (silent_steps, "_format_prompt", _forgetful),
    "model": (silent_steps, "_chunks", _silent_error),
    "fallbacks": (silent_steps, "_first_that_works", _none),
    "configurable": (fast_chain, "_stream_choice", _fails),
    "handlers": (handlers.Hops, "_deliver", lambda self: self._waiting.clear()),
    "call": (silent_calls, "_parsed", _unparsed),
}


@each_piece
async def test_a_piece_that_differs_is_off_and_named(
    piece: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(*BROKEN[piece])
    with caplog.at_level(logging.WARNING, "streamserve"):
        chain = fast(text)
        assert pieces() == set(WATCHED) - {piece}
        assert pieces() == set(WATCHED) - {piece}
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"fast path off: langchain {piece} (")
    assert self_check.SAVES[piece] in record.getMessage()
    assert _on() == {name: name != piece for name in WATCHED}
    assert "".join(await chunks_of(chain, TOPIC)) == "Cats purr."


def test_a_piece_that_raises_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_chain.RunnableBinding, "astream", _fails)
    assert pieces() == set(WATCHED) - {"binding"}
    assert [path.difference for path in noted() if not path.is_on] == ["LookupError('gone')"]


async def test_all_are_off_if_the_check_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "canned_chains", _fails)
    assert fast(text) is text
    assert _on() == dict.fromkeys(WATCHED, False)


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
def test_a_piece_whose_original_is_wrapped_is_off(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    monkeypatch.setattr(RunnableSequence, "_atransform", wrap(RunnableSequence._atransform))
    assert pieces() == set(WATCHED) - {"sequence"}
    assert type(fast(text)) is RunnableSequence
    assert fast(text).last is not text.last  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_langchain_turns_off_just_its_piece(name: str) -> None:
    command = [sys.executable, "-m", "tests.lcel.changed", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    on, declared, streamed, answered, called = done.stdout.splitlines()
    assert on == str(sorted(set(WATCHED) - CHANGES[name].pieces))
    assert streamed == declared
    assert called == answered


async def test_no_tracer_and_no_log_sees_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    set_debug(True)
    try:
        with collect_runs() as collected:
            assert pieces()
    finally:
        set_debug(False)
    assert not collected.traced_runs
    assert capsys.readouterr().out == ""


def test_the_run_below_each_stream_is_watched() -> None:
    for piece in ("sequence", "parser"):
        assert Runnable._atransform_stream_with_config in watched(piece)
