"""Calls that misbehave, each made from a seed: code that leaves, long texts, broken chains and bad requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from benchmarks.servers.misbehaving import MODULES
from tests.faults.attacks import ENDPOINTS, MESSAGE, Attack, attack, fault_of, request, slow_body
from tests.faults.growth import FILLERS, TEXTS
from tests.frames import ERROR_FIELDS, config_hash
from tests.leaving_chains import GRAPHS, LAMBDAS, WAYS, given

# Characters of a text that grows; 60,000 in a path are more than a head may have.
LENGTHS = (20_000, 60_000, 130_000)
TERMINAL = re.compile(rb"^event: (end|error)\r?\ndata: ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Misdeed:
    """One call that misbehaves.

    Args:
        attack: the request.
        codes: codes of the answers that are right; "" is a success. None: any answer of the server's own.
    """

    attack: Attack
    codes: frozenset[str] | None

    def fault_of(self, answer: bytes) -> str:
        """Return the fault of an answer, or an empty text."""
        code = code_of(answer)
        if self.codes is not None:
            return "" if code in self.codes else f"{code}: {answer[-300:]!r}"
        if code is None and not self.attack.protocol and self.attack.ending != "leave":
            return f"no typed answer: {answer[:300]!r}"
        return fault_of(self.attack, answer)


def code_of(answer: bytes) -> str | None:
    """Return the code of an answer's error, or of its terminal block; "" is a success, and None an untyped answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12] or 0)
    if b"text/event-stream" in head.lower():
        terminals = TERMINAL.findall(body)
        if len(terminals) != 1:
            return None
        ((event, data),) = terminals
        return str(json.loads(data)["code"]) if event == b"error" else ""
    if status < 400:
        return "" if status else None
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return str(said["code"]) if isinstance(said, dict) and said.keys() >= ERROR_FIELDS else None


def leaving(rng: Random) -> Misdeed:
    """Call a step, node or tool that exits, is interrupted, or raises a CancelledError or another BaseException."""
    name, way = rng.choice([*LAMBDAS, *GRAPHS]), rng.choice(list(WAYS))
    return _call(rng, f"leaves by {way}", name, given(name, way), "internal")


def holding(rng: Random) -> Misdeed:
    """Send a long text to what may read it with a pattern: a prompt, a config, a path, a header, the log."""
    return rng.choice((_long_input, _long_config, _long_hash, _long_path, _long_header, _long_exception))(rng)


def _long_input(rng: Random) -> Misdeed:
    text = _long_text(rng)
    name, value = rng.choice([("greeting", {"topic": text}), ("chat", {"messages": [{**MESSAGE, "content": text}]})])
    return _call(rng, "long input", name, value, "", "invalid_input")


def _long_config(rng: Random) -> Misdeed:
    config = {"configurable": {"template": _long_text(rng)}}
    return _call(rng, "long config", "greeting", {"topic": "cats"}, "", "invalid_input", config=config)


def _long_hash(rng: Random) -> Misdeed:
    path = f"/greeting/c/{_packed(rng.choice(TEXTS), rng.choice((30_000, 130_000)))}"
    sent = [request(f"{path}/input_schema", b"", method="GET"), request(f"{path}/stream", b'{"input": {"topic": "x"}}')]
    return Misdeed(Attack("long hash", rng.choice(sent)), frozenset({"", "bad_request", "invalid_input"}))


def _long_path(rng: Random) -> Misdeed:
    text = (rng.choice(["{:", "a", "%6b", "?token=", "eyJ-", "/", "://"]) * 60_000)[:60_000]
    path = rng.choice([f"/{text}", f"/runs/{text}", f"/greeting/c/{text}/input_schema", f"/?{text}"])
    return Misdeed(Attack("long path", request(path, b"", method="GET")), frozenset({"headers_too_large"}))


def _long_header(rng: Random) -> Misdeed:
    name = rng.choice(["Authorization", "Cookie", "X-Forwarded-For", "X-Request-ID", "Traceparent", "User-Agent"])
    text = (rng.choice(FILLERS) * 31_000)[:31_000]
    return Misdeed(Attack("long header", request("/greeting/invoke", b"{", f"{name}: {text}"), protocol=True), None)


def _long_exception(rng: Random) -> Misdeed:
    text = rng.choice([*TEXTS, "?token=", "://:@"])
    return _call(rng, "long exception", "loud", {"text": text, "times": rng.choice(LENGTHS) // len(text)}, "internal")


def broken(rng: Random) -> Misdeed:
    """Call a chain that could not be loaded or described, or whose schema, output or error cannot be made."""
    name = rng.choice([*MODULES, "shapeless", "moody", "tasks", "unwritable", "unprintable"])
    way = rng.choice(list(WAYS))
    if name == "moody":
        packed = config_hash({"configurable": {"mood": way}})
        sent = [request(f"/moody/c/{packed}/{page}", b"", method="GET") for page in ("input_schema", "playground/")]
        sent.append(request(f"/moody/c/{packed}/invoke", b'{"input": "x"}'))
        return Misdeed(Attack("no schema", rng.choice(sent)), frozenset({"internal"}))
    if name == "tasks":
        return _call(rng, name, name, {"todos": ["old"]}, "")
    if name == "unwritable":
        return _call(rng, name, name, "x", "invalid_output", "internal")
    return _call(rng, name, name, way, "internal" if name == "unprintable" else "not_found")


def bad(rng: Random) -> Misdeed:
    """Send bad JSON, a half body, wrong values, or headers that lie."""
    return Misdeed(slow_body(rng) if rng.random() < 0.1 else attack(rng.randrange(10**9)), None)


KINDS: tuple[Callable[[Random], Misdeed], ...] = (leaving, holding, broken, bad)


def misdeed(seed: int) -> Misdeed:
    """Return the call of a seed."""
    rng = Random(seed)
    return rng.choice(KINDS)(rng)


def _call(rng: Random, kind: str, chain: str, value: Any, *codes: str, **beside: Any) -> Misdeed:
    endpoint = rng.choice(ENDPOINTS)
    body = {"inputs": [value] * rng.randint(1, 3)} if endpoint == "batch" else {"input": value}
    sent = request(f"/{chain}/{endpoint}", json.dumps({**body, **beside}).encode())
    return Misdeed(Attack(kind, sent), frozenset(codes))


def _long_text(rng: Random) -> str:
    filler, length = rng.choice(TEXTS), rng.choice(LENGTHS)
    return filler * (length // len(filler))


@cache
def _packed(filler: str, length: int) -> str:
    return config_hash({"configurable": {"template": filler * (length // len(filler))}})


def warm() -> None:
    """Pack all long configs, which takes seconds: a client that packs reads no stream."""
    for filler in TEXTS:
        for length in (30_000, 130_000):
            _packed(filler, length)
