"""Replay the callbacks that a server reports with an answer on the caller's handlers."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks.base import BaseCallbackHandler
from langchain_core.callbacks.manager import ahandle_event, handle_event

from streamserve_sdk.codec import decode

# An event's name -> the attribute with which a handler ignores the event.
IGNORED_BY = {
    f"on_{kind}_{moment}": f"ignore_{reason}"
    for kind, reason in (
        ("chain", "chain"),
        ("chat_model", "chat_model"),
        ("llm", "llm"),
        ("retriever", "retriever"),
        ("tool", "agent"),
    )
    for moment in ("start", "end", "error")
}
# LangChain reads these by their place, for handlers that know only `on_llm_start`.
_BY_PLACE = {"on_chat_model_start": ("serialized", "messages")}


class RemoteCallbackError(Exception):
    """An error that the server reported in a callback; its details stay there."""


def replay(handlers: list[BaseCallbackHandler], parent: UUID, events: Any) -> None:
    """Call the handlers with a server's callback events.

    Args:
        handlers: the caller's handlers.
        parent: the id of the local run that is the parent of the remote runs.
        events: the field `callback_events` of an answer.
    """
    for name, arguments in _calls(parent, events):
        handle_event(handlers, name, IGNORED_BY[name], *_first(name, arguments), **arguments)


async def areplay(handlers: list[BaseCallbackHandler], parent: UUID, events: Any) -> None:
    """Call the handlers with a server's callback events; arguments are those of `replay`."""
    for name, arguments in _calls(parent, events):
        await ahandle_event(handlers, name, IGNORED_BY[name], *_first(name, arguments), **arguments)


def _calls(parent: UUID, events: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    ids: dict[str | None, UUID] = {None: parent}
    for event in events if isinstance(events, list) else []:
        if isinstance(event, dict) and event.get("type") in IGNORED_BY and event.get("run_id"):
            yield event["type"], _arguments(event, ids)


def _first(name: str, arguments: dict[str, Any]) -> list[Any]:
    return [arguments.pop(key, None) for key in _BY_PLACE.get(name, ())]


def _arguments(event: dict[str, Any], ids: dict[str | None, UUID]) -> dict[str, Any]:
    arguments = {key: decode.loadd(value) for key, value in event.items() if key not in ("type", "kwargs")}
    arguments |= event.get("kwargs") or {}
    for key in ("run_id", "parent_run_id"):
        # Fresh ids: the same answer may be replayed on two handlers' run trees.
        arguments[key] = ids.setdefault(event.get(key), uuid4())
    if event["type"].endswith("_error"):
        error = event.get("error") or {}
        arguments["error"] = RemoteCallbackError(f"{error.get('status_code')}: {error.get('message')}")
    return arguments
