"""Requests in which one part grows: each header, each part of an address, each field of a body, whole bodies.

Each part is filled with texts that slow patterns and parsers. `pulse` of the server tells how long its loop was held.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any
from urllib.parse import quote

from streamserve.graphs.commands import MAX_TARGETS, MAX_VALUES, MAX_WRITES
from tests.faults import thread_growth
from tests.faults.attacks import ENDPOINTS, GOOD, MESSAGE, request
from tests.faults.grown import COUNTS, FILLERS, FIRST, HEAD, LENGTHS, TEXTS, TRY, Grown, copies, filled, posted
from tests.faults.thread_growth import commands, threads
from tests.frames import config_hash

HEADERS = [
    "Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Type", "Cookie", "Expect", "Forwarded",
    "Host", "Idempotency-Key", "Last-Event-ID", "Origin", "Range", "Run-On-Disconnect", "Run-Recover", "Upgrade",
    "Sec-Fetch-Site", "Traceparent", "Tracestate", "User-Agent", "Via", "X-API-Key", "X-Forwarded-For",
    "X-Forwarded-Proto", "X-Request-ID", "X-Unknown",
]  # fmt: skip


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
            f"/graph/threads/x/state?checkpoint_id={text}", f"/graph/threads/x/state?checkpoint_ns={text}",
            f"/graph/threads/x/history?checkpoint_ns={text}", f"/graph/threads/x/history?limit={text}",
            f"/static/{plain}", f"/runs/x?{text}", f"/runs/x/stream?after={text}", f"/runs/x?token={text}",
            f"/static/home.js?v={text}", f"/graph/threads/x/history?before={text}", f"/?{text}",
        ):  # fmt: skip
            yield Grown(f"path {path[:34]}", HEAD, request(path, b"", method="GET"))
        yield Grown(f"path of DELETE {plain[:20]}", HEAD, request(f"/graph/threads/{plain}", b"", method="DELETE"))
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


def text_fields(lengths: Sequence[int] = LENGTHS, texts: Sequence[str] = TEXTS) -> Iterator[Grown]:
    """Yield bodies with one grown text."""
    for name, path, body in (*_text_bodies(), *thread_growth.text_bodies(), *_other_bodies()):
        for length in lengths:
            # The largest are many: they tell what a long text costs, the middle ones what it holds.
            for filler in texts if length < 10**6 else texts[:1]:
                whole = posted(path, body(filled(filler, length)))
                if len(whole) < 4 * 2**20:
                    yield Grown(f"{path} {name}: {filler!r}", length, whole)


def counted_fields(counts: Sequence[int] = COUNTS) -> Iterator[Grown]:
    """Yield bodies with many values in one field."""
    for count in counts:
        many: dict[str, Any] = {
            "messages": {"messages": copies(MESSAGE, count)},
            "wrong messages": {"messages": copies({"type": "human", "content": {"a": 1}}, count)},
            "messages without a type": {"messages": copies({"content": "x"}, count)},
            "message pairs": {"messages": copies(["human", "x"], count)},
            "texts": {"messages": ["x"] * (count - 20)},
            "numbers": {"messages": [1] * (count - 20)},
            "blocks": {"messages": [{**MESSAGE, "content": copies({"type": "text", "text": "x"}, count)}]},
            "odd blocks": {"messages": [{**MESSAGE, "content": [{"type": str(n)} for n in range(count // 2)]}]},
            "tool calls": {
                "messages": [
                    {"type": "ai", "content": "", "tool_calls": copies({"name": "f", "args": {}, "id": "1"}, count)}
                ]
            },
            "removals": {"messages": [{"type": "remove", "id": str(n)} for n in range(count // 3)]},
            "keys": {str(number): 1 for number in range(count - 20)},
            "long integers": {"messages": [{**MESSAGE, "additional_kwargs": {"a": [10**999] * (count - 20)}}]},
            **{
                f"{most} {name}": one
                for most in (MAX_VALUES, MAX_WRITES, MAX_TARGETS, count)
                for name, one in commands(count, most).items()
            },
            "topics": {"topic": ["x"] * (count - 20)},
            "deep": json.loads("[" * 200 + "]" * 200),
            "deep objects": json.loads('{"a":' * 200 + "1" + "}" * 200),
            "wide and deep": [json.loads("[" * 200 + "]" * 200)] * (count // 201),
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
                    "tags": {"config": {"tags": ["x"] * (count - 20)}},
                    "metadata": {"config": {"metadata": {str(n): n for n in range(count - 20)}}},
                    "configurable": {"config": {"configurable": {str(n): n for n in range(count - 20)}}},
                    "config keys": {"config": {str(n): n for n in range(count - 20)}},
                    "kwargs": {"kwargs": {str(n): n for n in range(count - 20)}},
                    "keys beside": {str(n): n for n in range(count - 20)},
                    "stream modes": {"kwargs": {"stream_mode": ["values"] * (count - 20)}},
                    "output keys": {"kwargs": {"output_keys": ["messages"] * (count - 20)}},
                    "interrupts": {"kwargs": {"interrupt_before": ["answer"] * (count - 20)}},
                    "names": {"include_names": [str(n) for n in range(count - 20)]},
                }.items():
                    yield Grown(f"{path} {name}", count, request(path, json.dumps({key: whole, **beside}).encode()))
    wide = {"messages": ["x" * 1_000] * 13}
    body = json.dumps({"inputs": [wide] * 256}).encode()
    for chain in ("chat", "graph"):
        yield Grown(f"/{chain}/batch of long inputs", 256, request(f"/{chain}/batch", body))
    for count in (64, 256):
        for chain, good in GOOD.items():
            for name, one in (("good", good), ("wrong", {"messages": 1}), ("empty", {})):
                body = json.dumps({"inputs": [one] * count, "config": [{"tags": ["x"]}] * count}).encode()
                yield Grown(f"/{chain}/batch of {name} inputs", count, request(f"/{chain}/batch", body))


def keyed(length: int = LENGTHS[-1], count: int = COUNTS[-1]) -> Iterator[Grown]:
    """Yield large bodies whose run has a key, or can be recovered, each of them twice: as a run and as its replay."""
    large = {"text": [{**MESSAGE, "content": "a" * length}], "texts": ["x"] * (count - 20)}
    for (name, messages), endpoint, query in product(large.items(), ENDPOINTS, ("", "?wait=10")):
        key, path = f"Idempotency-Key: {name}-{endpoint}{query}", f"/graph/{endpoint}{query}"
        given: dict[str, Any] = {"messages": messages}
        body = {"inputs": [given]} if endpoint == "batch" else {"input": given}
        for part, number in (("run", TRY), ("replay", FIRST)):
            yield Grown(f"{path} keyed {name}: {part}", count, posted(path, body, f"{key}{number}"))
    for endpoint in ("stream", "runs"):
        for name, messages in {**large, "text": [{**MESSAGE, "content": "a" * 10**6}]}.items():
            sent = posted(f"/graph/{endpoint}", {"input": {"messages": messages}}, "Run-Recover: true")
            yield Grown(f"/graph/{endpoint} recovered {name}", count, sent)


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
    keyed,
    threads,
    text_fields,
)
