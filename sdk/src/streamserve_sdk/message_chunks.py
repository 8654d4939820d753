"""Message chunks without validation, where it has said once what it makes of their like.

Nearly every token of a stream is a chunk that differs from the one before in its text only. The first is validated;
the next are copies of it, as long as all else is equal. `loadd` of `decode` makes whatever this module leaves.
"""

from typing import Any, NamedTuple

from langchain_core.messages import AIMessageChunk

# What validation takes as it is. Values of other types can be equal and differ (1 and True), or be shared by copies.
_EMPTY: dict[type, Any] = {list: [], dict: {}}
_SET = object.__setattr__


class Template(NamedTuple):
    """A validated chunk that others are copied from.

    Args:
        rest: its JSON without what may differ.
        fields: what validation made of it.
        containers: the fields that are empty lists and dicts, of which each copy has its own.
        given: names of the fields that were in the JSON.
    """

    rest: dict[str, Any]
    fields: dict[str, Any]
    containers: tuple[tuple[str, type], ...]
    given: set[str]


class MessageChunks:
    """Makes chunks of JSON; one for all streams, because streams of a server are alike."""

    def __init__(self) -> None:
        """Know no chunk yet."""
        self._template: Template | None = None

    def make(self, value: dict[str, Any]) -> AIMessageChunk | None:
        """Return the chunk, or None if it takes more than a copy.

        Args:
            value: the chunk as a JSON parser made it, with the tag `AIMessageChunk`.
        """
        rest = value.copy()
        content, chunk_id = rest.pop("content", None), rest.pop("id", None)
        if type(content) is not str or type(chunk_id) is not str:
            return None
        template = self._template
        if template is None or template.rest != rest:
            return self._validated(value, rest)
        fields = template.fields.copy()
        for name, kind in template.containers:
            fields[name] = kind()
        fields["content"], fields["id"] = content, chunk_id
        chunk = AIMessageChunk.__new__(AIMessageChunk)
        _SET(chunk, "__dict__", fields)
        _SET(chunk, "__pydantic_fields_set__", template.given.copy())
        _SET(chunk, "__pydantic_extra__", {})
        _SET(chunk, "__pydantic_private__", None)
        return chunk

    def _validated(self, value: dict[str, Any], rest: dict[str, Any]) -> AIMessageChunk | None:
        if not all(map(_is_plain, rest.values())):
            return None
        chunk = AIMessageChunk(**value)
        fields = chunk.__dict__
        is_whole = chunk.__pydantic_extra__ == {} and chunk.__pydantic_private__ is None
        if is_whole and all(map(_is_plain, fields.values())):
            containers = tuple((name, type(item)) for name, item in fields.items() if type(item) in _EMPTY)
            self._template = Template(rest, fields.copy(), containers, chunk.__pydantic_fields_set__.copy())
        return chunk


def _is_plain(value: Any) -> bool:
    return value is None or type(value) is str or _EMPTY.get(type(value)) == value
