"""The parsers of tool calls, which add the parts of a call's arguments up once and read each character once.

As in langchain-core, each chunk is all calls so far. Unlike there, only the parts of tool calls are added up, so
messages that differ otherwise are no error.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call, tool_call_chunk
from langchain_core.output_parsers import openai_tools
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import RunnableConfig

from streamserve.lcel.growing_value import NOTHING, Operation
from streamserve.lcel.json_growth import JsonGrowth, Unusual
from streamserve.lcel.readings import SLICE, Changes, stream_values
from streamserve.lcel.traced_stream import Stream, traced


@dataclass(slots=True, eq=False)
class GrowingCall:
    """One tool call.

    Args:
        name: the tool's.
        call_id: the call's.
        index: tells to which call a part belongs; None: the call has one part only.
        parts: the parts of its arguments.
        shown: how many of the parts belong to the last value that was shown; -1: the call does not.
    """

    name: str | None
    call_id: str | None
    index: int | None
    parts: list[str] = field(default_factory=list)
    shown: int = -1
    growth: JsonGrowth = field(default_factory=JsonGrowth)

    @property
    def is_valid(self) -> bool:
        """True if the arguments so far are an object; as in langchain-core, no arguments are an empty one."""
        return not self.parts or type(self.growth.root) is dict

    def arguments(self) -> Any:
        """Return the arguments so far, for the caller alone."""
        return self.growth.copy() if self.parts else {}

    def takes(self, part: ToolCallChunk) -> bool:
        """Return whether a part belongs to this call.

        Raises:
            Unusual: it belongs to it and changes more than its arguments.
        """
        if self.index is None or part["index"] != self.index:
            return False
        name, call_id = part["name"], part["id"]
        if call_id and self.call_id and call_id != self.call_id:
            return False
        if name or (name is not None and self.name is None) or (call_id and not self.call_id):
            raise Unusual
        return True

    def chunk(self, first: int, last: int | None = None) -> ToolCallChunk:
        """Return some parts as one."""
        whole, text = first < 0, "".join(self.parts[max(first, 0) : last])
        return tool_call_chunk(name=self.name if whole else None, id=self.call_id, index=self.index, args=text)


class ToolReading:
    """The tool calls in the messages of a stream."""

    def __init__(self) -> None:
        self.calls: list[GrowingCall] = []
        self.has_news = True
        self._has_begun = self._has_shown = False

    def pieces(self, chunk: Any) -> Iterator[None]:
        """Read the next message."""
        if type(chunk) is not AIMessageChunk or "tool_calls" in chunk.additional_kwargs:
            raise Unusual
        added: list[tuple[GrowingCall, str]] = []
        for part in chunk.tool_call_chunks:
            call, text = self._call_of(part, added), part["args"] or ""
            added.append((call, text))
            for place in range(0, len(text), SLICE):
                if place:
                    yield
                call.growth.feed(text[place : place + SLICE])
        for call, text in added:
            self._add(call, text)
        self._has_begun = True

    def _call_of(self, part: ToolCallChunk, added: list[tuple[GrowingCall, str]]) -> GrowingCall:
        # As langchain-core, which adds nothing within the first message.
        for call in (*self.calls, *(call for call, _ in added)) if self._has_begun else ():
            if call.takes(part):
                return call
        return GrowingCall(part["name"], part["id"], part["index"])

    def _add(self, call: GrowingCall, text: str) -> None:
        self.has_news = True
        if call not in self.calls:
            self.calls.append(call)
        if text:
            call.parts.append(text)

    def show(self) -> None:
        """Note that the calls so far were shown."""
        self._has_shown = True
        for call in self.calls:
            call.shown = len(call.parts)

    def end(self) -> None:
        """Put the open texts and numbers into the arguments."""
        for call in self.calls:
            call.growth.settle()

    def sums(self) -> tuple[list[Any], list[Any]]:
        """Return the sum of the messages up to the last value that was shown, and of those after it."""
        shown = [call.chunk(-1, call.shown) for call in self.calls if call.shown >= 0]
        since = [call.chunk(call.shown) for call in self.calls if call.shown < len(call.parts)]
        return (
            [AIMessageChunk(content="", tool_call_chunks=shown)] if self._has_shown else [],
            [AIMessageChunk(content="", tool_call_chunks=since)]
            if since or (self._has_begun and not self._has_shown)
            else [],
        )

    def message(self) -> AIMessage:
        """Return a message with the valid calls, as a parser reads it."""
        calls = [
            tool_call(name=call.name or "", args=call.arguments(), id=call.call_id)
            for call in self.calls
            if call.is_valid
        ]
        return AIMessage.model_construct(content="", tool_calls=calls, additional_kwargs={})


def _calls(parser: openai_tools.JsonOutputToolsParser, chunks: Stream, others: Any) -> Stream:
    reading = ToolReading()
    last: Any = None

    def another() -> Any:
        nonlocal last
        if not reading.has_news:
            return NOTHING
        reading.has_news = False
        generation = ChatGeneration.model_construct(message=reading.message())
        found = parser.parse_result([generation], partial=True)
        if found is None or found == last:
            return NOTHING
        last = found
        return found

    return stream_values(reading, chunks, another, others)


class JsonOutputToolsParser(openai_tools.JsonOutputToolsParser):
    """The parser of all tool calls."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **_: Any) -> Stream:
        return traced(self, input, self.values, config, run_type="parser")

    def values(self, chunks: Stream, *_: Any) -> Stream:
        """Stream the calls after each chunk that changes them."""
        return _calls(self, chunks, super()._atransform)


class PydanticToolsParser(openai_tools.PydanticToolsParser):
    """The parser of tool calls as pydantic models."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **_: Any) -> Stream:
        return traced(self, input, self.values, config, run_type="parser")

    def values(self, chunks: Stream, *_: Any) -> Stream:
        """Stream the objects after each chunk that changes them."""
        return _calls(self, chunks, super()._atransform)


class JsonOutputKeyToolsParser(openai_tools.JsonOutputKeyToolsParser):
    """The parser of the calls of one tool."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **kwargs: Any) -> Stream:
        values = partial(self.values, changes=kwargs.get("changes"))
        return traced(self, input, values, config, run_type="parser")

    def silent(self, inputs: Stream, kwargs: dict[str, Any], _config: Any = None) -> Stream:
        """Stream without a run; with `changes`, all chunks may be one object, which grows."""
        changes = kwargs.get("changes")
        return self.values(inputs, changes=changes, copies=changes is None)

    def values(self, chunks: Stream, *_: Any, changes: Changes | None = None, copies: bool = True) -> Stream:
        """Stream the calls, or the arguments of the first one, after each chunk that changes them.

        Args:
            chunks: messages.
            changes: takes the changes before each chunk that is the arguments; None: nobody wants them.
            copies: whether each chunk is a value of its own (default true).
        """
        if not self.first_tool_only or self.return_id:
            return _calls(self, chunks, super()._atransform)
        reading = ToolReading()
        first = _FirstArguments(reading, self.key_name, changes, copies)
        return stream_values(reading, chunks, first.value, super()._atransform)


class _FirstArguments:
    """The arguments of the first call of one tool."""

    def __init__(self, reading: ToolReading, name: str, changes: Changes | None, copies: bool) -> None:
        self._reading, self._name, self._changes, self._copies = reading, name, changes, copies
        self._call: GrowingCall | None = None
        self._is_empty = False

    def value(self) -> Any:
        """Return the arguments if they have changed."""
        call = next((each for each in self._reading.calls if each.is_valid and (each.name or "") == self._name), None)
        if call is None or (call is self._call and self._is_known(call)):
            return NOTHING
        if self._call not in (None, call):
            raise Unusual
        self._call, self._is_empty = call, not call.parts
        operations = call.growth.take() or [Operation("replace", "", {})]
        if self._changes is not None:
            self._changes.put(operations)
        return call.growth.root if call.parts and not self._copies else call.arguments()

    def _is_known(self, call: GrowingCall) -> bool:
        if self._is_empty:
            call.growth.settle()
            return not call.parts or not call.growth.root
        return not call.growth.has_changed
