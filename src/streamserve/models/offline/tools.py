"""When the offline model calls a tool, and with which arguments."""

import json
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.messages.tool import ToolCall, tool_call

from streamserve.models.offline.question import Question, words_of
from streamserve.models.offline.schema import SchemaFiller

CALCULATORS = words_of("calculate calculator calculation arithmetic math expression compute evaluate")
SEARCHERS = words_of("search lookup find retrieve retriever docs documents documentation wiki web")
SEARCH_WORDS = words_of("search find look docs documentation sources")
# Words in tool names that say nothing about what the tool is for.
COMMON = words_of("get the do run make tool and for with use call a to of")


def next_call(
    messages: Sequence[BaseMessage], question: Question, tools: Sequence[dict[str, Any]], choice: Any
) -> ToolCall | None:
    """The tool call to make now, or None to answer in words.

    A choice that forces a tool is obeyed. Otherwise a human message gets one call, when it names a tool, holds
    an arithmetic expression and a calculator is bound, or asks for a search (in words, or by a question mark).

    Args:
        messages: the conversation.
        question: the same, as read.
        tools: in OpenAI's format.
        choice: `tool_choice` as chat models take it.
    """
    forced = _forced(choice, tools)
    if not forced and (choice == "none" or not messages or not isinstance(messages[-1], HumanMessage)):
        return None
    wanted = [tool for tool in tools if _asked_for(tool["function"], question)]
    chosen = next((tool for tool in wanted if tool in forced), None) or next(iter(forced or wanted), None)
    return _call(chosen["function"], question, len(messages), whole=bool(forced)) if chosen else None


def _forced(choice: Any, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(choice, dict):
        choice = choice.get("function", {}).get("name", "any")
    if choice in ("any", "required", True):
        return list(tools)
    return [tool for tool in tools if tool["function"]["name"] == choice]


def _asked_for(function: dict[str, Any], question: Question) -> bool:
    name = words_of(function["name"]) - COMMON
    purpose = name | words_of(function.get("description", ""))
    if question.expression:
        return bool(purpose & CALCULATORS) or bool(name & question.words)
    searches = bool(name & SEARCHERS) and (bool(SEARCH_WORDS & question.words) or question.text.endswith("?"))
    return searches or bool(name & question.words)


def _call(function: dict[str, Any], question: Question, turn: int, *, whole: bool) -> ToolCall:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    args = SchemaFiller(schema, question, optional=whole).fill()
    digest = crc32(json.dumps([turn, function["name"], args], sort_keys=True).encode())
    return tool_call(name=function["name"], args=args, id=f"call_{turn}_{digest:08x}")
