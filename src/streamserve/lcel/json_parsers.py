"""The parsers of JSON in a text, which read each character once.

As in langchain-core, each chunk is the whole value so far. Unlike there, messages are not added up: only their texts
count, so messages that do not add up are no error.
"""

from functools import partial
from typing import Any

import pydantic
from langchain_core import output_parsers
from langchain_core.exceptions import OutputParserException
from langchain_core.runnables import RunnableConfig

from streamserve.lcel.growing_value import NOTHING
from streamserve.lcel.json_growth import JsonGrowth
from streamserve.lcel.readings import Changes, TextReading, stream_values
from streamserve.lcel.traced_stream import Stream, traced

# The type of their field has a name that mypy does not find in another module.
_Json: Any = output_parsers.JsonOutputParser
_Pydantic: Any = output_parsers.PydanticOutputParser


class JsonOutputParser(_Json):  # type: ignore[misc]
    """The parser of JSON in a text."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **kwargs: Any) -> Stream:
        values = partial(self.values, changes=kwargs.get("changes"))
        return traced(self, input, values, config, run_type="parser")

    def silent(self, inputs: Stream, kwargs: dict[str, Any], _config: Any = None) -> Stream:
        """Stream without a run; with `changes`, all chunks are one object, which grows."""
        changes = kwargs.get("changes")
        return self.values(inputs, changes=changes, copies=changes is None)

    def values(self, chunks: Stream, *_: Any, changes: Changes | None = None, copies: bool = True) -> Stream:
        """Stream the value after each chunk that changes it.

        Args:
            chunks: texts or messages.
            changes: takes the changes before each chunk; None: nobody wants them.
            copies: whether each chunk is a value of its own (default true).
        """
        reading = TextReading()
        return stream_values(reading, chunks, partial(_snapshot, reading.growth, changes, copies), super()._atransform)


def _snapshot(growth: JsonGrowth, changes: Changes | None, copies: bool) -> Any:
    if not growth.has_changed:
        return NOTHING
    operations = growth.take()
    if changes is not None:
        changes.put(operations)
    return growth.copy() if copies else growth.root


class PydanticOutputParser(_Pydantic):  # type: ignore[misc]
    """The parser of a pydantic model in a text."""

    def atransform(self, input: Stream, config: RunnableConfig | None = None, **_: Any) -> Stream:
        return traced(self, input, self.values, config, run_type="parser")

    def values(self, chunks: Stream, *_: Any) -> Stream:
        """Stream the object after each chunk that makes another valid one."""
        reading = TextReading()
        last: Any = None

        def another() -> Any:
            nonlocal last
            found = self._validated(reading.growth)
            if found is None or found == last:
                return NOTHING
            last = found
            return found

        return stream_values(reading, chunks, another, super()._atransform)

    def _validated(self, growth: JsonGrowth) -> Any:
        value = growth.copy()
        try:
            return self.pydantic_object.model_validate(None if value is NOTHING else value)
        except (pydantic.ValidationError, OutputParserException):
            return None
