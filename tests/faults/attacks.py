"""Hostile requests made from a seed: the bytes of each, and the way a client sends them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal
from urllib.parse import quote

from tests.frames import config_hash

ENDPOINTS = ("invoke", "batch", "stream", "stream_log", "stream_events", "runs")
MESSAGE = {"type": "human", "content": "hi"}
GOOD: dict[str, Any] = {
    "greeting": {"topic": "cats"},
    "chat": {"messages": [MESSAGE]},
    "graph": {"messages": [MESSAGE]},
}
ODD: list[Any] = [
    None, True, -1, 1e308, 2**63, "", "\x00", "{", "{topic}" * 50, "\u2028", [], {}, [[]], [None], {"": None},
    "x" * 5000, {"__type__": "command", "resume": 1}, {"lc": 1, "type": "constructor", "id": ["os", "system"]},
    ["human", "hi"], {"role": "robot"}, {"type": "remove", "id": "__remove_all__"},
]  # fmt: skip
RAW = [
    b"NaN", b"-Infinity", b"9" * 5000, b"1e999999", b'"\xff\xfe"', b'"\\ud800"', b"[" * 9000, b'{"a":' * 300, b"\x00",
    b'{"input": 1, "input": 2}', b"[1,", b'"', b"\xef\xbb\xbf{}", b"[" + b"1," * 30_000 + b"1]", b"tru",
]  # fmt: skip
HEADERS = [
    "Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked\r\nContent-Length: 4", "Transfer-Encoding: gzip", "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-7", "Content-Type: multipart/form-data; boundary=x",
    "Idempotency-Key: " + "k" * 300, "Idempotency-Key: same", "Idempotency-Key:", "Last-Event-ID: -1",
    "Last-Event-ID: 99999999999999999999", "Last-Event-ID: \u0661", "Run-On-Disconnect: explode", "Run-Recover: true",
    "X-Long: " + "a" * 40_000, "X-Very-Long: " + "a" * 200_000, "Cookie: " + "a=b; " * 500, "Accept: \x01",
    "Host: evil.example\r\nHost: other", "Expect: 100-continue", "X-Bad\x00Name: 1", "Origin: null", "Range: bytes=0-",
]  # fmt: skip
BOMB = config_hash({"configurable": {"template": "a" * 2_000_000}})


@dataclass(frozen=True)
class Attack:
    """One request.

    Args:
        name: kind of the attack.
        sent: all bytes.
        ending: `answer`: wait for one; `leave`: go at once; `stall`: hold the rest back until the server closes.
        protocol: may be no HTTP request, so that the server may close without an answer.
    """

    name: str
    sent: bytes
    ending: Literal["answer", "leave", "stall"] = "answer"
    protocol: bool = False


def request(path: str, body: bytes, *headers: str, method: str = "POST", declared: int | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", *(() if _has(headers, "host") else ("Host: 127.0.0.1",))]
    if not _has(headers, "content-type"):
        lines.append("Content-Type: application/json")
    if not (_has(headers, "content-length") or _has(headers, "transfer-encoding")):
        lines.append(f"Content-Length: {len(body) if declared is None else declared}")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def _has(headers: tuple[str, ...], name: str) -> bool:
    return any(header.lower().startswith(f"{name}:") for header in headers)


def _target(rng: Random) -> tuple[str, str, str]:
    chain, endpoint = rng.choice(list(GOOD)), rng.choice(ENDPOINTS)
    return chain, endpoint, f"/{chain}/{endpoint}"


def _body(rng: Random, chain: str, endpoint: str) -> dict[str, Any]:
    given = GOOD[chain]
    return {"inputs": [given] * rng.randint(0, 3)} if endpoint == "batch" else {"input": given}


def good_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one request of each kind as (path, body), so that the server's late imports delay no attack."""
    for chain, given in GOOD.items():
        for endpoint in ENDPOINTS:
            yield f"/{chain}/{endpoint}", {"inputs": [given]} if endpoint == "batch" else {"input": given}


def bad_bytes(rng: Random) -> Attack:
    """Change, cut or double some bytes of a good body."""
    chain, endpoint, path = _target(rng)
    body = bytearray(json.dumps(_body(rng, chain, endpoint)).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body))
        body[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return Attack("bad bytes", request(path, bytes(body)))


def odd_value(rng: Random) -> Attack:
    """Put a value into a good body where it does not fit."""
    chain, endpoint, path = _target(rng)
    body = _body(rng, chain, endpoint)
    place = rng.choice(["input", "inputs", "config", "kwargs", "inside", "types", "configurable", "include_names"])
    if place == "inside":
        body[rng.choice(["input", "inputs"])] = rng.choice([{"messages": rng.choice(ODD)}, {"topic": rng.choice(ODD)}])
    elif place == "configurable":
        name = rng.choice(["template", "thread_id", "checkpoint_id", "__pregel_x"])
        body["config"] = {"configurable": {name: rng.choice(ODD)}, rng.choice(["tags", "recursion_limit"]): 1}
    else:
        body[place] = rng.choice(ODD)
    return Attack("odd value", request(path, json.dumps(body).encode()))


def raw_json(rng: Random) -> Attack:
    """Send invalid JSON, or too much of it."""
    _, endpoint, path = _target(rng)
    key = b"inputs" if endpoint == "batch" else b"input"
    value = rng.choice(RAW)
    return Attack("raw JSON", request(path, rng.choice([value, b'{"%s": %s}' % (key, value)])))


def batch_shapes(rng: Random) -> Attack:
    """Send a batch of inputs and configs of which some do not fit."""
    chain = rng.choice(list(GOOD))
    inputs = [rng.choice([GOOD[chain], rng.choice(ODD)]) for _ in range(rng.choice([0, 1, 3, 300]))]
    configs = rng.choice([None, [], [{}] * len(inputs), [rng.choice(ODD) for _ in inputs], rng.choice(ODD)])
    return Attack("batch", request(f"/{chain}/batch", json.dumps({"inputs": inputs, "config": configs}).encode()))


def broken_hash(rng: Random) -> Attack:
    """Send a config in the path that was changed, or that unpacks to megabytes."""
    chain, endpoint, _ = _target(rng)
    good = config_hash({"configurable": {rng.choice(["template", "x"]): rng.choice(["On {topic}", *ODD])}})
    at = rng.randrange(len(good))
    hashes = [good, good[:at], good[:at] + rng.choice("$-+%A/ \u00fc<'\"") + good[at:], BOMB, "A" * 5000, "%00", "%FF"]
    page = rng.choice(["playground/", "input_schema", "config_schema", None])
    coded = quote(rng.choice(hashes), safe="$+-%")
    if page:
        return Attack("hash", request(f"/{chain}/c/{coded}/{page}", b"", method="GET"))
    body = json.dumps(_body(rng, chain, endpoint)).encode()
    return Attack("hash", request(f"/{chain}/c/{coded}/{endpoint}", body))


def header_abuse(rng: Random) -> Attack:
    """Send headers that lie, repeat or never end."""
    chain, endpoint, path = _target(rng)
    body = json.dumps(_body(rng, chain, endpoint)).encode()
    headers = rng.sample(HEADERS, rng.randint(1, 2))
    return Attack("headers", request(path, body, *headers), protocol=True)


def strange_paths(rng: Random) -> Attack:
    """Ask for runs and threads that do not exist."""
    name = quote(
        rng.choice(["x", "..", "%", "\x00", "a" * 3000, "\u2028", "1/2", "00000000-0000-0000-0000-000000000000"])
    )
    path, method = rng.choice(
        [
            (f"/runs/{name}", "GET"), (f"/runs/{name}/stream?after=-1", "GET"),
            (f"/runs/{name}/output?wait=nan", "GET"), (f"/graph/threads/{name}/state", "GET"),
            (f"/runs/{name}/cancel?wait=1e9", "POST"), (f"/runs/{name}", "DELETE"), (f"/{name}/stream", "POST"),
            (f"/greeting/playground/{name}", "GET"), (f"/static/{name}?v={name}", "GET"), (f"/{name}", "PUT"),
        ]
    )  # fmt: skip
    return Attack("paths", request(path, b"", method=method))


def early_leave(rng: Random) -> Attack:
    """Leave after a part of the request, or before the answer."""
    chain, endpoint, path = _target(rng)
    whole = request(path, json.dumps(_body(rng, chain, endpoint)).encode())
    return Attack("leave", whole[: rng.randint(1, len(whole))], ending="leave")


def slow_body(rng: Random) -> Attack:
    """Declare more bytes than are sent, and wait."""
    _, _, path = _target(rng)
    return Attack("slow", request(path, b'{"inp', declared=rng.choice([50, 100_000])), ending="stall")


KINDS: list[Callable[[Random], Attack]] = [
    bad_bytes, odd_value, raw_json, batch_shapes, broken_hash, header_abuse, strange_paths, early_leave,
]  # fmt: skip


def attack(seed: int) -> Attack:
    """Return the attack of a seed; one in fifty holds its body back."""
    rng = Random(seed)
    return slow_body(rng) if seed % 50 == 0 else rng.choice(KINDS)(rng)


async def answer_to(attack: Attack, host: str, port: int) -> bytes:
    """Send an attack; return the answer up to its end or that of the connection."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = b""
    try:
        writer.write(attack.sent)
        await writer.drain()
        if attack.ending == "leave":
            return b""
        if writer.can_write_eof() and attack.protocol:
            writer.write_eof()
        while not _is_whole(answer) and (part := await reader.read(65536)):
            answer += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    finally:
        writer.close()
    return answer


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end or head.startswith(b"HTTP/1.1 100"):
        return False
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n") or b" 204 " in head[:20]


def fault_of(attack: Attack, answer: bytes) -> str:
    """Return the fault of an answer, or an empty text."""
    if attack.ending == "leave":
        return ""
    found = re.match(rb"HTTP/1.1 (\d+)", answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
    if not found:
        return "" if attack.protocol else "no answer"
    if int(found[1]) >= 500 or b'"status_code":500' in answer:
        return f"{found[1].decode()}: {answer[-300:]!r}"
    return "" if attack.ending != "stall" or found[1] in (b"408", b"400", b"404", b"422") else f"stalled: {found[1]!r}"
