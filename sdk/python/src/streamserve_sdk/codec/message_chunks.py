"""Message chunks without validation, where it has said once what it makes of their like.

Nearly every token of a stream is a chunk that differs from the one before in its text only. The first is validated;
the next are copies of it, as long as all else is equal: its JSON, or even the text of its JSON, which then need not be
parsed. `decode` makes whatever this module leaves.
"""

import re
from typing import Any, NamedTuple

import orjson
from langchain_core.messages import AIMessageChunk

from streamserve_sdk.private_names.pydantic import can_copy, unvalidated

# What validation takes as it is. Values of other types can be equal and differ (1 and True), or be shared by copies.
_EMPTY: dict[type, Any] = {list: [], dict: {}}
# How a server's chunk begins: the text is its first field.
_OPENING = b'{"content":'
_BEGINNING = re.compile(rb'\{"content":"(?:[^"\\]|\\.)*+"')


class Template(NamedTuple):
    """A validated chunk that others are copied from.

    Args:
        rest: its JSON without what may differ.
        fields: what validation made of it.
        lists: names of the fields that are empty lists, of which each copy has its own.
        dicts: and of those that are empty dicts.
        given: names of the fields that were in the JSON.
    """

    rest: dict[str, Any]
    fields: dict[str, Any]
    lists: tuple[str, ...]
    dicts: tuple[str, ...]
    given: set[str]


class Spelling(NamedTuple):
    """The text of a chunk's JSON around what may differ.

    Args:
        template: what it is copied from.
        middle: from behind the content up to the first letter of the id.
        closing: from the quotation mark behind the id.
    """

    template: Template
    middle: bytes
    closing: bytes


class Ending(NamedTuple):
    """How the chunks of one stream end.

    Args:
        template: what they are copied from.
        text: all that is behind the content.
        id: theirs.
    """

    template: Template
    text: bytes
    id: str


class MessageChunks:
    """Makes chunks of JSON; one for all streams, because streams of a server are alike."""

    def __init__(self) -> None:
        """Know no chunk yet."""
        self._template: Template | None = None
        self._spelling: Spelling | None = None
        self._is_spelled = False
        self._ending: Ending | None = None

    def read(self, data: bytes) -> AIMessageChunk | None:
        """Return the chunk of a JSON text that is spelled as the one before, or None.

        Args:
            data: the JSON text.
        """
        if not data.startswith(_OPENING):
            return None
        ending = self._ending  # once: another thread may change it
        if ending is None or not data.endswith(ending.text):  # streams come in turns, but rarely at every chunk
            ending = _ending(self._spelling, data)
            if ending is None:
                return None
            self._ending = ending
        try:
            content = orjson.loads(data[len(_OPENING) : -len(ending.text)])
        except ValueError:
            return None
        return _copy(ending.template, content, ending.id) if type(content) is str else None

    def make(self, value: dict[str, Any], data: bytes | None = None) -> AIMessageChunk | None:
        """Return the chunk, or None if it takes more than a copy.

        Args:
            value: the chunk as a JSON parser made it, with the tag `AIMessageChunk`.
            data: the text that it was made of.
        """
        rest = value.copy()
        content, chunk_id = rest.pop("content", None), rest.pop("id", None)
        if type(content) is not str or type(chunk_id) is not str:
            return None
        template = self._template
        if template is None or template.rest != rest:
            return self._validated(value, rest)
        if data is not None and not self._is_spelled:
            self._spelling, self._is_spelled = _spelling(template, data, value), True
        return _copy(template, content, chunk_id)

    def _validated(self, value: dict[str, Any], rest: dict[str, Any]) -> AIMessageChunk | None:
        if not all(map(_is_plain, rest.values())):
            return None
        chunk = AIMessageChunk(**value)
        fields = chunk.__dict__
        if can_copy(chunk) and all(map(_is_plain, fields.values())):
            lists, dicts = (tuple(name for name, item in fields.items() if type(item) is kind) for kind in _EMPTY)
            self._spelling, self._is_spelled = None, False
            self._template = Template(rest, fields.copy(), lists, dicts, chunk.model_fields_set.copy())
        return chunk


def _copy(template: Template, content: str, chunk_id: str) -> AIMessageChunk:
    fields = template.fields.copy()
    for name in template.lists:
        fields[name] = []
    for name in template.dicts:
        fields[name] = {}
    fields["content"], fields["id"] = content, chunk_id
    return unvalidated(AIMessageChunk, fields, template.given.copy())


def _spelling(template: Template, data: bytes, value: dict[str, Any]) -> Spelling | None:
    """Return how a chunk is spelled, if another content and id in their places make another content and id."""
    beginning, (before, found, after) = _BEGINNING.match(data), data.rpartition(b'"id":"%s"' % value["id"].encode())
    if beginning is None or not found or len(before) < beginning.end():
        return None
    spelling = Spelling(template, before[beginning.end() :] + b'"id":"', b'"' + after)
    probe = _OPENING + b'"a"' + spelling.middle + b"b" + spelling.closing
    try:
        return spelling if orjson.loads(probe) == {**value, "content": "a", "id": "b"} else None
    except ValueError:
        return None


def _ending(spelling: Spelling | None, data: bytes) -> Ending | None:
    if spelling is None or not data.endswith(spelling.closing):
        return None
    after = len(data) - len(spelling.closing)
    at = data.rfind(b'"', 0, after) + 1
    if not data.endswith(spelling.middle, len(_OPENING), at):
        return None
    try:
        chunk_id = orjson.loads(b'"%s"' % data[at:after])
    except ValueError:
        return None
    return Ending(spelling.template, data[at - len(spelling.middle) :], chunk_id)


def _is_plain(value: Any) -> bool:
    return value is None or type(value) is str or _EMPTY.get(type(value)) == value
