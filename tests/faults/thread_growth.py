"""Requests to a graph's threads in which one part grows, and requests to threads that one request has filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from streamserve.api.threads.requests import MAX_PAGE, MAX_SUPERSTEPS
from streamserve.graphs.commands import MAX_TARGETS, MAX_VALUES, MAX_WRITES
from tests.faults.attacks import MESSAGE, request
from tests.faults.grown import COUNTS, FIRST, LENGTHS, TRY, Grown, copies, posted

# With an id, so that a second try replaces the message.
NAMED = {**MESSAGE, "id": "1"}
TOOL_CALL = {"name": "f", "args": {}, "id": "1"}
UPDATE = {"values": {"messages": ["x"]}, "as_node": "answer"}


def text_bodies() -> Iterator[tuple[str, str, Callable[[str], Any]]]:
    """Yield (name, path, function from a text to a body) for each field that takes a text."""
    state, history, at = (f"/graph/threads/x/{name}" for name in ("state", "history", "state/checkpoint"))
    yield "state content", state, lambda text: {"values": {"messages": [{**NAMED, "content": text}]}}
    yield "state key", state, lambda text: {"values": {text: 1}}
    yield "as_node", state, lambda text: {"values": {}, "as_node": text}
    yield "task_id", state, lambda text: {"values": {}, "task_id": text}
    yield "checkpoint_id", state, lambda text: {"values": {}, "checkpoint_id": text}
    yield "checkpoint_ns", state, lambda text: {"values": {}, "checkpoint": {"checkpoint_ns": text}}
    yield "thread_id", state, lambda text: {"values": {}, "checkpoint": {"thread_id": text}}
    yield "checkpoint_ns", at, lambda text: {"checkpoint": {"checkpoint_ns": text}}
    yield "checkpoint_map", at, lambda text: {"checkpoint": {"checkpoint_map": {text: text}}}
    yield "before", history, lambda text: {"before": text}
    yield "metadata", history, lambda text: {"metadata": {text: text}}
    yield "checkpoint_ns", history, lambda text: {"checkpoint": {"checkpoint_ns": text}}
    yield "types", state, lambda text: {"values": {"messages": []}, "types": {text: text, f"/{text}": "decimal"}}


def counted_bodies(count: int) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, last part of the path, body) for each field that takes many values; two sizes of bounded ones."""
    many = {str(number): "1" for number in range(count - 20)}
    yield "values", "state", {"values": many}
    yield "types", "state", {"values": {"messages": []}, "types": {f"/messages/{key}": "decimal" for key in many}}
    yield "checkpoint_map", "state/checkpoint", {"checkpoint": {"checkpoint_map": many}}
    yield "metadata", "history", {"metadata": many}
    for most in (MAX_SUPERSTEPS, count):
        steps = copies({"updates": [UPDATE]}, count)[:most]
        texts = ["x"] * ((count - 7 * len(steps)) // len(steps))
        wide = {**UPDATE, "values": {"messages": ["x", *texts]}}
        yield f"{most} supersteps", "state", {"supersteps": [{"updates": [wide]}] * len(steps)}
    for most in (MAX_VALUES, MAX_WRITES, MAX_TARGETS, count):
        yield f"{most} updates", "state", {"supersteps": [{"updates": copies(UPDATE, count)[:most]}]}
        yield f"{most} pairs", "state", {"values": commands(count, most)["pairs"], "as_node": "answer"}
        yield f"{most} targets", "state", {"values": commands(count, most)["targets"], "as_node": "answer"}


def commands(count: int, most: int) -> dict[str, Any]:
    """Return commands by name: of many writes, of many targets and of many inputs for a node."""
    pairs = copies(["messages", ["x"]], count)[:most]
    texts = ["x"] * ((count - 4 * len(pairs)) // len(pairs))
    fields = {
        "pairs": {"update": [["messages", ["x", *texts]]] * len(pairs)},
        "targets": {"goto": ["answer"] * min(most, count - 20)},
        "sends": {"goto": copies({"node": "answer", "arg": {"messages": []}}, count)[:most]},
        "resume": {"resume": {f"{number:032x}": 1 for number in range(count - 20)}},
    }
    return {name: {"__type__": "command", **field} for name, field in fields.items()}


def contents(count: int, length: int) -> dict[str, list[Any]]:
    """Return the messages with which one request can fill a thread."""
    return {
        "texts": ["x"] * (count - 20),
        "messages": copies(MESSAGE, count),
        "blocks": [{**MESSAGE, "content": copies({"type": "text", "text": "x"}, count)}],
        "tool calls": [{"type": "ai", "content": "", "tool_calls": copies(TOOL_CALL, count)}],
        "one large text": [{**MESSAGE, "content": "a" * length}],
        "large texts": ["a" * (length // 100)] * 100,
    }


def threads(counts: Sequence[int] = COUNTS, length: int = LENGTHS[-1]) -> Iterator[Grown]:
    """Yield updates of many values, and all requests to threads that one request has filled."""
    for count in counts:
        for name, end, body in counted_bodies(count):
            thread = f"{name}-{count}-"
            yield Grown(f"thread: {name}", count, posted(f"{_path(thread)}{TRY}/{end}", body))
            yield from _requests(f"{thread}{FIRST}", count)
        for name, messages in contents(count, length).items():
            thread = f"{name}-{count}-"
            fill = posted(f"{_path(thread)}{TRY}/state", {"values": {"messages": messages}})
            yield Grown(f"thread: {name}", count, fill)
            yield from _requests(f"{thread}{FIRST}", count)


def _path(thread: str) -> str:
    return f"/graph/threads/{quote(thread)}"


def _requests(thread: str, count: int) -> Iterator[Grown]:
    path = _path(thread)
    turn = {"input": {"messages": [NAMED]}, "config": {"configurable": {"thread_id": thread}}}
    sent = {
        "state": request(f"{path}/state", b"", method="GET"),
        "state with subgraphs": request(f"{path}/state?subgraphs=true", b"", method="GET"),
        "state at": posted(f"{path}/state/checkpoint", {"checkpoint": {}}),
        "turn": posted("/graph/invoke", turn),
        "streamed turn": posted("/graph/stream", turn),
        "events of a turn": posted("/graph/stream_events", turn),
        "update": posted(f"{path}/state", {"values": {"messages": [NAMED]}}),
        "removal": posted(f"{path}/state", {"values": {"messages": [{"type": "remove", "id": "1"}]}}),
        "history": request(f"{path}/history?limit={MAX_PAGE}", b"", method="GET"),
        "search": posted(f"{path}/history", {"limit": MAX_PAGE, "metadata": {"source": "update"}}),
        "delete": request(path, b"", method="DELETE"),
    }
    for name, request_bytes in sent.items():
        yield Grown(f"filled thread {thread}: {name}", count, request_bytes)
