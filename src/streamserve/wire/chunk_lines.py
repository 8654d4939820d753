"""JSON of message chunks that differ only in text and id from the chunk before, like nearly every token."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import orjson
from langchain_core.messages import AIMessageChunk

from streamserve.fast_paths import FastPath, note

NAME, SAVES = "message lines", "about 30 us of CPU per token of a chain that ends with a chat model"

# JSON escapes their first character, and a template with another such escape is rejected.
_TEXT, _ID = "\x01t", "\x01i"


class Template(NamedTuple):
    """A chunk and its JSON without content and id.

    Args:
        fields: the chunk's fields without content and id.
        opening: JSON before the content.
        middle: JSON between the content and the id.
        closing: JSON after the id.
    """

    fields: dict[str, Any]
    opening: bytes
    middle: bytes
    closing: bytes


class ChunkLines:
    """An encoder for the chunks of one chain, with a template."""

    def __init__(self) -> None:
        self._template: Template | None = None

    def line(self, chunk: AIMessageChunk) -> bytes | None:
        """Return the JSON of a chunk that fits the template; None for any other."""
        template, content, chunk_id = self._template, chunk.content, chunk.id
        if template is None or type(content) is not str or type(chunk_id) is not str or chunk.__pydantic_extra__:
            return None
        if {**chunk.__dict__, "content": None, "id": None} != template.fields:
            return None
        _, opening, middle, closing = template
        try:
            return b"%s%s%s%s%s" % (opening, orjson.dumps(content), middle, orjson.dumps(chunk_id), closing)
        except TypeError:  # a lone surrogate
            return None

    def learn(self, chunk: AIMessageChunk) -> None:
        """Make a chunk the template of the next ones, unless values equal to its own can have another JSON."""
        fields = {**chunk.__dict__, "content": None, "id": None}
        if chunk.__pydantic_extra__ or not _is_stable(fields):
            return
        whole = orjson.dumps({**chunk.model_dump(), "content": _TEXT, "id": _ID})
        opening, _, rest = whole.partition(orjson.dumps(_TEXT))
        middle, found, closing = rest.partition(orjson.dumps(_ID))
        if found and b"\\u0001" not in opening + middle + closing:
            # A copy, because the chain owns the chunk and may change it.
            self._template = Template(deepcopy(fields), opening, middle, closing)


@cache
def is_on(whole: Callable[[AIMessageChunk], bytes]) -> bool:
    """Return whether templates make the lines that chunks have by themselves; the first call of a process checks it.

    Args:
        whole: returns a chunk's line without a template.
    """
    try:
        found = _difference(whole)
    except Exception as error:  # a release may break anything
        found = repr(error)
    return note(FastPath(NAME, SAVES, found))


def _difference(whole: Callable[[AIMessageChunk], bytes]) -> str | None:
    lines = ChunkLines()
    for number, text in enumerate(("Cats", " purr", '".', "", "\u00fc\U0001f431")):
        chunk = AIMessageChunk(content=text, id=f"run-{number}", response_metadata={"model": "canned"})
        expected = whole(chunk)
        if number and (line := lines.line(chunk)) != expected:
            return f"{line!r} in place of {expected!r}"
        lines.learn(chunk)
    return None


def _is_stable(value: Any) -> bool:
    # 1 equals True and 1.0, but each has another JSON.
    if type(value) is dict:
        return all(type(key) is str and _is_stable(item) for key, item in value.items())
    return value is None or type(value) is str or (type(value) is list and all(map(_is_stable, value)))
