"""The parsers of structured output stream as langchain-core's, with each character read once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    JsonOutputToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import Runnable, RunnableGenerator
from pydantic import BaseModel

from streamserve.lcel import json_parsers, readings
from streamserve.lcel.fast_chain import RunnableSequence, fast
from streamserve.lcel.readings import Changes
from streamserve.lcel.recorder import Recorder, comparable, until_the_end
from tests.lcel.test_json_growth import changed, cuts, said, sizes, written
from tests.observed import calls_of
from tests.streamed_chains import TOPIC, Sayer, prompt


class Search(BaseModel):
    """A tool, and an object in a text."""

    q: str
    n: list[int] = []


class Other(BaseModel):
    """Another tool."""

    a: Any = None


PARSERS: dict[str, Runnable[Any, Any]] = {
    "tools": JsonOutputToolsParser(),
    "tools with ids": JsonOutputToolsParser(return_id=True),
    "first tool": JsonOutputToolsParser(first_tool_only=True),
    "tool": JsonOutputKeyToolsParser(key_name="Search"),
    "first of a tool": JsonOutputKeyToolsParser(key_name="Search", first_tool_only=True),
    "first with id": JsonOutputKeyToolsParser(key_name="Search", first_tool_only=True, return_id=True),
    "objects": PydanticToolsParser(tools=[Search, Other]),
    "first object": PydanticToolsParser(tools=[Search, Other], first_tool_only=True),
}
each_parser = pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS.keys())
OBJECT = '{"q": "caf\\u00e9", "n": [1, 2], "m": {"a": null}}'


async def _each(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _both(parser: Runnable[Any, Any], chunks: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return what a declared and a rebuilt parser stream."""
    shown = [
        await until_the_end(each.atransform(_each([one.model_copy(deep=True) for one in chunks])))
        for each in (parser, fast(parser))
    ]
    return shown[0], shown[1]


def _messages(pieces: list[str]) -> list[Any]:
    return [AIMessageChunk(content=piece) for piece in pieces]


@settings(deadline=None, max_examples=40)
@given(said(), sizes)
def test_a_json_parser_streams_as_declared(text: str, sizes: list[int]) -> None:
    declared, rebuilt = asyncio.run(_both(JsonOutputParser(), _messages(cuts(text, sizes))))
    assert repr(comparable(rebuilt)) == repr(comparable(declared))


objects = st.sampled_from([OBJECT, OBJECT.replace("caf", '", "n": [0.5], "o": "'), '{"q": 1}', "[]"])


@settings(deadline=None, max_examples=25)
@given(objects | said(), sizes)
def test_a_parser_of_objects_streams_as_declared(text: str, sizes: list[int]) -> None:
    parser = PydanticOutputParser(pydantic_object=Search)
    declared, rebuilt = asyncio.run(_both(parser, _messages(cuts(text, sizes))))
    assert repr(comparable(rebuilt)) == repr(comparable(declared))


def _calls(name: str, index: int | None, pieces: list[str]) -> list[ToolCallChunk]:
    opening = tool_call_chunk(name=name, args="" if index else None, id=f"call-{index}", index=index)
    return [opening, *(tool_call_chunk(args=piece, index=index) for piece in pieces)]


@st.composite
def tool_messages(draw: st.DrawFn) -> list[Any]:
    """Return messages with parts of tool calls, and with other contents between."""
    parts: list[ToolCallChunk] = []
    for index in range(draw(st.integers(1, 3))):
        text = draw(objects | written | st.sampled_from(["", " ", "null", '{"a": 1', '{"q": "x"} }']))
        name = draw(st.sampled_from(["Search", "Search", "Other"]))
        parts += _calls(name, draw(st.sampled_from([index, index, index, None])), cuts(text, draw(sizes)))
    chunks: list[Any] = []
    while parts:
        count = draw(st.integers(0, 3))
        chunks.append(AIMessageChunk(content=draw(st.sampled_from(["", "Hm."])), tool_call_chunks=parts[:count]))
        parts = parts[count:]
    return chunks


@each_parser
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.large_base_example, HealthCheck.too_slow])
@given(chunks=tool_messages())
def test_a_parser_of_tools_streams_as_declared(parser: Runnable[Any, Any], chunks: list[Any]) -> None:
    declared, rebuilt = asyncio.run(_both(parser, chunks))
    assert repr(comparable(rebuilt)) == repr(comparable(declared))


UNUSUAL: dict[str, list[Any]] = {
    "blocks": [AIMessageChunk(content=[{"type": "text", "text": "{}", "index": 0}])],
    "another name": [AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="x", index=0)])],
    "calls of an old model": [
        AIMessageChunk(
            content="",
            additional_kwargs={
                "tool_calls": [{"index": 0, "id": "a", "function": {"name": "Search", "arguments": '{"q": "x"}'}}]
            },
        )
    ],
}


@each_parser
@pytest.mark.parametrize("name", UNUSUAL)
async def test_unusual_chunks_are_left_to_langchain_core(parser: Runnable[Any, Any], name: str) -> None:
    usual = [AIMessageChunk(content="", tool_call_chunks=[part]) for part in _calls("Search", 0, ['{"q": "a', '"}'])]
    for place in range(len(usual) + 1):
        chunks = [*usual[:place], *UNUSUAL[name], *usual[place:]]
        declared, rebuilt = await _both(parser, chunks)
        assert repr(comparable(rebuilt)) == repr(comparable(declared))


@pytest.mark.parametrize("place", range(4))
async def test_blocks_of_text_are_left_to_langchain_core(place: int) -> None:
    chunks = _messages(['{"a": "x', "y", '", "b"', ": 1}"])
    for parser in (JsonOutputParser(), PydanticOutputParser(pydantic_object=Other)):
        declared, rebuilt = await _both(parser, [*chunks[:place], *UNUSUAL["blocks"], *chunks[place:]])
        assert repr(comparable(rebuilt)) == repr(comparable(declared))


async def _own(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        chunk["n"].append("mine")
        yield chunk


async def test_each_chunk_belongs_to_the_steps_after_the_parser() -> None:
    says = ('{"n": [[1]', ", [2", "]]}")
    chain = prompt | Sayer(says=says) | JsonOutputParser() | RunnableGenerator(_own)
    lists = [chunk["n"] for chunk in await until_the_end(fast(chain).astream(TOPIC))]
    assert lists == [[[1], "mine"], [[1], [2], "mine"]]


class Structured:
    """Chains that end with structured output."""

    says: ClassVar = ('```json\n{"q', '": "a', "b\\ud83d", "\\ude00", '", "n": [1', ".5, 2", "]}", "\n```")
    chains: ClassVar[dict[str, Runnable[Any, Any]]] = {
        "text": prompt | Sayer(says=says) | JsonOutputParser(),
        "tool": prompt
        | Sayer(
            says=tuple(
                AIMessageChunk(content="", tool_call_chunks=[part])
                for part in _calls("Search", 0, cuts(json.dumps({"q": "a\u00e9b", "n": [1, 2.5]}), [5]))
            )
        )
        | PARSERS["first of a tool"],
    }


each_chain = pytest.mark.parametrize("chain", Structured.chains.values(), ids=Structured.chains.keys())


@each_chain
@pytest.mark.parametrize("observed", [False, True])
async def test_changes_lead_to_each_chunk(chain: Runnable[Any, Any], observed: bool) -> None:
    wanted = await until_the_end(chain.astream(TOPIC))
    rebuilt, changes, documents = fast(chain), Changes(), [None]
    assert isinstance(rebuilt, RunnableSequence)
    config: Any = {"callbacks": [Recorder()]} if observed else {}
    async for chunk in rebuilt.astream_in_own_task(TOPIC, config, changes=changes):
        operations = changes.take()
        assert operations is not None
        documents.append(changed(documents[-1], operations))
        assert not observed or chunk == documents[-1]
    assert documents[1:] == wanted
    assert chunk == wanted[-1]


@each_chain
async def test_handlers_see_what_they_see_of_the_declared_chain(chain: Runnable[Any, Any]) -> None:
    seen = [comparable(await calls_of(Recorder(), each, TOPIC, {})) for each in (chain, fast(chain))]
    assert seen[1] == seen[0]


async def test_a_large_chunk_lets_other_tasks_run() -> None:
    text, turns = json.dumps(["word"] * 20_000), 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    stream = json_parsers.JsonOutputParser().values(_each([text]))
    assert [len(chunk) async for chunk in stream] == [20_000]
    counting.cancel()
    assert turns > len(text) // readings.SLICE // 2
