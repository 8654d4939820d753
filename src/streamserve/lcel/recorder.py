"""The observation of a stream, in a form that can be compared with that of another stream of the same chain."""

import re
from collections.abc import AsyncIterator, Sequence
from itertools import zip_longest
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from pydantic import BaseModel

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_ID_LENGTH = 36
SHOWN = 160  # characters of a difference
_VOLATILE = re.compile(r"0x[0-9a-f]+|\d{4}-\d\d-\d\dT[\d:.+]+")
CALLS = (
    *(f"on_{kind}_{event}" for kind in ("chain", "llm", "tool", "retriever") for event in ("start", "end", "error")),
    *("on_chat_model_start", "on_custom_event", "on_llm_new_token", "on_text", "on_retry"),
)


def comparable(shown: Sequence[Any], *, ordered: bool = True) -> list[Any]:
    """Return values as plain ones, with their run ids numbered in order of appearance, or all alike without an order.

    The text of a message takes a hundred times as long as its fields.
    """
    ids: dict[str, str] = {}
    forms = [_form(each, ids if ordered else None) for each in shown]
    return forms if ordered else sorted(forms, key=repr)


def difference(ours: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    """Return the first difference of two comparable sequences as a text, or None."""
    for one, other in zip_longest(ours, theirs, fillvalue="nothing"):
        if one != other:
            return f"{_part(str(one), str(other))} in place of {_part(str(other), str(one))}"
    return None


def _part(text: str, other: str) -> str:
    """Return the part of a text from where it differs."""
    start = next((place for place, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    return text[max(0, start - 20) :][:SHOWN]


def _form(value: Any, ids: dict[str, str] | None) -> Any:
    kind = type(value)
    if isinstance(value, str):  # LangChain has a subclass of its own
        return str.__str__(value) if len(value) < _ID_LENGTH else _text(value, ids)
    if value is None or kind is int:
        return value
    if kind in (bool, float):  # 1 equals True and 1.0
        return kind.__name__, value
    if isinstance(value, dict):
        return {key: _form(item, ids) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return kind.__name__, [_form(item, ids) for item in value]
    if isinstance(value, BaseModel):
        fields = {**value.__dict__, **(value.__pydantic_extra__ or {})}
        return kind.__name__, {name: _form(item, ids) for name, item in fields.items()}
    return kind.__name__, _text(repr(value), ids)


def _text(text: str, ids: dict[str, str] | None) -> str:
    def number(found: re.Match[str]) -> str:
        return "run" if ids is None else ids.setdefault(found[0], f"run-{len(ids)}")

    return _VOLATILE.sub("", ID.sub(number, text))


class Calls:
    """The calls of a handler."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep one call; an error as its text, because each run raises its own exception."""
        shown = [repr(each) if isinstance(each, BaseException) else each for each in args]
        self.calls.append((name, shown, sorted(kwargs.items())))


class Recorder(Calls, BaseCallbackHandler):
    """A synchronous handler that keeps all calls."""

    run_inline = True


class ThreadRecorder(Calls, BaseCallbackHandler):
    """The same, not inline: LangChain calls it in an OS thread."""


class AsyncTokens(Calls, AsyncCallbackHandler):
    """An asynchronous handler that keeps its tokens."""

    async def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        """Keep a token."""
        self.note("on_llm_new_token", args, kwargs)


def _recorded(name: str) -> Any:
    return lambda self, *args, **kwargs: self.note(name, args, kwargs)


for _name in CALLS:
    setattr(Recorder, _name, _recorded(_name))
    setattr(ThreadRecorder, _name, _recorded(_name))


async def until_the_end(stream: AsyncIterator[Any]) -> list[Any]:
    """Return the items of a stream, with its error as the last one."""
    shown: list[Any] = []
    try:
        async for each in stream:
            shown += [each]
    except Exception as error:
        shown.append((type(error), str(error)))
    return shown
