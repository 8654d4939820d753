"""The parsers of structured output that are rebuilt, and how each streams without a run."""

from collections.abc import Callable
from typing import Any, cast

from langchain_core import output_parsers
from langchain_core.output_parsers import openai_tools
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from streamserve.lcel.json_parsers import JsonOutputParser, PydanticOutputParser
from streamserve.lcel.self_check import Pieces
from streamserve.lcel.silent_steps import Silent
from streamserve.lcel.tool_parsers import JsonOutputKeyToolsParser, JsonOutputToolsParser, PydanticToolsParser

Rebuild = Callable[[Any, Pieces], Runnable[Any, Any]]


def tells_changes(step: Runnable[Any, Any]) -> bool:
    """Return whether a step takes `changes`: it tells the changes from each chunk to the next."""
    return isinstance(step, JsonOutputParser | JsonOutputKeyToolsParser)


def silent_parser(step: Runnable[Any, Any]) -> Silent | None:
    """Return how a parser streams without a run, or None if the step is none of these parsers."""
    if isinstance(step, JsonOutputParser | JsonOutputKeyToolsParser):
        return step.silent
    return step.values if isinstance(step, PydanticOutputParser | JsonOutputToolsParser | PydanticToolsParser) else None


def _as(kind: type[Runnable[Any, Any]], piece: str) -> Rebuild:
    def rebuild(parser: Any, on: Pieces) -> Runnable[Any, Any]:
        # With `diff`, langchain-core makes the patches, in an order of its own.
        if piece not in on or parser.diff or not _is_known(parser):
            return cast("Runnable[Any, Any]", parser)
        return cast("Runnable[Any, Any]", cast(type[BaseModel], kind).model_construct(**parser.__dict__))

    return rebuild


def _is_known(parser: Any) -> bool:
    return type(parser) is not output_parsers.PydanticOutputParser or issubclass(parser.pydantic_object, BaseModel)


# The parsers, and the functions that rebuild them.
PARSERS: dict[type[Any], Rebuild] = {
    output_parsers.JsonOutputParser: _as(JsonOutputParser, "json"),
    output_parsers.PydanticOutputParser: _as(PydanticOutputParser, "json"),
    openai_tools.JsonOutputToolsParser: _as(JsonOutputToolsParser, "tools"),
    openai_tools.JsonOutputKeyToolsParser: _as(JsonOutputKeyToolsParser, "tools"),
    openai_tools.PydanticToolsParser: _as(PydanticToolsParser, "tools"),
}
