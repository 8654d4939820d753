"""Make message chunks without validation, once a similar chunk was validated.

Nearly every token of a stream is a chunk that differs from the one before only in its text. The first chunk is
validated. The next ones are copies of it if everything else is equal: either their parsed JSON, or the text of their
JSON, which then is not parsed. `decode` makes all other chunks.
"""

import re
from typing import Any, NamedTuple

import orjson
from langchain_core.messages import AIMessageChunk

from streamserve_sdk.private_names.pydantic import can_copy, unvalidated

# Validation keeps these values. Values of other types may be equal and yet differ (1 and True), or be shared by copies.
_EMPTY: dict[type, Any] = {list: [], dict: {}}
# A server's chunk begins like this: the text is its first field.
_OPENING = b'{"content":'
_BEGINNING = re.compile(rb'\{"content":"(?:[^"\\]|\\.)*+"')


class Template(NamedTuple):
    """A validated chunk that others are copied from.

    Args:
        rest: the chunk's parsed JSON without content and id.
        fields: the chunk's fields after validation.
        lists: the names of the fields that are empty lists; each copy gets its own lists.
        dicts: the names of the fields that are empty dicts; each copy gets its own dicts.
        given: the names of the fields that were in the JSON.
    """

    rest: dict[str, Any]
    fields: dict[str, Any]
    lists: tuple[str, ...]
    dicts: tuple[str, ...]
    given: set[str]


class Spelling(NamedTuple):
    """The text of a chunk's JSON around content and id.

    Args:
        template: the chunk to copy.
        middle: the text from the end of the content to the start of the id.
        closing: the text from the end of the id.
    """

    template: Template
    middle: bytes
    closing: bytes


class Ending(NamedTuple):
    """The text at the end of all chunks of one stream.

    Args:
        template: the chunk to copy.
        text: the text from the end of the content.
        id: the id of the chunks.
    """

    template: Template
    text: bytes
    id: str


class MessageChunks:
    """A maker of chunks from JSON; one serves all streams, because a server's streams are alike."""

    def __init__(self) -> None:
        """Start without a template."""
        self._template: Template | None = None
        self._spelling: Spelling | None = None
        self._is_spelled = False
        self._ending: Ending | None = None

    def read(self, data: bytes) -> AIMessageChunk | None:
        """Return the chunk of a JSON text that is spelled like the one before, else None.

        Args:
            data: the JSON text.
        """
        if not data.startswith(_OPENING):
            return None
        ending = self._ending  # read once: another OS thread may change it
        if ending is None or not data.endswith(ending.text):  # several streams alternate, but rarely at every chunk
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
        """Return a copy of the template with this chunk's text and id, or None if the chunk differs in more.

        Args:
            value: the chunk's parsed JSON, with the tag `AIMessageChunk`.
            data: the chunk's JSON text, if it is known.
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
    """Return a chunk's spelling if replacing content and id in its text changes exactly these two fields."""
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
