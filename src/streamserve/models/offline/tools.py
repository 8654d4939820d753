"""Tool calls of the offline model, with arguments that fit their JSON schemas."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from math import inf
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.messages.tool import ToolCall, tool_call
from langchain_core.utils.json_schema import dereference_refs

from streamserve.models.offline.question import EXPRESSION, SUBJECT, Question, words_of
from streamserve.models.offline.replies import reply

# Items of a list whose schema allows this many.
ITEMS = 3
# Distance from an exclusive bound of a number.
STEP = 0.001
# Names of arguments, and where a question holds their texts.
TEXTS = {
    words_of("expression"): (EXPRESSION,),
    words_of("to recipient"): (re.compile(r"\bto\s+([A-Z][\w-]*|[\w.+-]+@[\w.-]+\w)"),),
    words_of("city location place"): (re.compile(r"\bin\s+([A-Z][\w-]*)"),),
    words_of("query topic subject title"): SUBJECT,
}
EXAMPLES = {"language": "Python", "code": 'print("Hello from the offline model")\n'}


def next_call(
    messages: Sequence[BaseMessage], question: Question, tools: Sequence[dict[str, Any]], choice: str | None
) -> ToolCall | None:
    """Return the next tool call, or None for an answer in words.

    A forced tool is always called. Otherwise a human message causes one call if it names a tool, if it holds an
    arithmetic expression and a calculator is bound, or if it is a question and a search tool is bound.
    """
    functions = [tool["function"] for tool in tools]
    forced = [function for function in functions if choice in ("any", "required", function["name"])]
    if not forced and (choice == "none" or not messages or not isinstance(messages[-1], HumanMessage)):
        return None
    for function in [one for one in forced or functions if _is_wanted(one["name"], question)] or forced:
        args = _Filler(question).value(dereference_refs(function.get("parameters", {"type": "object"})))
        return tool_call(name=function["name"], args=args, id=f"call_{len(messages)}")
    return None


def _is_wanted(name: str, question: Question) -> bool:
    is_calculation = question.find(EXPRESSION) is not None
    fits = "calculator" in name if is_calculation else "search" in name and question.text.endswith("?")
    return fits or bool(words_of(name) & words_of(question.text))


class _Filler:
    def __init__(self, question: Question) -> None:
        self._question = question
        # In their order, so that "add 20 and 22" fills a=20, b=22.
        numbers = re.findall(r"-?\d+(?:\.\d+)?", question.text)
        self._numbers: Iterator[float] = chain(map(float, numbers), repeat(1.0))

    def value(self, schema: Mapping[str, Any], name: str = "") -> Any:
        if "const" in schema:
            return schema["const"]
        if options := schema.get("enum"):
            return next((one for one in options if words_of(str(one)) & words_of(self._question.text)), options[0])
        if variants := schema.get("anyOf"):
            return self.value(next(one for one in variants if one.get("type") != "null"), name)
        match schema.get("type"):
            case "object":
                properties = schema.get("properties", {})
                return {key: self.value(properties[key], key) for key in schema.get("required", properties)}
            case "array":
                count = min(max(ITEMS, schema.get("minItems", 0)), schema.get("maxItems", ITEMS))
                return [self.value(schema.get("items", {}), f"{name} {number}") for number in range(1, count + 1)]
            case "integer":
                return int(self._number(schema, step=1))
            case "number":
                return self._number(schema, step=STEP)
            case "boolean":
                return True
        return self._text(name)[: schema.get("maxLength")]

    def _number(self, schema: Mapping[str, Any], step: float) -> float:
        low = max(schema.get("minimum", -inf), schema.get("exclusiveMinimum", -inf) + step)
        high = min(schema.get("maximum", inf), schema.get("exclusiveMaximum", inf) - step)
        value: float = min(max(next(self._numbers), low), high)
        multiple: float = schema.get("multipleOf", 0)
        return -(-value // multiple) * multiple if multiple else value

    def _text(self, name: str) -> str:
        if words_of(name) & words_of("answer explanation text content summary"):
            return reply(self._question)
        if name in EXAMPLES:
            return EXAMPLES[name]
        patterns = next((patterns for names, patterns in TEXTS.items() if words_of(name) & names), ())
        return self._question.find(*patterns) or f"{name} for “{self._question.subject}” (offline model)"
