"""Requests in which one part grows: each header, each part of an address, each field of a body, whole bodies.

Each part is filled with texts that slow patterns and parsers. `pulse` of the server tells how long its loop was held.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

from tests.faults.attacks import ENDPOINTS, GOOD, MESSAGE, request
from tests.frames import config_hash

HEAD = 31 * 2**10  # bytes that a head may have beside the grown part
FILLERS = [
    "a", "1", " x", "key", "?token", "&a=", "{:", "{a}", "eyJ-", "eyJ.", "a=b; ", "a,", "://", "x://:", ".", "-",
    "/", "%6b", "Bearer ", '"', "(", "[", ";q=0.1,", "\t",
]  # fmt: skip
HEADERS = [
    "Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Expect", "Forwarded",
    "Host", "Idempotency-Key", "Last-Event-ID", "Origin", "Range", "Run-On-Disconnect", "Run-Recover", "Upgrade",
    "Sec-Fetch-Site", "Traceparent", "Tracestate", "User-Agent", "Via", "X-API-Key", "X-Forwarded-For",
    "X-Forwarded-Proto", "X-Request-ID", "X-Unknown",
]  # fmt: skip
TEXTS = [
    "a", "{", "{:", "{a}", "{{", "a1:", "\\", '"', "\n", "\n[1] a", " ", "question:", "about ", "1+", "(", "-", "\x00",
    "\u2028", "\u4e2d", "\U0001f600", "eyJ-", "?key", "://:", "e\u0301", "<script>", "&amp;", "%6b", "\t",
]  # fmt: skip
# Characters of a grown text, and items of a grown list.
LENGTHS = (20_000, 250_000, 4_150_000)
COUNTS = (1_000, 3_900)
LIMIT = 60.0  # seconds for an answer
ENOUGH = 0.02  # seconds: a gap that needs no second try


@dataclass(frozen=True)
class Grown:
    """One request.

    Args:
        name: the part that has grown.
        size: its characters or items.
        sent: all bytes.
    """

    name: str
    size: int
    sent: bytes


def filled(filler: str, length: int) -> str:
    """Return a text of about that length."""
    return filler * (length // len(filler))


def heads() -> Iterator[Grown]:
    """Yield requests with one grown header, or many."""
    body = json.dumps({"input": GOOD["greeting"]}).encode()
    for name in HEADERS:
        for filler in FILLERS:
            text = filled(filler, HEAD)
            yield Grown(f"header {name}: {filler}", HEAD, request("/greeting/stream", body, f"{name}: {text}"))
    for count, line in ((3_000, "A: b"), (1_500, "Cookie: a=b"), (900, "X-Forwarded-For: 127.0.0.1")):
        yield Grown(f"{count} headers {line}", count, request("/greeting/invoke", body, *[line] * count))


def addresses() -> Iterator[Grown]:
    """Yield requests with a grown path or query, on every kind of route."""
    body = json.dumps({"input": GOOD["greeting"]}).encode()
    for filler in FILLERS:
        text = quote(filled(filler, HEAD), safe="/&=%?.-;,")[:HEAD]
        plain = text.replace("?", "")
        for path in (
            f"/{plain}", f"/greeting/c/{plain}/input_schema", f"/runs/{plain}", f"/runs/{plain}/stream",
            f"/graph/threads/{plain}/state", f"/graph/threads/x/state/{plain}", f"/greeting/playground/{plain}",
            f"/static/{plain}", f"/runs/x?{text}", f"/runs/x/stream?after={text}", f"/runs/x?token={text}",
            f"/static/home.js?v={text}", f"/graph/threads/x/history?before={text}", f"/?{text}",
        ):  # fmt: skip
            yield Grown(f"path {path[:34]}", HEAD, request(path, b"", method="GET"))
        yield Grown(f"path of POST /greeting/c/ {filler}", HEAD, request(f"/greeting/c/{plain}/invoke", body))


def hashes() -> Iterator[Grown]:
    """Yield configs in a path that unpack to as much as they may, and to more."""
    body = json.dumps({"input": GOOD["greeting"]}).encode()
    for filler in TEXTS:
        for length in (30_000, 250_000):
            packed = config_hash({"configurable": {"template": filled(filler, length)}})
            name = f"hash of {filler!r}, {len(packed)} characters"
            for page in ("input_schema", "config_schema", "playground/index.html"):
                yield Grown(name, length, request(f"/greeting/c/{packed}/{page}", b"", method="GET"))
            for endpoint in ("invoke", "stream"):
                yield Grown(name, length, request(f"/greeting/c/{packed}/{endpoint}", body))


def _text_bodies() -> Iterator[tuple[str, str, Callable[[str], Any]]]:
    """Yield (name, path, function from a text to a body) for each field of each endpoint that takes a text."""
    for endpoint in ENDPOINTS:
        key, wrap = ("inputs", list) if endpoint == "batch" else ("input", lambda one: next(iter(one)))
        for chain, given in GOOD.items():
            path = f"/{chain}/{endpoint}"

            def body(value: Any, _key: str = key, _wrap: Any = wrap, **beside: Any) -> Any:
                return {_key: _wrap([value]), **beside}

            good = given
            if chain == "greeting":
                yield "topic", path, lambda text, body=body: body({"topic": text})
                yield "key of input", path, lambda text, body=body: body({text: 1, "topic": "x"})
                yield (
                    "template",
                    path,
                    lambda text, body=body: body({"topic": "x"}, config={"configurable": {"template": text}}),
                )
            else:
                yield "content", path, lambda text, body=body: body({"messages": [{**MESSAGE, "content": text}]})
                yield "role", path, lambda text, body=body: body({"messages": [{"role": text, "content": "x"}]})
                yield "message as text", path, lambda text, body=body: body({"messages": text})
                yield (
                    "block",
                    path,
                    lambda text, body=body: body(
                        {"messages": [{**MESSAGE, "content": [{"type": "text", "text": text}]}]}
                    ),
                )
            if chain == "graph":
                for name in ("thread_id", "checkpoint_id", "checkpoint_ns"):
                    yield (
                        name,
                        path,
                        lambda text, body=body, name=name, good=good: body(
                            good, config={"configurable": {"thread_id": "x", name: text}}
                        ),
                    )
                yield "goto", path, lambda text, body=body: body({"__type__": "command", "goto": text})
                yield "update key", path, lambda text, body=body: body({"__type__": "command", "update": {text: 1}})
                yield "resume", path, lambda text, body=body: body({"__type__": "command", "resume": text})
                for name in ("stream_mode", "output_keys", "interrupt_before", "durability"):
                    yield name, path, lambda text, body=body, name=name, good=good: body(good, kwargs={name: text})
            for name in ("run_name", "recursion_limit", "colour"):
                yield name, path, lambda text, body=body, name=name, good=good: body(good, config={name: text})
            yield "config key", path, lambda text, body=body, good=good: body(good, config={text: 1})
            yield (
                "configurable key",
                path,
                lambda text, body=body, good=good: body(good, config={"configurable": {text: 1}}),
            )
            yield "tag", path, lambda text, body=body, good=good: body(good, config={"tags": [text]})
            yield "metadata", path, lambda text, body=body, good=good: body(good, config={"metadata": {text: text}})
            yield "kwargs key", path, lambda text, body=body, good=good: body(good, kwargs={text: 1})
            yield "beside", path, lambda text, body=body, good=good: body(good, **{text: text})
            for name in ("include_names", "exclude_tags"):
                yield name, path, lambda text, body=body, name=name, good=good: body(good, **{name: [text]})


def _thread_bodies() -> Iterator[tuple[str, str, Callable[[str], Any]]]:
    state, history, at = (f"/graph/threads/x/{name}" for name in ("state", "history", "state/checkpoint"))
    yield "state content", state, lambda text: {"values": {"messages": [{**MESSAGE, "content": text}]}}
    yield "state key", state, lambda text: {"values": {text: 1}}
    yield "as_node", state, lambda text: {"values": {}, "as_node": text}
    yield "task_id", state, lambda text: {"values": {}, "task_id": text}
    yield "checkpoint_id", state, lambda text: {"values": {}, "checkpoint_id": text}
    yield "checkpoint_ns", state, lambda text: {"values": {}, "checkpoint": {"checkpoint_ns": text}}
    yield "checkpoint_ns", at, lambda text: {"checkpoint": {"checkpoint_ns": text}}
    yield "checkpoint_map", at, lambda text: {"checkpoint": {"checkpoint_map": {text: text}}}
    yield "before", history, lambda text: {"before": text}
    yield "metadata", history, lambda text: {"metadata": {text: text}}
    yield "types", state, lambda text: {"values": {"messages": []}, "types": {text: text}}


def text_fields(lengths: Sequence[int] = LENGTHS, texts: Sequence[str] = TEXTS) -> Iterator[Grown]:
    """Yield bodies with one grown text."""
    for name, path, body in (*_text_bodies(), *_thread_bodies(), *_other_bodies()):
        for length in lengths:
            # The largest are many: they tell what a long text costs, the middle ones what it holds.
            for filler in texts if length < 10**6 else texts[:1]:
                # The escapes of JSON make a body larger than its text.
                whole = json.dumps(body(filled(filler, length)), ensure_ascii=False).encode("utf-8", "replace")
                if len(whole) < 4 * 2**20:
                    yield Grown(f"{path} {name}: {filler!r}", length, request(path, whole))


def counted_fields(counts: Sequence[int] = COUNTS) -> Iterator[Grown]:
    """Yield bodies with many values in one field."""
    for count in counts:
        many: dict[str, Any] = {
            "messages": {"messages": [MESSAGE] * (count // 2)},
            "wrong messages": {"messages": [{"type": "human", "content": {"a": 1}}] * (count // 3)},
            "messages without a type": {"messages": [{"content": "x"}] * (count // 2)},
            "message pairs": {"messages": [["human", "x"]] * (count // 3)},
            "texts": {"messages": ["x"] * count},
            "numbers": {"messages": [1] * count},
            "blocks": {"messages": [{**MESSAGE, "content": [{"type": "text", "text": "x"}] * (count // 3)}]},
            "odd blocks": {"messages": [{**MESSAGE, "content": [{"type": str(n)} for n in range(count // 2)]}]},
            "tool calls": {
                "messages": [
                    {"type": "ai", "content": "", "tool_calls": [{"name": "f", "args": {}, "id": "1"}] * (count // 5)}
                ]
            },
            "removals": {"messages": [{"type": "remove", "id": str(n)} for n in range(count // 3)]},
            "keys": {str(number): 1 for number in range(count)},
            "topics": {"topic": ["x"] * count},
            "deep": json.loads("[" * 200 + "]" * 200),
            "deep objects": json.loads('{"a":' * 200 + "1" + "}" * 200),
            "wide and deep": [json.loads("[" * 200 + "]" * 200)] * (count // 200),
        }
        for endpoint in ENDPOINTS:
            key = "inputs" if endpoint == "batch" else "input"
            for chain, good in GOOD.items():
                path = f"/{chain}/{endpoint}"
                for name, value in many.items():
                    body = {key: [value] if endpoint == "batch" else value}
                    yield Grown(f"{path} {name}", count, request(path, json.dumps(body).encode()))
                whole = [good] if endpoint == "batch" else good
                for name, beside in {
                    "tags": {"config": {"tags": ["x"] * count}},
                    "metadata": {"config": {"metadata": {str(n): n for n in range(count)}}},
                    "configurable": {"config": {"configurable": {str(n): n for n in range(count)}}},
                    "config keys": {"config": {str(n): n for n in range(count)}},
                    "kwargs": {"kwargs": {str(n): n for n in range(count)}},
                    "keys beside": {str(n): n for n in range(count)},
                    "names": {"include_names": [str(n) for n in range(count)]},
                }.items():
                    yield Grown(f"{path} {name}", count, request(path, json.dumps({key: whole, **beside}).encode()))
    for count in (64, 256):
        for chain, good in GOOD.items():
            for name, one in (("good", good), ("wrong", {"messages": 1}), ("empty", {})):
                body = json.dumps({"inputs": [one] * count, "config": [{"tags": ["x"]}] * count}).encode()
                yield Grown(f"/{chain}/batch of {name} inputs", count, request(f"/{chain}/batch", body))


def raw_bodies(size: int = 4 * 2**20 - 1000) -> Iterator[Grown]:
    """Yield bodies of the largest size that are no JSON, or JSON that costs."""
    for name, filler in {
        "spaces": b" ", "brackets": b"[", "quotes": b'"', "backslashes": b"\\", "escaped quotes": b'\\"',
        "commas": b",",
        "nulls": b"\x00", "bad UTF-8": b"\xff", "digits": b"9", "strings": b'"a" ', "braces": b"{}", "letters": b"a",
    }.items():  # fmt: skip
        for begin, end in ((b"", b""), (b'{"input": "', b'"}'), (b'{"input": ', b"}")):
            for path in ("/greeting/invoke", "/chat/stream", "/graph/threads/x/state"):
                whole = begin + filler * (size // len(filler)) + end
                yield Grown(f"{path} {begin.decode()}{name}", size, request(path, whole))


def _other_bodies() -> Iterator[tuple[str, str, Callable[[str], Any]]]:
    yield "allow", "/runs/x/share", lambda text: {"allow": [text]}
    yield "expires_in", "/runs/x/share", lambda text: {"expires_in": text}
    yield "body", "/runs/x/cancel", lambda text: {text: text}


KINDS: tuple[Callable[[], Iterator[Grown]], ...] = (
    heads,
    addresses,
    hashes,
    counted_fields,
    raw_bodies,
    text_fields,
)


def held(url: str, grown: Grown, tries: int = 4) -> tuple[float, int]:
    """Send a request; return the longest time for which it held the server's loop, in seconds, and its status.

    A busy machine makes a gap longer, never shorter: the shortest of several tries counts.
    """
    gaps = []
    place = urlsplit(url)
    assert place.hostname
    with closing(HTTPConnection(place.hostname, place.port, timeout=LIMIT)) as connection:
        for _ in range(tries):
            _pulse(connection)
            status = _status(place.hostname, place.port, grown.sent)
            gaps.append(_pulse(connection))
            if gaps[-1] < ENOUGH:
                break
    return min(gaps), status


def _pulse(connection: HTTPConnection) -> float:
    connection.request("GET", "/pulse")
    return float(connection.getresponse().read())


def _status(host: str, port: int | None, sent: bytes) -> int:
    answer = b""
    with socket.create_connection((host, port), timeout=LIMIT) as connection:
        try:
            connection.sendall(sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            while part := connection.recv(65536):
                answer = answer or part
        except OSError:
            pass
    return int(answer[9:12] or 0)
