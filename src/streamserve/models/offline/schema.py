"""Fills a JSON schema from a question: deterministic values that fit, with sensible text."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from math import inf
from typing import Any

from streamserve.models.offline.question import Question, words_of
from streamserve.models.offline.replies import NOTICE, choices, scene, spoken

Schema = Mapping[str, Any]

# A schema that contains itself ends here: deeper optional parts are left out, deeper lists are empty.
MAX_DEPTH = 4
# How far inside an exclusive bound of a number that need not be whole.
STEP = 0.001
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "P1D",
    "email": "reader@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}
_TEXTS: tuple[tuple[frozenset[str], Callable[[Question], str]], ...] = (
    (words_of("expression formula calculation equation arithmetic"), lambda q: q.expression or q.subject),
    (words_of("to recipient receiver"), lambda q: q.recipient),
    (words_of("location city place country town"), lambda q: q.place),
    (words_of("query search term keyword topic subject title name"), lambda q: q.subject),
    (words_of("question prompt input"), lambda q: q.text),
    (words_of("code snippet program"), lambda q: q.code or f"print({json.dumps(q.subject, ensure_ascii=False)})\n"),
    (words_of("language"), lambda q: q.language),
)
_PROSE: tuple[tuple[frozenset[str], Callable[[Question], str]], ...] = (
    (words_of("story scene"), scene),
    (words_of("answer explanation text content summary description joke reply message"), spoken),
)
_CHOICES = words_of("choices options")


class SchemaFiller:
    """Makes one value for a JSON schema.

    Args:
        root: the whole schema, where `$ref` points into.
        question: what the texts and numbers are taken from.
        optional: whether to fill properties that are not required too (default: no).
    """

    def __init__(self, root: Schema, question: Question, *, optional: bool = False) -> None:
        self._root = root
        self._question = question
        self._optional = optional
        self._noticed = False
        # Numbers are used in their order, so that "add 20 and 22" fills a=20, b=22.
        self._numbers: Iterator[float] = chain(question.numbers, repeat(1.0))

    def fill(self) -> Any:
        """The value."""
        return self._value(self._root, "", 0)

    def _value(self, schema: Schema, name: str, depth: int) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if options := schema.get("enum"):
            return self._option(options)
        makers: dict[str, Callable[[Schema, str, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "integer": lambda s, *_: int(self._number(s, step=1)),
            "number": lambda s, *_: self._number(s),
            "boolean": lambda *_: True,
            "null": lambda *_: None,
        }
        return makers.get(_type_of(schema), self._text)(schema, name, depth)

    def _resolve(self, schema: Schema) -> Schema:
        while True:
            if reference := schema.get("$ref"):
                schema = self._lookup(reference) | {k: v for k, v in schema.items() if k != "$ref"}
            elif variants := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
                schema = next((v for v in variants if _says_what(v)), variants[-1])
            else:
                return schema

    def _lookup(self, reference: str) -> dict[str, Any]:
        target: Any = self._root
        for key in reference.removeprefix("#").strip("/").split("/"):
            target = target[key] if key else target
        return dict(target)

    def _option(self, options: list[Any]) -> Any:
        named = (option for option in options if words_of(str(option)) & self._question.words)
        return next(named, options[0])

    def _object(self, schema: Schema, _name: str, depth: int) -> dict[str, Any]:
        wanted = set(schema.get("required", ()))
        if self._optional and depth < MAX_DEPTH:
            wanted |= set(schema.get("properties", ()))
        properties = schema.get("properties", {})
        return {key: self._value(part, key, depth + 1) for key, part in properties.items() if key in wanted}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self._value(item, name, depth + 1) for item in schema["prefixItems"]]
        items = schema.get("items", {"type": "string"})
        if words_of(name) & _CHOICES and self._resolve(items).get("type") == "string":
            return self._choices(schema)
        count = max(schema.get("minItems", 0), min(schema.get("maxItems", 1), int(depth < MAX_DEPTH)))
        return [self._value(items, name, depth + 1) for _ in range(count)]

    def _choices(self, schema: Schema) -> list[str]:
        offered = chain(choices(self._question), repeat(self._question.subject))
        count = min(max(3, schema.get("minItems", 0)), schema.get("maxItems", 3))
        return [choice for choice, _ in zip(offered, range(count), strict=False)]

    def _number(self, schema: Schema, step: float = STEP) -> float:
        low = max(schema.get("minimum", -inf), schema.get("exclusiveMinimum", -inf) + step)
        high = min(schema.get("maximum", inf), schema.get("exclusiveMaximum", inf) - step)
        value = min(max(next(self._numbers), low), high)
        if multiple := schema.get("multipleOf"):
            value = -(-value // multiple) * multiple
        return float(value)

    def _text(self, schema: Schema, name: str, _depth: int) -> str:
        text = _FORMATS.get(schema.get("format", "")) or self._named_text(name)
        return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")

    def _named_text(self, name: str) -> str:
        label = words_of(name)
        for names, make in _TEXTS:
            if label & names:
                return make(self._question)
        for names, make in _PROSE:
            if label & names:
                return self._with_notice(make(self._question))
        return f"{name.replace('_', ' ')} for “{self._question.subject}” (offline model)".strip()

    def _with_notice(self, text: str) -> str:
        noticed, self._noticed = self._noticed, True
        return text if noticed else f"{text}\n\n{NOTICE}"


def _says_what(schema: Schema) -> bool:
    # An empty schema stands where LangChain has cut a class that contains itself: null fits better there.
    return bool(schema) and schema.get("type") != "null"


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return kind or ("object" if "properties" in schema else "string")
